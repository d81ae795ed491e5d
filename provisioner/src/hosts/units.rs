//! The systemd units that run a host's programs, if they do: then systemd starts, stops and restarts them, and this program
//! asks it to. So no program runs twice, and what was stopped is not started again behind the operator's back.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cellar_model::{ClusterName, DatabaseName};

use crate::binaries;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::program::HostProgram;

/// Where a systemd that runs has its files.
const RUNNING: &str = "/run/systemd/system";

/// The units of a cluster on this host, and the systemd that knows them.
#[derive(Debug, Clone)]
pub(crate) struct Units {
    systemctl: PathBuf,
    cluster: ClusterName,
    /// The programs of this host, in the order in which they are started.
    programs: Vec<HostProgram>,
    first_database: DatabaseName,
}

/// The unit of a service of a cluster; `further` is the database of a multipooler, unless it is the cluster's first one.
pub(super) fn service_name(service: &str, cluster: &ClusterName, further: Option<&DatabaseName>) -> String {
    match further {
        None => format!("cellar-{service}@{cluster}.service"),
        // No name has a colon.
        Some(database) => format!("cellar-{service}@{cluster}:{database}.service"),
    }
}

/// What systemd says of a unit.
#[derive(Debug, PartialEq, Eq)]
struct UnitState {
    /// Whether it runs, or systemd is about to start it again.
    is_up: bool,
    /// The process that it runs.
    pid: Option<u32>,
}

