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
mod certificates;
mod check;
mod claim;
mod config_files;
mod discard;
mod drill;
mod evidence;
mod expire;
mod fence;
mod hold;
mod incarnation;
mod leadership;
mod locate;
mod logged;
mod peers;
mod plan;
mod rebuild;
mod recover;
mod recovery;
mod reporter;
mod sandbox;
mod seed;
mod server;
mod stanza;
mod start;
mod step;
mod supervisor;
mod survey;
mod swap;
mod tls_server;
mod verify;
mod worker;

pub use arguments::Arguments;
pub use start::run;
