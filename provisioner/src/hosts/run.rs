//! What runs on a host: its command lines, starting, stopping and looking at it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{CellLayout, CellName, ClusterLayout, DatabaseName};
use cellar_system::running_pid;

use crate::binaries;
use crate::cluster::blocking::blocking;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;
use crate::hosts::host::open_host;
use crate::hosts::program::HostProgram;
use crate::hosts::units::Units;
use crate::local::down::remove_tree;
use crate::local::health::ProcessHealth;
use crate::local::launch::daemon;
use crate::preflight::port::check_port;
use crate::processes::process::Started;

/// How long another `cellar` on the same host is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it is looked whether what was asked to start runs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// How to run a program of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCommand {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// A variable that it is given.
    pub environment: Option<(&'static str, String)>,
    /// User and group to become before; none for a program that does so itself, or when this process is that user.
    pub run_as: Option<(u32, u32)>,
    /// Where it works.
    pub directory: PathBuf,
}

/// The multipooler of this host whose directory this is, by the name of its database, which may be left out where the host's
/// cluster has one only.
///
/// # Errors
/// When nothing is installed there, or the name is missing.
pub fn host_pooler(dir: &Path, database: Option<&DatabaseName>) -> Result<HostProgram> {
    let (cluster, _) = open_host(dir)?;
    match database {
        Some(database) => Ok(HostProgram::Multipooler(database.clone())),
        None if !cluster.state.has_several_databases() => {
            Ok(HostProgram::Multipooler(cluster.state.first_database.name))
        }
        None => {
            let here: Vec<String> =
                cluster.members_here().into_iter().map(|member| member.database.to_string()).collect();
            Err(ProvisionError::Argument {
                argument: "--database",
                value: String::new(),
                reason: format!("the cluster has several: name one that is here ({})", here.join(", ")),
            })
        }
    }
}

