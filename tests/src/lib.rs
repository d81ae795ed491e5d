//! Real clusters for tests and benchmarks: brought up by `cellar`, taken down whatever happens.

mod cluster;
mod listening;
mod process;
mod run;
mod shared_memory;
mod sweep;
mod wait;

pub use cluster::{Cluster, Instance};
pub use listening::listening_of;
pub use process::{
    children_named, command_line, cpu_time, is_alive, kill_hard, main_process, open_files, peak_rss_kib,
    processes_with, rss_kib, signal,
};
pub use run::{Finished, OsUser, as_user, bin_dir, binary, ordinary_user, postgres_user, run};
pub use sweep::clean_up_when_told_to_end;
pub use wait::{eventually, patiently};
