//! `cellar host upgrade`: the host's programs are exchanged and started anew, one after the other, and each must be well
//! before the next. PostgreSQL goes on. One host at a time, and only while all others are well; when a new program is not,
//! the old ones come back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{CellName, ClusterLayout};
use cellar_system::{FileId, Process};

use crate::binaries;
use crate::cluster::blocking::blocking;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::host::open_host;
use crate::hosts::neighbours::{EtcdMembers, Neighbours};
use crate::hosts::program::HostProgram;
use crate::hosts::programs::{NewPrograms, forget_previous_of_those_in_use};
use crate::hosts::turn::Turn;
use crate::hosts::units::Units;
use crate::local::launch::daemon;
use crate::processes::process::Started;

/// How long another `cellar` on the same host is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it is looked whether a program is well.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What is asked of [`upgrade_host`].
#[derive(Debug)]
pub struct UpgradeOptions {
    /// The cluster's directory on this host.
    pub dir: PathBuf,
    /// The directory of the new programs; none when a package has put them in place.
    pub from: Option<PathBuf>,
    /// How long each program may take to be well.
    pub timeout: Duration,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The cell whose host this is.
    pub cell: CellName,
    /// What was started anew; empty when everything ran the programs that are in place.
    pub restarted: Vec<String>,
}

/// Exchanges this host's programs for those of a directory, or takes those that a package has put in place, and starts anew
/// what runs another one. Repeating it goes on where it stopped.
///
/// # Errors
/// When another host is being upgraded or is not well: nothing has changed then. When a program is not well afterwards: those
/// of before are back, if they came from a directory.
pub async fn upgrade_host(options: &UpgradeOptions, steps: &Steps) -> Result<Upgraded> {
    let (cluster, cell) = open_host(&options.dir)?;
    let _lock = ClusterLock::acquire(&ClusterLayout::new(&options.dir), LOCK_TIMEOUT, steps).await?;
    let new = match options.from.clone() {
        Some(from) => Some(blocking(move || NewPrograms::find(&from)).await?),
        None => None,
    };
    let neighbours = Neighbours::of(&cluster, &cell).await?;
    let turn = neighbours.take_turn().await?;
    let units = cluster.units();
    let upgrade = Upgrade { cluster, cell, neighbours, units, new, timeout: options.timeout, steps };
    let done = upgrade.run(&turn).await;
    turn.give_back().await;
    done
}

/// The upgrade of a host.
struct Upgrade<'a> {
    cluster: Cluster,
    cell: CellName,
    neighbours: Neighbours,
    units: Option<Units>,
    new: Option<NewPrograms>,
    timeout: Duration,
    steps: &'a Steps,
}

/// Whether a process runs what is in a file now: a file that was replaced is another one.
fn runs_file(pid: u32, file: &Path) -> bool {
    let running = FileId::of(Path::new(&format!("/proc/{pid}/exe")));
    running.is_ok_and(|running| FileId::of(file).is_ok_and(|file| file == running))
}