/// How to run a program of the host whose directory this is, for this process to become it: what its systemd unit executes.
/// etcd writes no pid file of its own, so that is written here.
///
/// # Errors
/// When nothing is installed there, the host has no such program, or etcd runs already.
pub fn host_command(dir: &Path, program: &HostProgram) -> Result<HostCommand> {
    let (cluster, cell) = open_host(dir)?;
    if !cluster.programs_here().contains(program) {
        return Err(ProvisionError::Start {
            what: format!(
                "{}: the specification gives the host of cell {cell} none",
                cluster.what_of(program)
            ),
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    cluster.make_host_directories()?;
    let (program, arguments, run_as) = match program {
        HostProgram::Etcd => {
            let missing = || ProvisionError::Start {
                what: "etcd: it is in the Debian package etcd-server".to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            };
            if let Some(pid) = cluster.etcd_pid().filter(|pid| *pid != std::process::id()) {
                return Err(ProvisionError::Start {
                    what: format!("etcd: it runs already, as process {pid}"),
                    source: std::io::ErrorKind::AlreadyExists.into(),
                });
            }
            cluster.check_etcd_data()?;
            replace(&cluster.etcd_pid_file(), &format!("{}\n", std::process::id()), 0o644, None)?;
            (binaries::find("etcd").ok_or_else(missing)?, cluster.etcd_arguments()?, cluster.user.switch())
        }
        HostProgram::Multiadmin => (daemon("multiadmin")?, cluster.admin_arguments()?, None),
        HostProgram::Multipooler(database) => {
            let member = Member { cell, database: database.clone() };
            (daemon("multipooler")?, cluster.pooler_arguments(&member)?, None)
        }
    };
    let environment = cluster.daemon_environment();
    Ok(HostCommand { program, arguments, environment, run_as, directory: dir.to_owned() })
}

/// Starts what does not run on this host, and looks whether it runs; gives what that was, each with its process. systemd
/// starts it where its units run the host's programs. Whether it is well is seen from the operator's machine. etcd must not be
/// started with other data than its bundle says: then it has a note, and the rest is started.
///
/// # Errors
/// When a port is taken, or a program cannot be started or ends at once.
pub async fn start_host(dir: &Path, steps: &Steps) -> Result<Vec<ProcessHealth>> {
    let (cluster, _) = open_host(dir)?;
    let _lock = ClusterLock::acquire(&ClusterLayout::new(dir), LOCK_TIMEOUT, steps).await?;
    let this = cluster.clone();
    let (lacking, started) = blocking(move || this.start_all_here()).await?;
    let mut found = cluster.look_at_started(&lacking.startable, started).await?;
    found.extend(lacking.held_back);
    Ok(found)
}

/// Ends everything on this host, PostgreSQL too. A primary that is here is moved to another host before, if that can be;
/// with `now` it is not.
///
/// # Errors
/// When a process does not end.
pub async fn stop_host(dir: &Path, now: bool, steps: &Steps) -> Result<()> {
    let (cluster, _) = open_host(dir)?;
    let _lock = ClusterLock::acquire(&ClusterLayout::new(dir), LOCK_TIMEOUT, steps).await?;
    if !now && let Err(error) = cluster.hand_over_here(steps).await {
        // Who says stop means it.
        steps.step(&format!("a primary that is here is not moved: {error}"));
    }
    cluster.stop_all_here(steps).await
}

/// The processes that this host should have.
///
/// # Errors
/// When nothing is installed there.
pub fn host_processes(dir: &Path) -> Result<(CellName, Vec<ProcessHealth>)> {
    let (cluster, cell) = open_host(dir)?;
    Ok((cell, cluster.processes()))
}

/// Ends everything on this host and removes its keys; with `delete_data` all else too. The repository stays. Gives what is
/// kept.
///
/// # Errors
/// When a process does not end, or the repository lies in what is to be removed.
pub async fn remove_host(dir: &Path, delete_data: bool, steps: &Steps) -> Result<Vec<PathBuf>> {
    let (cluster, _) = open_host(dir)?;
    let layout = ClusterLayout::new(dir);
    let _lock = ClusterLock::acquire(&layout, LOCK_TIMEOUT, steps).await?;
    // Those that are here, whatever the bundle that was installed last says.
    let members: Vec<CellLayout> =
        cluster.members_on_disk().iter().map(|member| cluster.layout_of(member)).collect();
    let data: Vec<PathBuf> = members.iter().map(|member| member.root().to_owned()).collect();
    if delete_data {
        cluster.check_spares_repository(data.iter().chain([&layout.etcd()]))?;
    }
    cluster.stop_all_here(steps).await?;
    let mut keys = vec![layout.etcd().join("tls"), layout.multiadmin()];
    keys.extend(members.iter().flat_map(|member| [member.tls(), member.secrets()]));
    let left = keys.iter().flat_map(|keys| cellar_tls::leftovers(keys)).collect::<Vec<_>>();
    for directory in keys.iter().chain(&left) {
        remove_tree(directory)?;
    }
    cluster.remove_drop_ins()?;
    steps.step("the keys of this host are removed");
    let mut kept = Vec::new();
    if delete_data {
        for directory in data.iter().chain(&[layout.etcd(), layout.log(), layout.pid()]) {
            kept.extend(remove_tree(directory)?);
        }
        kept.extend(remove_tree(&layout.state())?);
        if std::fs::remove_dir(layout.root()).is_err() {
            kept.push(layout.root().to_owned());
        }
    } else {
        members.iter().try_for_each(|member| forget_claims(&cluster, member))?;
        // The name by which the directory is a host's goes last, so that this can be repeated.
        let state = layout.state().join("host.json");
        std::fs::remove_file(&state).map_err(ProvisionError::io("remove", &state))?;
        kept.push(layout.root().to_owned());
    }
    Ok(kept)
}

/// Makes this machine a new one for a member, though it has the member's data: the machine that ran it last goes on to do so
/// by itself, and one whose cell was taken over only after its operator says so with this and an installation.
fn forget_claims(cluster: &Cluster, layout: &CellLayout) -> Result<()> {
    let file = layout.own_claims();
    if file.parent().is_some_and(Path::exists) {
        replace(&file, "{}\n", 0o600, cluster.owner())?;
    }
    let note = layout.not_claimed();
    match std::fs::remove_file(&note) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(ProvisionError::io("remove", &note)(error))
        }
        _ => Ok(()),
    }
}

/// What does not run on a host.
struct Lacking {
    /// What may be started.
    startable: Vec<HostProgram>,
    /// What may not, with why.
    held_back: Option<ProcessHealth>,
}

impl Cluster {
    /// The directories of what runs here.
    pub(super) fn make_host_directories(&self) -> Result<()> {
        self.make_own_directories()?;
        self.members_here().iter().try_for_each(|member| self.make_member_directories(member))
    }

    /// What does not run. A member of etcd that has lost its data keeps no cell from running: the other members serve it.
    fn lacking_here(&self) -> Lacking {
        let mut startable = self.programs_here();
        startable.retain(|program| self.pid_of(program).is_none());
        let checked = match startable.contains(&HostProgram::Etcd) {
            true => self.check_etcd_data(),
            false => Ok(()),
        };
        let held_back = checked.err().map(|error| {
            startable.retain(|program| *program != HostProgram::Etcd);
            let hint = error.hint().map_or_else(String::new, |hint| format!("; {hint}"));
            ProcessHealth {
                what: self.what_of(&HostProgram::Etcd),
                pid: None,
                note: Some(format!("{error}{hint}")),
                repair: None,
            }
        });
        Lacking { startable, held_back }
    }

    /// Starts what does not run; what that is, and the processes that were started by this one.
    fn start_all_here(&self) -> Result<(Lacking, Vec<Started>)> {
        let cells: Vec<_> = self.cells_here().cloned().collect();
        let mut findings = Vec::new();
        for need in self.ports(&cells)? {
            findings.extend(check_port(&need, &self.listen_at(need.port), Some(self.layout.root())));
        }
        if !findings.is_empty() {
            return Err(ProvisionError::Preflight(findings));
        }
        self.make_host_directories()?;
        let lacking = self.lacking_here();
        let mut started = Vec::new();
        match self.units().filter(Units::are_in_use) {
            // What is started beside its unit would be in its way, after the next boot at the latest.
            Some(units) => units.start(&lacking.startable)?,
            None => {
                for program in &lacking.startable {
                    started.extend(self.start_program(program)?);
                }
            }
        }
        Ok((lacking, started))
    }

    /// Looks for a moment whether programs run that were asked to start.
    async fn look_at_started(
        &self,
        programs: &[HostProgram],
        mut started: Vec<Started>,
    ) -> Result<Vec<ProcessHealth>> {
        let deadline = Instant::now() + LOOK_TIMEOUT;
        loop {
            started.iter_mut().try_for_each(Started::check)?;
            let health = |program: &HostProgram| ProcessHealth {
                what: self.what_of(program),
                pid: self.pid_of(program),
                note: None,
                repair: None,
            };
            let found: Vec<_> = programs.iter().map(health).collect();
            if found.iter().all(|one| one.pid.is_some()) || Instant::now() >= deadline {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Ends everything here; systemd ends what it runs, which it would else start again.
    async fn stop_all_here(&self, steps: &Steps) -> Result<()> {
        if let Some(units) = self.units() {
            let stopped = blocking(move || units.stop()).await?;
            if stopped {
                steps.step("systemd has stopped the host's units");
            }
        }
        self.stop_all(steps).await
    }

    /// The process that runs a program here.
    pub(super) fn pid_of(&self, program: &HostProgram) -> Option<u32> {
        match program {
            HostProgram::Etcd => self.etcd_pid(),
            HostProgram::Multiadmin => running_pid(&self.admin_pid_file()),
            HostProgram::Multipooler(database) => {
                running_pid(&self.pooler_pid_file(&self.member_here(database)?))
            }
        }
    }

    /// Starts a program unless it runs.
    pub(super) fn start_program(&self, program: &HostProgram) -> Result<Option<Started>> {
        match program {
            HostProgram::Etcd => self.start_etcd(),
            HostProgram::Multiadmin => self.start_admin(),
            HostProgram::Multipooler(database) => match self.member_here(database) {
                Some(member) => self.start_pooler(&member),
                None => Ok(None),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cell_host::CellHost;
    use crate::cluster::etcd_origin::EtcdOrigin;

    #[test]
    fn etcd_that_has_lost_its_data_is_held_back_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        let cell = cluster.state.cells[0].name.clone();
        cluster.state.cells[0].host = Some(CellHost {
            host: "db1.invalid".parse().unwrap(),
            listen: "0.0.0.0".parse().unwrap(),
            directory: dir.path().to_owned(),
            etcd: true,
            multiadmin: true,
        });
        let host = |cluster: &Cluster| {
            let (layout, state) = (cluster.layout.clone(), cluster.state.clone());
            Cluster::assemble_on_host(layout, state, cell.clone()).unwrap().lacking_here()
        };
        let all = host(&cluster);
        assert_eq!((all.startable.len(), all.held_back), (3, None));
        cluster.state.etcd_origins.insert(cell.clone(), EtcdOrigin::of_cluster("7".to_owned()));
        let lacking = host(&cluster);
        assert_eq!(
            lacking.startable,
            [HostProgram::Multiadmin, HostProgram::Multipooler("app".parse().unwrap())]
        );
        let etcd = lacking.held_back.unwrap();
        assert_eq!((&*etcd.what, etcd.pid), ("etcd", None));
        let note = etcd.note.unwrap();
        assert!(note.contains("etcd is not started") && note.contains("`cellar etcd replace`"), "{note}");
    }
}
