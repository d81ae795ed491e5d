//! The commands, one a file, and the table of them: a command is a module and two lines here.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod backups;
pub(crate) mod cells;
pub(crate) mod certs;
pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod databases;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod durability;
pub(crate) mod env;
pub(crate) mod etcd;
pub(crate) mod exec;
pub(crate) mod expire;
pub(crate) mod explain;
pub(crate) mod failover;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod jobs;
pub(crate) mod logs;
pub(crate) mod manual;
pub(crate) mod pause;
pub(crate) mod rebuild;
pub(crate) mod restart;
pub(crate) mod restore;
pub(crate) mod roles;
pub(crate) mod schedules;
pub(crate) mod settings;
pub(crate) mod status;
pub(crate) mod support_bundle;
pub(crate) mod switchover;
pub(crate) mod up;
pub(crate) mod verify;

use clap::Subcommand;

use crate::failure::Outcome;
use crate::global::Global;

/// Every command, in the order of the help.
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
    Cluster(cluster::ClusterCommand),
    #[command(subcommand)]
    Host(host::Host),
    #[command(subcommand)]
    Cells(cells::Cells),
    #[command(subcommand)]
    Databases(databases::Databases),
    Durability(durability::Durability),
    Switchover(switchover::Switchover),
    Failover(failover::Failover),
    Explain(explain::Explain),
    History(history::History),
    Pause(pause::Pause),
    Resume(pause::Resume),
    #[command(subcommand)]
    Settings(settings::Settings),
    Restart(restart::Restart),
    #[command(subcommand)]
    Roles(roles::Roles),
    #[command(subcommand)]
    Certs(certs::Certs),
    #[command(subcommand)]
    Etcd(etcd::Etcd),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Config(config::Config),
    /// Print shell exports that point psql and programs at the cluster's primary
    ///
    /// CELLAR_DIRECT_URI names every cell, and libpq finds the primary. With HAProxy (`cellar up --route`),
    /// CELLAR_ROUTED_URI leads to the primary and CELLAR_READ_URI to standbys; with PgBouncer
    /// (`cellar up --pool`), CELLAR_POOLED_URI leads to the primary. An application adds its role and database.
    #[command(after_help = "Examples:
  eval \"$(cellar env)\" && psql -c 'select 1'
  psql \"$CELLAR_DIRECT_URI&user=app&dbname=app\"
  cellar env --cluster ci | sed 's/^export //' >> \"$GITHUB_ENV\"")]
    Env,
    Exec(exec::Exec),
    /// Find a cluster's problems: programs, ports, directories, processes, cells
    #[command(after_help = "Examples:
  cellar doctor
  cellar doctor --dir /srv/cellar/demo")]
    Doctor,
    Logs(logs::Logs),
    SupportBundle(support_bundle::SupportBundle),
    Completions(completions::Completions),
    #[command(hide = true)]
    Manual(manual::Manual),
}

impl Command {
    /// Runs the command; `definition` is the whole command line, for completions and the manual.
    pub(crate) async fn run(self, global: &Global, definition: clap::Command) -> Outcome {
        match self {
            Self::Up(command) => command.run(global).await,
            Self::Down(command) => command.run(global).await,
            Self::Status(command) => command.run(global).await,
            Self::Backup(command) => command.run(global).await,
            Self::Backups(command) => command.run(global).await,
            Self::Jobs(command) => command.run(global).await,
            Self::Rebuild(command) => command.run(global).await,
            Self::Restore(command) => command.run(global).await,
            Self::Drill(command) => command.run(global).await,
            Self::Verify(command) => command.run(global).await,
            Self::Expire(command) => command.run(global).await,
            Self::Check(command) => command.run(global).await,
            Self::Schedules(command) => command.run(global).await,
            Self::Audit(command) => command.run(global).await,
            Self::Cluster(command) => command.run(global).await,
            Self::Host(command) => command.run(global).await,
            Self::Cells(command) => command.run(global).await,
            Self::Databases(command) => command.run(global).await,
            Self::Durability(command) => command.run(global).await,
            Self::Switchover(command) => command.run(global).await,
            Self::Failover(command) => command.run(global).await,
            Self::Explain(command) => command.run(global).await,
            Self::Settings(command) => command.run(global).await,
            Self::Restart(command) => command.run(global).await,
            Self::History(command) => command.run(global).await,
            Self::Pause(command) => command.run(global).await,
            Self::Resume(command) => command.run(global).await,
            Self::Roles(command) => command.run(global).await,
            Self::Certs(command) => command.run(global).await,
            Self::Etcd(command) => command.run(global).await,
            Self::Config(command) => command.run(global).await,
            Self::Env => env::run(global).await,
            Self::Exec(command) => command.run(global).await,
            Self::Doctor => doctor::run(global).await,
            Self::Logs(command) => command.run(global).await,
            Self::SupportBundle(command) => command.run(global).await,
            Self::Completions(command) => command.run(definition),
            Self::Manual(command) => command.run(definition),
        }
    }
}
