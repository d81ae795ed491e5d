//! The audit trail of calls that change something.
//!
//! Nothing is changed before a line that says who asked for what is in the log file, on the disk; a second line with the
//! same id says how the call ended. A call without its second line was cut short with the process, and the topology
//! shows what was done of it. etcd has copies of the newest records, for `ListAudit`. They are written after the answer
//! and some may be missing; the file is complete.
//!
//! The API and the leader call [`trail::Audit`]; it writes to the file and to etcd.

pub(crate) mod copies;
pub(crate) mod file;
pub(crate) mod line;
pub(crate) mod log;
pub(crate) mod record;
pub(crate) mod refused_calls;
pub(crate) mod trail;
