//! Jobs as multiadmin sees them: recorded, listed, watched, canceled and closed.
//!
//! The API and the leader call it; it talks to etcd and, for logs, to poolers.

pub(crate) mod cancel;
pub(crate) mod closing;
pub(crate) mod ended;
pub(crate) mod list;
pub(crate) mod log;
pub(crate) mod stored;
pub(crate) mod submit;
pub(crate) mod watch;