fn parse(shown: &str) -> UnitState {
    let value = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let is_up = !matches!(value("ActiveState"), None | Some("inactive" | "failed"));
    let pid = value("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid != 0);
    UnitState { is_up, pid }
}

impl Cluster {
    /// The units of this host; none when the package is not installed, the directory is not where its units look, systemd
    /// does not run, or this process may not tell it what to do.
    pub(crate) fn units(&self) -> Option<Units> {
        let is_running = self.has_units(Path::new("/")) && Path::new(RUNNING).is_dir();
        let systemctl = binaries::find("systemctl").filter(|_| is_running)?;
        Some(Units {
            systemctl,
            cluster: self.state.cluster.clone(),
            programs: self.programs_here(),
            first_database: self.state.first_database.name.clone(),
        })
    }
}

impl Units {
    fn service(&self, program: &HostProgram) -> String {
        let further = match program {
            HostProgram::Multipooler(database) if *database != self.first_database => Some(database),
            _ => None,
        };
        service_name(program.name(), &self.cluster, further)
    }

    fn target(&self) -> String {
        format!("cellar@{}.target", self.cluster)
    }

    fn systemctl(&self, words: &[&str], units: &[String]) -> Result<String> {
        let shown = || format!("systemctl {} {}", words.join(" "), units.join(" "));
        let output = Command::new(&self.systemctl)
            .args(words)
            .args(units)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ProvisionError::Start { what: shown(), source })?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(ProvisionError::Program {
                program: shown(),
                status: output.status.to_string(),
                output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }

    fn state(&self, program: &HostProgram) -> UnitState {
        let asked = self
            .systemctl(&["show", "--property=ActiveState", "--property=MainPID"], &[self.service(program)]);
        parse(&asked.unwrap_or_default())
    }

    /// Whether systemd runs this host's programs, or does so after the next boot.
    pub(crate) fn are_in_use(&self) -> bool {
        self.programs.iter().any(|program| self.state(program).is_up)
            || self.systemctl(&["is-enabled", "--quiet"], &[self.target()]).is_ok()
    }

    /// Whether this process is the one that systemd runs as the program.
    pub(crate) fn runs(&self, program: &HostProgram, pid: u32) -> bool {
        self.state(program).pid == Some(pid)
    }

    /// Tells systemd to start programs. Does not wait: each is ready only when other hosts answer.
    pub(crate) fn start(&self, programs: &[HostProgram]) -> Result<()> {
        if programs.is_empty() {
            return Ok(());
        }
        let services: Vec<String> = programs.iter().map(|program| self.service(program)).collect();
        // One that has failed too often is started nevertheless.
        let _ = self.systemctl(&["reset-failed"], &services);
        self.systemctl(&["start", "--no-block"], &services).map(drop)
    }

    /// Tells systemd to start a program anew; does not wait.
    pub(crate) fn restart(&self, program: &HostProgram) -> Result<()> {
        let service = [self.service(program)];
        let _ = self.systemctl(&["reset-failed"], &service);
        self.systemctl(&["restart", "--no-block"], &service).map(drop)
    }

    /// Tells systemd to stop everything, and waits until it has; tells whether something ran. PostgreSQL goes on.
    pub(crate) fn stop(&self) -> Result<bool> {
        if !self.programs.iter().any(|program| self.state(program).is_up) {
            return Ok(false);
        }
        let services = self.programs.iter().rev().map(|program| self.service(program));
        let units: Vec<String> = [self.target()].into_iter().chain(services).collect();
        self.systemctl(&["stop"], &units).map(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Units of a systemd that answers with the files `<unit>` of a directory, and writes down what it was told.
    fn units(dir: &Path) -> Units {
        let systemctl = dir.join("systemctl");
        let script = format!(
            "#!/bin/sh\ncd '{}'\nfor unit; do :; done\ncase $1 in\n\
             show) cat \"$unit\" 2>/dev/null || echo ActiveState=inactive;;\n\
             is-enabled) test -e \"$unit\";;\n*) echo \"$@\" >> told;;\nesac\n",
            dir.display()
        );
        std::fs::write(&systemctl, script).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let (app, sales): (DatabaseName, DatabaseName) = ("app".parse().unwrap(), "sales".parse().unwrap());
        let poolers = [app.clone(), sales].map(HostProgram::Multipooler);
        let programs = [HostProgram::Etcd, HostProgram::Multiadmin].into_iter().chain(poolers).collect();
        Units { systemctl, cluster: "demo".parse().unwrap(), programs, first_database: app }
    }

    fn told(dir: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(dir.join("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn systemd_is_asked_and_told_and_left_alone_where_it_runs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let units = units(dir.path());
        assert!(!units.are_in_use() && !units.stop().unwrap());
        units.start(&[]).unwrap();
        assert_eq!(told(dir.path()), [""; 0]);

        std::fs::write(dir.path().join("cellar@demo.target"), "").unwrap();
        assert!(units.are_in_use(), "it does after the next boot");
        std::fs::remove_file(dir.path().join("cellar@demo.target")).unwrap();
        // Also one that is between two starts.
        for state in ["active", "activating", "deactivating", "failed", "inactive"] {
            let shown = format!("MainPID=42\nActiveState={state}\n");
            std::fs::write(dir.path().join("cellar-multipooler@demo.service"), shown).unwrap();
            assert_eq!(units.are_in_use(), !matches!(state, "failed" | "inactive"), "{state}");
        }
        std::fs::write(dir.path().join("cellar-etcd@demo.service"), "ActiveState=active\nMainPID=7\n")
            .unwrap();
        assert!(units.runs(&HostProgram::Etcd, 7) && !units.runs(&HostProgram::Etcd, 8));
        assert!(!units.runs(&HostProgram::Multiadmin, 0), "no process is none of its");

        units.start(&[HostProgram::Etcd, HostProgram::Multipooler("app".parse().unwrap())]).unwrap();
        units.restart(&HostProgram::Multiadmin).unwrap();
        assert!(units.stop().unwrap());
        assert_eq!(
            told(dir.path()),
            [
                "reset-failed cellar-etcd@demo.service cellar-multipooler@demo.service",
                "start --no-block cellar-etcd@demo.service cellar-multipooler@demo.service",
                "reset-failed cellar-multiadmin@demo.service",
                "restart --no-block cellar-multiadmin@demo.service",
                "stop cellar@demo.target cellar-multipooler@demo:sales.service cellar-multipooler@demo.service \
                 cellar-multiadmin@demo.service cellar-etcd@demo.service",
            ]
        );
    }

    #[test]
    fn what_systemd_refuses_is_said_with_the_command() {
        let dir = tempfile::tempdir().unwrap();
        let units = units(dir.path());
        std::fs::write(&units.systemctl, "#!/bin/sh\necho 'Access denied' >&2\nexit 4\n").unwrap();
        let refused = units.start(&[HostProgram::Etcd]).unwrap_err().to_string();
        assert!(
            refused.contains("systemctl start --no-block cellar-etcd@demo.service")
                && refused.contains("Access denied"),
            "{refused}"
        );
    }
}
