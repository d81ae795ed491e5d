//! `cellar manual`, which packages are built with.

use std::path::PathBuf;

use clap::Args;

use crate::failure::{Failure, Outcome};

/// Write the manual pages, one for each command, into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cellar manual --out man1 && man -l man1/cellar-backup.1")]
pub(crate) struct Manual {
    /// Where they are written; it is there already
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Manual {
    pub(crate) fn run(self, command: clap::Command) -> Outcome {
        clap_mangen::generate_to(command, &self.out)
            .map_err(|source| Failure::Io { what: format!("write to {}", self.out.display()), source })
    }
}
