//! `cellar host`.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use cellar_provisioner::{
    HostProgram, ProcessHealth, UpgradeOptions, hand_over, host_command, host_pooler, host_processes,
    install_host, installed_certificates_due, remove_host, start_host, stop_host, upgrade_host,
};
use clap::{Args, Subcommand, ValueEnum};

use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::output::Form;
use crate::render::table::Table;
use crate::render::units::parse_duration;
use crate::{local, output};

/// The host of one cell: install its bundle, start, stop and look at what runs on it
#[derive(Debug, Subcommand)]
pub(crate) enum Host {
    /// Install the bundle of this host: keys, certificates, and what to run
    ///
    /// Starts nothing. What runs already takes up new certificates by itself; after a restore of etcd, multiadmin and the
    /// multipooler are ended. Repeating it changes nothing.
    #[command(after_help = "Examples:
  cellar host install zone1.bundle && rm zone1.bundle
  cellar host install zone1.bundle --etcd-snapshot etcd.db    after `cellar etcd restore`")]
    Install {
        /// The bundle
        #[arg(value_name = "BUNDLE")]
        bundle: PathBuf,
        /// What etcd's data here begins with, if the bundle is of a restore of etcd
        #[arg(long, value_name = "FILE")]
        etcd_snapshot: Option<PathBuf>,
    },
    /// Start what does not run on this host
    ///
    /// Where systemd's units run the host's programs, systemd starts it. Looks whether the processes run, and says so; exit
    /// code 1 when one does not.
    #[command(after_help = "Example:
  cellar host start")]
    Start,
    /// End everything on this host, PostgreSQL too; its data is kept
    ///
    /// The primaries of this host are moved to other hosts before, as `cellar host handover` does; what cannot be moved is stopped
    /// here. Where systemd's units run the host's programs, systemd is told to stop them first.
    #[command(after_help = "Examples:
  cellar host stop
  cellar host stop --now       do not move primaries before")]
    Stop {
        /// Do not move primaries to other hosts before
        #[arg(long)]
        now: bool,
    },
    /// Move the primaries of this host to other hosts, so that it can be stopped without a failover
    ///
    /// Only databases with quorum commit are moved, each to the standby that is furthest; see `cellar switchover`. The package's
    /// units do this when the host is shut down. Exit code 1 when a primary that could be moved is still here.
    #[command(after_help = "Example:
  cellar host handover")]
    Handover,
    /// Exchange the programs of this host for new ones, and start them anew: one host after the other
    ///
    /// Refused while another host is upgraded or is not well. etcd, multiadmin and multipooler are started anew one after
    /// the other where they run another program than the one in place, and each must be well before the next. PostgreSQL
    /// goes on; a job that runs on this host is ended, and says so. When a new program is not well, those of before are
    /// put back and started. Run the `cellar` that is in use, not the new one.
    #[command(after_help = "Examples:
  cellar host upgrade                      a package has put the new programs in place
  cellar host upgrade --from ./new         exchange multiadmin, multipooler and cellar for those in ./new")]
    Upgrade {
        /// The directory of the new programs
        #[arg(long, value_name = "DIRECTORY")]
        from: Option<PathBuf>,
        /// How long each program may take to be well
        #[arg(long, value_name = "TIME", default_value = "2m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// List the processes of this host; exit code 1 when one does not run
    #[command(after_help = "Example:
  cellar host status")]
    Status,
    /// End everything on this host and remove its keys
    #[command(after_help = "Examples:
  cellar host remove                  the data directory and etcd's data are kept
  cellar host remove --delete-data")]
    Remove {
        /// Also delete the data directory, etcd's data and the logs. The repository is kept
        #[arg(long)]
        delete_data: bool,
    },
    Exec(Exec),
}

/// Become one of the host's programs: what the systemd units run
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cellar host exec multipooler --dir /var/lib/cellar/demo")]
pub(crate) struct Exec {
    /// The program
    program: Program,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Program {
    Etcd,
    Multiadmin,
    Multipooler,
}

impl Host {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "host")?;
        let steps = local::steps();
        match self {
            Self::Install { bundle, etcd_snapshot } => {
                let installed = install_host(&bundle, etcd_snapshot.as_deref(), &steps).await?;
                for changed in &installed.changed {
                    output::note(&format!("installed {}", installed.directory.join(changed).display()));
                }
                let directory = installed.directory.display();
                output::note(&match installed.changed.is_empty() {
                    true => format!("everything of cell {} is in {directory} already", installed.cell),
                    false => format!(
                        "cell {} is installed in {directory}\n\nnext:\n  cellar host start --dir {directory}",
                        installed.cell
                    ),
                });
                Ok(())
            }
            Self::Start => {
                let started = start_host(&global.directory()?, &steps).await?;
                output::note(&started_text(&started));
                let (held_back, asked): (Vec<_>, Vec<_>) =
                    started.iter().partition(|one| one.note.is_some() && one.pid.is_none());
                match asked.iter().all(|one| one.pid.is_some()) {
                    true if held_back.is_empty() => Ok(()),
                    true => Err(Failure::ProblemsFound("etcd of this host was not started".to_owned())),
                    false => Err(Failure::ProblemsFound(
                        "what was asked to start does not run yet: `cellar host status` looks again"
                            .to_owned(),
                    )),
                }
            }
            Self::Stop { now } => Ok(stop_host(&global.directory()?, now, &steps).await?),
            Self::Handover => {
                let moved = hand_over(&global.directory()?, &steps).await?;
                if moved.is_empty() {
                    output::note("no multipooler of this host runs a primary");
                }
                match moved.iter().find(|(_, moved)| !moved.is_done()) {
                    None => Ok(()),
                    Some((database, why)) => Err(Failure::ProblemsFound(format!("{database}: {why}"))),
                }
            }
            Self::Status => status(global),
            Self::Upgrade { from, timeout } => {
                let from = from.map(|from| absolute(&from)).transpose()?;
                let options = UpgradeOptions { dir: global.directory()?, from, timeout };
                let upgraded = upgrade_host(&options, &steps).await?;
                let cell = upgraded.cell;
                output::note(&match upgraded.restarted.is_empty() {
                    true => format!("the host of cell {cell} runs the programs that are in place"),
                    false => format!(
                        "the host of cell {cell} is upgraded and well: {} started anew",
                        upgraded.restarted.join(", ")
                    ),
                });
                Ok(())
            }
            Self::Remove { delete_data } => {
                let kept = remove_host(&global.directory()?, delete_data, &steps).await?;
                for path in kept {
                    output::note(&format!("kept: {}", path.display()));
                }
                Ok(())
            }
            Self::Exec(command) => exec(global, command.program),
        }
    }
}

