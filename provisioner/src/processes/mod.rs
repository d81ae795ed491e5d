//! Processes of a local cluster that outlive us: starting and ending them, and etcd in particular, which a new authority
//! makes start again.

pub(crate) mod etcd;
pub(crate) mod etcd_arguments;
pub(crate) mod process;
