//! From messages to the model's types. A message that does not parse is refused here, naming the field.
//!
//! One file for each family of RPCs. Requests for jobs implement [`job::JobMessage`] for the fields that all of them
//! have, and one function for each RPC makes the job's spec of the others.

pub(crate) mod backup;
pub(crate) mod cell;
pub(crate) mod client_role;
pub(crate) mod drill;
pub(crate) mod field;
pub(crate) mod job;
pub(crate) mod maintenance;
pub(crate) mod restore;
pub(crate) mod schedule;
pub(crate) mod settings;
