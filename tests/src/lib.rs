//! Real clusters for tests and benchmarks: brought up by `cellar`, taken down whatever happens.

mod cluster;
mod process;
mod run;
mod sweep;
mod wait;

pub use cluster::{Cluster, Instance};
pub use process::{children_named, is_alive, kill_hard, processes_with, signal};
pub use run::{Finished, OsUser, as_user, bin_dir, binary, ordinary_user, postgres_user, run};
pub use wait::{eventually, patiently};
