//! Where records lie: keys, who may read and write which, and the directories and ports of a cluster.

pub mod access;
pub(crate) mod grant;
pub(crate) mod key;
pub(crate) mod layout;
pub(crate) mod layout_error;
pub(crate) mod ports;
