//! etcd for its operator: how its members are, a copy of its data, putting that back, and replacing a lost member.
//!
//! Used by the command line. Above everything else here: a restore ends processes and writes records.

pub(crate) mod records;
pub(crate) mod replace;
pub(crate) mod restore;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod tool;
