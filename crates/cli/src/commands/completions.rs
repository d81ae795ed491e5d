//! `cellar completions`.

use clap::Args;
use clap_complete::{Shell, generate};

use crate::failure::Outcome;
use crate::output;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar completions bash > /etc/bash_completion.d/cellar
  cellar completions zsh > ~/.zfunc/_cellar")]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: clap::Command) -> Outcome {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "cellar", &mut script);
        output::write(&script)
    }
}
