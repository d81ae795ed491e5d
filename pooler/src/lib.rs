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
mod config_files;
mod instance;
mod jobs;
mod member;
mod peers;
mod repository;
mod services;
mod start;

pub use arguments::Arguments;
pub use jobs::claim::{ClaimedJob, Ending};
pub use jobs::control::{Control, Interruption, interrupted_ending};
pub use jobs::lanes::{JobRunner, run_lanes};
pub use member::Member;
pub use start::run;
