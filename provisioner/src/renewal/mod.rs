//! Replacing keys, certificates and authorities while everything runs, and revoking them. It uses the folder
//! `certificates` for what is on disk, and `processes` to start etcd again.

pub(crate) mod names;
pub(crate) mod revocation;
pub(crate) mod rotation;
pub(crate) mod tls_port;
