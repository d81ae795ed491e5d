//! The command line: the options that every command has, and the command.

use clap::{CommandFactory, Parser};

use crate::commands::Command;
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

impl Arguments {
    /// Runs the command.
    pub(crate) async fn run(self) -> Outcome {
        self.command.run(&self.global, Self::command()).await
    }
}
