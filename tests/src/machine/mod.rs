//! The machine that clusters run on: programs, processes, ports, namespaces, shared memory, and the directory of all test clusters.
//! Knows nothing of Cellar. [`crate::cluster`] builds on it.

pub(crate) mod etcdctl;
pub(crate) mod hold;
pub(crate) mod listening;
pub(crate) mod logs;
pub(crate) mod namespace;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod service_manager;
pub(crate) mod shared_memory;
pub(crate) mod sweep;
pub(crate) mod wait;
