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
  cellar exec --as-os-user -- pgbench -i -s 10       as root, which is no user of PostgreSQL

Exit codes: the command's own; 127 if it is not found, 126 if it cannot be run.")]
pub(crate) struct Exec {
    /// Run it as the OS user of the local cluster's PostgreSQL, the only one that its socket accepts
    #[arg(long)]
    as_os_user: bool,
    /// The command with its arguments
    #[arg(last = true, required = true, num_args = 1.., value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the command in this process, so that its exit code and signals are those of `cellar exec`. Returns only if the
/// command could not be run.
fn replace_process(command: &mut Command) -> Failure {
    let source = command.exec();
    Failure::Exec { program: command.get_program().display().to_string(), source }
}

impl Exec {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        if let (None, Ok(cluster)) = (&global.admin, local::open(global)) {
            // The socket is on the primary's host.
            cluster.check_is_local("cellar exec")?;
        }
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
        Err(replace_process(&mut command))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_exits_127_and_one_that_cannot_run_126() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "not a program").unwrap();
        let missing = replace_process(&mut Command::new(dir.path().join("missing")));
        assert_eq!(missing.exit_code(), 127);
        assert!(missing.message().contains("/missing"), "{}", missing.message());
        assert_eq!(replace_process(&mut Command::new("cellar-no-such-program")).exit_code(), 127);
        assert_eq!(replace_process(&mut Command::new(&text)).exit_code(), 126);
    }
}
