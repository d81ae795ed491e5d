//! A local cluster as data: what it was created with, where its files are, the records that follow, and the lock without
//! which no process changes it. All that acts on a cluster is in the folders above.

pub(crate) mod blocking;
pub(crate) mod cell_host;
pub(crate) mod cell_problem;
pub(crate) mod database;
pub(crate) mod database_record;
pub(crate) mod etcd_origin;
pub(crate) mod haproxy_config;
pub(crate) mod local_cluster;
pub(crate) mod lock;
pub(crate) mod loopback;
pub(crate) mod members;
pub(crate) mod paths;
pub(crate) mod state;
pub(crate) mod steps;
