//! Real clusters for tests and benchmarks: brought up by `cellar`, taken down whatever happens.

mod cluster;
mod hosts;
mod load;
mod machine;

pub use cluster::admin::Instance;
pub use cluster::application::Application;
pub use cluster::local::Cluster;
pub use cluster::restart::StoppedEtcd;
pub use hosts::{Hosts, HostsCluster, Ledger, Moment, Written, cell_of, has_ended};
pub use load::acknowledged::{Row, Server, all_there, overlap};
pub use load::pgbench::Pgbench;
pub use load::psql::{Answer, Psql};
pub use load::writers::{Place, TABLE, Writers};
pub use machine::etcdctl::etcdctl;
pub use machine::hold::{HOLD_TIMEOUT, has_word, hold, release};
pub use machine::listening::listening_of;
pub use machine::namespace::Namespace;
pub use machine::place::keep_clusters_on_disk;
pub use machine::process::{
    children_named, command_line, cpu_time, is_alive, main_process, open_files, peak_rss_kib, processes_with,
    rss_kib, signal, state_of,
};
pub use machine::proxy::{Direction, Proxy, Rule};
pub use machine::run::{
    Finished, OsUser, as_user, bin_dir, binary, give_to_postgres, ordinary_user, postgres_programs,
    postgres_user, run,
};
pub use machine::service_manager::ServiceManager;
pub use machine::sweep::{clean_up_when_told_to_end, kill_hard, remove_directory};
pub use machine::wait::{block_on, eventually, poll, wait_for, wait_until};
