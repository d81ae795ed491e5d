//! The command line.

use std::path::PathBuf;

use cellar_model::{ClusterName, DatabaseName};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    audit, backup, backups, cells, certs, check, completions, config, down, drill, exec, expire, jobs,
    rebuild, restore, schedules, status, up, verify,
};

/// Backups of PostgreSQL replication groups: exactly the standby you name, proven.
#[derive(Debug, Parser)]
#[command(
    name = "cellar",
    version,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Examples:
  cellar up                              a cluster of three cells on this machine
  cellar status                          who is primary, who streams, what fails
  cellar backup --from zone3             back up the standby in zone3, and prove it
  cellar backups list                    what the repository holds
  cellar restore --latest --plan         what a restore would do
  cellar drill                           prove that the newest backup can be restored
  cellar down                            end every process, keep the data

Exit codes: 0 done, 1 it ran and failed, 2 wrong usage, 3 refused as things are (nothing changed),
4 a service could not be reached, 5 not permitted, 130 interrupted (the job goes on)."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, and how to answer.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster and output")]
pub(crate) struct Global {
    /// The database; needed only where a cluster has several
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) database: Option<DatabaseName>,
    /// How to answer; JSON is the API's own, one document or one a line
    #[arg(long, global = true, value_name = "FORM", default_value = "human")]
    pub(crate) output: Form,
    /// multiadmin's address, instead of a local cluster's
    #[arg(long, global = true, value_name = "HOST:PORT", requires = "client_dir")]
    pub(crate) admin: Option<String>,
    /// Directory of ca.crt, client.crt and client.key
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) client_dir: Option<PathBuf>,
    /// The local cluster's name [default: demo]
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) cluster: Option<ClusterName>,
    /// The local cluster's directory [default: /var/lib/cellar/CLUSTER for root, else
    /// $XDG_STATE_HOME/cellar/CLUSTER]
    #[arg(long, global = true, value_name = "DIR", env = "CELLAR_DIR", hide_env_values = true)]
    pub(crate) dir: Option<PathBuf>,
}

/// How answers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// For people
    Human,
    /// For programs
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Backup(backup::Backup),
    #[command(subcommand)]
    Backups(backups::Backups),
    #[command(subcommand)]
    Jobs(jobs::Jobs),
    Rebuild(rebuild::Rebuild),
    Restore(restore::Restore),
    Drill(drill::Drill),
    Verify(verify::Verify),
    Expire(expire::Expire),
    Check(check::Check),
    #[command(subcommand)]
    Schedules(schedules::Schedules),
    #[command(subcommand)]
    Cells(cells::Cells),
    #[command(subcommand)]
    Certs(certs::Certs),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Config(config::Config),
    /// Print shell exports that point psql and programs at the cluster's primary
    #[command(after_help = "Examples:
  eval \"$(cellar env)\" && psql -c 'select 1'
  cellar env --cluster ci | sed 's/^export //' >> \"$GITHUB_ENV\"")]
    Env,
    Exec(exec::Exec),
    /// Look for what is in the cluster's way: programs, ports, directories, processes, cells
    #[command(after_help = "Examples:
  cellar doctor
  cellar doctor --dir /srv/cellar/demo")]
    Doctor,
    Completions(completions::Completions),
}