impl Upgrade<'_> {
    async fn run(&self, turn: &Turn) -> Result<Upgraded> {
        let problems = self.neighbours.problems_elsewhere().await?;
        if !problems.is_empty() {
            return Err(ProvisionError::UpgradeRefused {
                reason: format!("the cluster is not well without it: {}", problems.join("; ")),
                hint: "see to what is named (`cellar status`, `cellar etcd status` on the operator's machine), then repeat the command".to_owned(),
            });
        }
        let members = self.cluster.members_here();
        let postgres: Vec<_> = members.iter().filter_map(|one| Some((one, self.postgres(one)?))).collect();
        if let Some(new) = &self.new {
            // What an interrupted upgrade has kept is to be put back, unless its programs have come into use since, as by a start
            // of the machine: then it is older than what is well.
            let programs = self.cluster.programs_here();
            let mut run = programs.iter().map(|program| self.is_in_place(program));
            if run.try_fold(true, |all, one| one.map(|is_in_place| all && is_in_place))? {
                forget_previous_of_those_in_use()?;
            }
            if let Err(error) = new.install() {
                // Some may be in place already.
                new.put_back()?;
                return Err(error);
            }
            self.steps.step(&format!("in place: {}", new.versions.join(", ")));
        }
        let mut touched = Vec::new();
        for program in self.cluster.programs_here() {
            if self.is_in_place(&program)? {
                let what = self.cluster.what_of(&program);
                self.steps.step(&format!("{what} runs the program that is in place"));
                continue;
            }
            if !turn.is_held().await? {
                return Err(self.failed(
                    &program,
                    "it was not started anew: etcd has lost the record of this upgrade, so another host may be upgraded now".to_owned(),
                    "repeat the command: it goes on here".to_owned(),
                ));
            }
            touched.push(program.clone());
            if let Err(reason) = self.exchange(&program).await {
                let outcome = self.roll_back(&touched).await;
                return Err(self.failed(&program, reason, outcome));
            }
            self.steps.step(&format!("{} is well", self.cluster.what_of(&program)));
        }
        match &self.new {
            Some(new) => new.forget_previous()?,
            None => forget_previous_of_those_in_use()?,
        }
        for (member, before) in postgres {
            let shown = self.cluster.state.shown(member);
            let same = self.postgres(member).is_some_and(|now| now == before);
            if !same {
                return Err(ProvisionError::UpgradeFailed {
                    what: format!("PostgreSQL of cell {shown}"),
                    reason: "it is another process than before".to_owned(),
                    outcome: format!(
                        "the new programs are in place; look at {}",
                        self.cluster.layout_of(member).log().join("postgres.log").display()
                    ),
                });
            }
            let of_member = match self.cluster.state.has_several_databases() {
                true => format!(" of cell {shown}"),
                false => String::new(),
            };
            self.steps.step(&format!("PostgreSQL{of_member} is the same process as before, {}", before.pid));
        }
        self.wait_for_others().await?;
        let restarted = touched.iter().map(|program| self.cluster.what_of(program)).collect();
        Ok(Upgraded { cell: self.cell.clone(), restarted })
    }

    fn failed(&self, program: &HostProgram, reason: String, outcome: String) -> ProvisionError {
        ProvisionError::UpgradeFailed { what: self.cluster.what_of(program), reason, outcome }
    }

    /// PostgreSQL of a member: a number and a start time.
    fn postgres(&self, member: &Member) -> Option<Process> {
        let running = cellar_postgres::running(&self.cluster.layout_of(member).data());
        Process::find(running.ok().flatten()?.pid)
    }

    /// Whether a program runs from the file that is in its place.
    fn is_in_place(&self, program: &HostProgram) -> Result<bool> {
        let file = match program {
            HostProgram::Etcd => match binaries::find("etcd") {
                Some(file) => file,
                None => return Ok(false),
            },
            HostProgram::Multiadmin => daemon("multiadmin")?,
            HostProgram::Multipooler(_) => daemon("multipooler")?,
        };
        Ok(self.cluster.pid_of(program).is_some_and(|pid| runs_file(pid, &file)))
    }

    /// Starts a program anew and waits until it is well; else why it is not.
    async fn exchange(&self, program: &HostProgram) -> std::result::Result<(), String> {
        let before = self.cluster.pid_of(program);
        let mut started = self.start_anew(program, before).await.map_err(|error| text_of(&error))?;
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(started) = &mut started {
                started.check().map_err(|error| text_of(&error))?;
            }
            let pid = self.cluster.pid_of(program).filter(|pid| Some(*pid) != before);
            let problem = match pid {
                None => Some("it does not run".to_owned()),
                Some(pid) => self.problem_of(program, pid).await,
            };
            let Some(problem) = problem else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(format!("after {} s: {problem}", self.timeout.as_secs()));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn start_anew(&self, program: &HostProgram, running: Option<u32>) -> Result<Option<Started>> {
        let by_systemd = self.units.as_ref().filter(|units| match running {
            Some(pid) => units.runs(program, pid),
            None => units.are_in_use(),
        });
        if let Some(units) = by_systemd.cloned() {
            let program = program.clone();
            blocking(move || units.restart(&program)).await?;
            return Ok(None);
        }
        match program {
            HostProgram::Etcd => drop(self.cluster.stop_etcd().await?),
            HostProgram::Multiadmin => drop(self.cluster.stop_admin().await?),
            HostProgram::Multipooler(database) => {
                if let Some(member) = self.cluster.member_here(database) {
                    self.cluster.stop_pooler(&member).await?;
                }
            }
        }
        self.cluster.make_host_directories()?;
        self.cluster.start_program(program)
    }

    /// Why a program of this host is not well, if it is not.
    async fn problem_of(&self, program: &HostProgram, pid: u32) -> Option<String> {
        match program {
            HostProgram::Etcd => match self.neighbours.problems_of_members(EtcdMembers::Own).await {
                Ok(problems) => problems.into_iter().next(),
                Err(error) => Some(text_of(&error)),
            },
            HostProgram::Multiadmin => self.neighbours.probe_multiadmin().await.err(),
            HostProgram::Multipooler(database) => match self.neighbours.members(database).await {
                Ok(members) => members.problem_of(&self.cell, Some(pid)),
                Err(error) => Some(error.to_string()),
            },
        }
    }

    /// Puts the programs of before in place again and starts with them what was started anew; how that ended.
    async fn roll_back(&self, touched: &[HostProgram]) -> String {
        if let [HostProgram::Etcd] = touched {
            if let Some(Err(error)) = self.new.as_ref().map(NewPrograms::put_back) {
                return format!("the programs of before could not be put back: {}", text_of(&error));
            }
            return "it is Debian's program, and nothing of Cellar's was started anew: look at its log, or install the package of before again (`apt-get install etcd-server=VERSION`), then repeat the command".to_owned();
        }
        let Some(new) = &self.new else {
            return "the programs of before are not here any more: install their package again (`apt-get install cellar-server=VERSION cellar=VERSION`), then repeat the command".to_owned();
        };
        if let Err(error) = new.put_back() {
            return format!("the programs of before could not be put back: {}", text_of(&error));
        }
        self.steps.step("the programs of before are in place again");
        let mut problems = Vec::new();
        // etcd was well, and is none of what was put back.
        for program in touched.iter().filter(|program| **program != HostProgram::Etcd) {
            if let Err(reason) = self.exchange(program).await {
                problems.push(format!("{}: {reason}", self.cluster.what_of(program)));
            }
        }
        match problems.is_empty() {
            true => "the programs of before run again and are well".to_owned(),
            false => {
                format!("the programs of before are in place again and not well: {}", problems.join("; "))
            }
        }
    }

    /// The next host may begin only when all are well, this one too.
    async fn wait_for_others(&self) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let problems = match self.neighbours.problems_elsewhere().await {
                Ok(problems) if problems.is_empty() => return Ok(()),
                Ok(problems) => problems.join("; "),
                Err(error) => text_of(&error),
            };
            if Instant::now() >= deadline {
                return Err(ProvisionError::UpgradeFailed {
                    what: "the rest of the cluster".to_owned(),
                    reason: problems,
                    outcome: "the programs of this host are new and well: see to what is named before the next host is upgraded".to_owned(),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// An error with what caused it.
fn text_of(error: &ProvisionError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
