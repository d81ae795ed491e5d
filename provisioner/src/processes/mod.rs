//! Processes of a local cluster that outlive us: starting and ending them, and etcd in particular, which a new authority
//! makes start again; and HAProxy and PgBouncer, if they are asked for.

pub(crate) mod etcd;
pub(crate) mod etcd_arguments;
pub(crate) mod haproxy;
pub(crate) mod pgbouncer;
pub(crate) mod process;
