//! Jobs: submitted, listed, watched, canceled and closed; their logs.
//!
//! The API and the leader call it. It reads the view, reads and writes etcd, and reads logs from poolers.

pub(crate) mod cancel;
pub(crate) mod closure;
pub(crate) mod job_records;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod stage;
pub(crate) mod submission;
pub(crate) mod submit;
pub(crate) mod watch;
