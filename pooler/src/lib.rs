//! The agent beside one PostgreSQL instance.
//!
//! Four loops, each level-triggered: it looks at the world, compares, acts, and
//! may be killed anywhere.
//!
//! - `supervisor`: PostgreSQL itself, from nothing to streaming. What to do is
//!   decided by a pure function in `step`.
//! - `tls_server`: `pgbackrest server`, through which other cells' backups read
//!   from this one when it is the primary.
//! - `worker`: the jobs addressed to this cell, one at a time.
//! - `reporter`: the status in etcd, bound to this process's lease.

mod agent;
mod arguments;
mod backup;
mod claim;
mod config_files;
mod evidence;
mod leadership;
mod peers;
mod rebuild;
mod recovery;
mod reporter;
mod seed;
mod server;
mod stanza;
mod start;
mod step;
mod supervisor;
mod tls_server;
mod worker;

pub use arguments::Arguments;
pub use start::run;
