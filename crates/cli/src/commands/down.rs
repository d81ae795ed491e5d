//! `cellar down`.

use cellar_provisioner::{DownOutcome, down};
use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::{local, output};

/// End every process of a local cluster; its data is kept
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar down
  cellar down --cluster ci --destroy     also remove its data, backups and certificates")]
pub(crate) struct Down {
    /// Also remove everything the cluster made: data, backups in its own directory, certificates
    #[arg(long)]
    destroy: bool,
}

impl Down {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "down")?;
        let directory = global.directory()?;
        // A wrong --cluster must not end another one.
        if let Err(failure @ Failure::Usage { .. }) = local::open(global) {
            return Err(failure);
        }
        match down(&directory, self.destroy, &local::steps()).await? {
            DownOutcome::Nothing => {
                output::note(&format!("there is no cluster in {}; nothing to do", directory.display()));
            }
            DownOutcome::Stopped => {
                output::note(&format!("the cluster is down; its data is in {}", directory.display()));
            }
            DownOutcome::Destroyed { kept } => {
                output::note("the cluster is down and removed");
                for path in kept {
                    output::note(&format!("kept: {}", path.display()));
                }
            }
        }
        Ok(())
    }
}
