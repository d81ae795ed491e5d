//! `cellar exec`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::local;

/// Run a command with the variables of `cellar env`, and end with its exit code
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar exec -- psql -c 'select pg_is_in_recovery()'
  cellar exec --as-os-user -- pgbench -i -s 10       as root, whom PostgreSQL does not let in

Exit codes: the command's own; 127 if it is not found, 126 if it cannot be run.")]
pub(crate) struct Exec {
    /// Run it as the OS user of the local cluster's PostgreSQL, whom its socket lets in
    #[arg(long)]
    as_os_user: bool,
    /// The command with its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Exec {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let variables = super::env::variables(global).await?;
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::usage("no command was given", "put it after --"));
        };
        let mut command = Command::new(program);
        command.args(arguments).envs(variables);
        if self.as_os_user {
            local::refuse_remote(global, "exec --as-os-user")?;
            let user = local::open(global)?.user;
            if let Some((uid, gid)) = user.switch() {
                command.uid(uid).gid(gid).env("USER", &user.name).env("LOGNAME", &user.name);
            }
        }
        // Replaces this process, so that the program's exit code and signals are those of the command.
        let source = command.exec();
        Err(Failure::Exec { program: program.display().to_string(), source })
    }
}
