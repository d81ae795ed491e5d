//! The command line, and which command runs.
//!
//! A new command is a file in `commands`, a variant of [`Command`] and a line of [`Arguments::run`].

use clap::{CommandFactory, Parser, Subcommand};

use crate::commands::{
    audit, backup, backups, cells, certs, check, completions, config, doctor, down, drill, env, exec, expire,
    jobs, rebuild, restore, schedules, status, up, verify,
};
use crate::failure::Outcome;
use crate::global::Global;

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

Exit codes: 0 done, 1 it ran and failed, 2 wrong usage, 3 refused in the present state (nothing changed),
4 a service could not be reached, 5 not permitted, 130 interrupted (the job goes on)."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
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
    /// Find a cluster's problems: programs, ports, directories, processes, cells
    #[command(after_help = "Examples:
  cellar doctor
  cellar doctor --dir /srv/cellar/demo")]
    Doctor,
    Completions(completions::Completions),
}

impl Arguments {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        let global = &self.global;
        match self.command {
            Command::Up(command) => command.run(global).await,
            Command::Down(command) => command.run(global).await,
            Command::Status(command) => command.run(global).await,
            Command::Backup(command) => command.run(global).await,
            Command::Backups(command) => command.run(global).await,
            Command::Jobs(command) => command.run(global).await,
            Command::Rebuild(command) => command.run(global).await,
            Command::Restore(command) => command.run(global).await,
            Command::Drill(command) => command.run(global).await,
            Command::Verify(command) => command.run(global).await,
            Command::Expire(command) => command.run(global).await,
            Command::Check(command) => command.run(global).await,
            Command::Schedules(command) => command.run(global).await,
            Command::Audit(command) => command.run(global).await,
            Command::Cells(command) => command.run(global).await,
            Command::Certs(command) => command.run(global).await,
            Command::Config(command) => command.run(global),
            Command::Env => env::run(global).await,
            Command::Exec(command) => command.run(global).await,
            Command::Doctor => doctor::run(global).await,
            Command::Completions(command) => command.run(Self::command()),
        }
    }
}