/// What was asked to start, as it was seen afterwards.
fn started_text(started: &[ProcessHealth]) -> String {
    if started.is_empty() {
        return "every process of this host runs already".to_owned();
    }
    let line = |one: &ProcessHealth| match (one.pid, &one.note) {
        (Some(pid), _) => format!("{} runs as process {pid}\n", one.what),
        (None, Some(note)) => format!("{note}\n"),
        (None, None) => format!("{} was asked to start, and does not run yet\n", one.what),
    };
    started.iter().map(line).collect::<String>()
        + "whether the cluster is well: `cellar cluster wait` on the operator's machine"
}

fn status(global: &Global) -> Outcome {
    let (cell, processes) = host_processes(&global.directory()?)?;
    match global.output {
        Form::Human => {
            let mut table = Table::new(&["PROCESS", "PID"]);
            for process in &processes {
                let pid = process.pid.map_or_else(|| "does not run".to_owned(), |pid| pid.to_string());
                table.row([process.what.clone(), pid]);
            }
            output::print(&table.render())?;
            for note in processes.iter().filter_map(|process| process.note.as_ref()) {
                output::print(&format!("\n{note}\n"))?;
            }
        }
        Form::Json => output::json(&serde_json::json!({
            "cell": cell,
            "processes": processes.iter().map(|p| serde_json::json!({"what": p.what, "pid": p.pid, "note": p.note})).collect::<Vec<_>>(),
        }))?,
    }
    if let Some(text) = installed_certificates_due(&global.directory()?, SystemTime::now())? {
        output::note(&text);
    }
    if processes.iter().any(|process| process.note.is_some()) {
        return Err(Failure::ProblemsFound(format!("cell {cell} does not run on this machine")));
    }
    match processes.iter().filter(|process| process.pid.is_none()).count() {
        0 => Ok(()),
        1 => Err(Failure::ProblemsFound("1 process does not run: `cellar host start` starts it".to_owned())),
        n => {
            Err(Failure::ProblemsFound(format!("{n} processes do not run: `cellar host start` starts them")))
        }
    }
}

/// Returns only when the program cannot be executed.
fn exec(global: &Global, program: Program) -> Outcome {
    let program = match program {
        Program::Etcd => HostProgram::Etcd,
        Program::Multiadmin => HostProgram::Multiadmin,
        Program::Multipooler => host_pooler(&global.directory()?, global.database.as_ref())?,
    };
    let found = host_command(&global.directory()?, &program)?;
    let mut command = Command::new(&found.program);
    command.args(&found.arguments).current_dir(&found.directory);
    for (name, _) in std::env::vars_os() {
        // etcd takes flags that it was not given from such variables.
        if name.as_encoded_bytes().starts_with(b"ETCD_") {
            command.env_remove(name);
        }
    }
    command.envs(found.environment);
    if let Some((uid, gid)) = found.run_as {
        command.uid(uid).gid(gid);
    }
    Err(Failure::Io { what: format!("execute {}", found.program.display()), source: command.exec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_to_start_is_said_as_it_was_seen() {
        let seen = |what: &str, pid| ProcessHealth { what: what.to_owned(), pid, note: None, repair: None };
        let text = started_text(&[seen("etcd", Some(12)), seen("multiadmin", None)]);
        assert!(
            text.starts_with("etcd runs as process 12\nmultiadmin was asked to start, and does not"),
            "{text}"
        );
        assert!(!text.contains("started"), "{text}");
        let held_back = ProcessHealth {
            note: Some("etcd is not started: its data is gone".to_owned()),
            ..seen("etcd", None)
        };
        let text = started_text(&[seen("multiadmin", Some(12)), held_back]);
        assert!(text.contains("12\netcd is not started: its data is gone\n"), "{text}");
        assert!(!text.contains("was asked"), "{text}");
    }
}
