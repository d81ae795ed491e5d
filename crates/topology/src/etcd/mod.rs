//! etcd: a client that is a [`crate::kv::Kv`], and etcd's own users and permissions.
//!
//! The only module that uses the `etcd-client` crate. Calls nobody but etcd.

pub(crate) mod client;
pub(crate) mod connection;
pub(crate) mod errors;
pub(crate) mod members;
pub(crate) mod users;
