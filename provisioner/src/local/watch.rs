//! Waiting until cells are as they should be, by asking multiadmin.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cellar_api::v1::{GetDatabaseRequest, InstanceState, ListPoolersRequest, PoolerStatus, Role};
use cellar_model::CellName;
use cellar_system::running_pid;
use tonic::Code as Grpc;

use crate::error::{CellReport, ProvisionError, Result};
use crate::file::log_tail;
use crate::local::cluster::{AdminClient, Cluster};
use crate::local::launch::Launched;
use crate::local::steps::Steps;

/// How often to ask.
const POLL: Duration = Duration::from_millis(100);

/// How long a cell may say that it is broken before it is believed: longer than a pooler's lease, so
/// that what an earlier process said is gone.
const BROKEN_PATIENCE: Duration = Duration::from_secs(20);

/// The largest page that multiadmin gives; a database has at most 256 poolers.
const PAGE: u32 = 1000;

/// What multiadmin says of the cells now.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// The recorded primary.
    pub(crate) leader: Option<String>,
    /// What each cell's pooler says; nothing for one that is down.
    pub(crate) status: BTreeMap<String, PoolerStatus>,
}

/// How one cell is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the primary, or streams from it; in words.
    Well(String),
    /// On its way; in words.
    NotYet(String),
    /// It does not become well without somebody; in words.
    Broken(String),
}

impl Verdict {
    fn words(&self) -> &str {
        match self {
            Self::Well(words) | Self::NotYet(words) | Self::Broken(words) => words,
        }
    }
}

/// Judges a cell whose pooler is the process `pid`. Etcd holds the status of a dead one until its lease ends; it
/// says nothing about the one that runs now.
pub(crate) fn judge(observed: &Observation, cell: &str, pid: Option<u32>) -> Verdict {
    let Some(status) = observed.status.get(cell) else {
        return Verdict::NotYet("its multipooler does not report yet".to_owned());
    };
    if pid != Some(status.pid) {
        return Verdict::NotYet("its multipooler has just been started".to_owned());
    }
    let with_message = |state: &str| match status.message.as_str() {
        "" => state.to_owned(),
        message => format!("{state}: {message}"),
    };
    match status.state() {
        InstanceState::Running => {}
        InstanceState::Broken => return Verdict::Broken(with_message("broken")),
        InstanceState::Waiting => return Verdict::NotYet(with_message("waiting")),
        InstanceState::Seeding => return Verdict::NotYet(with_message("seeding")),
        InstanceState::Starting => return Verdict::NotYet(with_message("starting")),
        InstanceState::Down => return Verdict::NotYet(with_message("down")),
        InstanceState::Unknown => return Verdict::NotYet(with_message("starting")),
    }
    let role = match (status.role(), &observed.leader) {
        (Role::Primary, Some(leader)) if leader == cell => "the primary".to_owned(),
        (Role::Primary, Some(leader)) => {
            return Verdict::NotYet(format!("a primary, while {leader} is the recorded one"));
        }
        (Role::Standby, Some(leader)) if status.streams_from.as_ref() == Some(leader) => {
            format!("streams from {leader}")
        }
        (Role::Standby, _) => return Verdict::NotYet(with_message("a standby that does not stream yet")),
        _ => return Verdict::NotYet(with_message("running, and its role is not known yet")),
    };
    if status.tls_server_up {
        Verdict::Well(role)
    } else {
        Verdict::NotYet(format!("{role}, and its pgBackRest TLS server does not answer yet"))
    }
}

/// Whether asking again later may help.
pub(crate) fn is_passing(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Unknown | Grpc::Cancelled | Grpc::NotFound
    )
}

/// Waits, and tells of changes.
pub(crate) struct Watcher<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) admin: AdminClient,
    pub(crate) launched: &'a mut Launched,
    pub(crate) steps: &'a Steps,
    pub(crate) begun: Instant,
    pub(crate) deadline: Instant,
    told: BTreeMap<CellName, String>,
    broken: BTreeMap<CellName, Instant>,
}

impl<'a> Watcher<'a> {
    pub(crate) fn new(
        cluster: &'a Cluster,
        launched: &'a mut Launched,
        steps: &'a Steps,
        deadline: Instant,
    ) -> Result<Self> {
        Ok(Self {
            cluster,
            admin: cluster.admin()?,
            launched,
            steps,
            begun: Instant::now(),
            deadline,
            told: BTreeMap::new(),
            broken: BTreeMap::new(),
        })
    }

    async fn observe(&mut self) -> std::result::Result<Observation, tonic::Status> {
        let name = self.cluster.state.database.to_string();
        let database = self.admin.get_database(GetDatabaseRequest { name: name.clone() }).await?.into_inner();
        let request = ListPoolersRequest { database: name, page_size: PAGE, page_token: String::new() };
        let poolers = self.admin.list_poolers(request).await?.into_inner().poolers;
        let status = poolers
            .into_iter()
            .filter_map(|view| view.status)
            .map(|status| (status.cell.clone(), status))
            .collect();
        Ok(Observation { leader: database.leader.map(|leader| leader.cell), status })
    }

    fn judge(&self, observed: &Observation, cell: &CellName) -> Verdict {
        judge(observed, cell.as_str(), running_pid(&self.cluster.pooler_pid_file(cell)))
    }

    fn reports(&self, observed: &Observation, cells: &[CellName]) -> Vec<CellReport> {
        let report = |cell: &CellName| match self.judge(observed, cell) {
            Verdict::Well(_) => None,
            Verdict::NotYet(state) | Verdict::Broken(state) => {
                let log = self.cluster.pooler_log(cell);
                let tail = log_tail(&log);
                Some(CellReport { cell: cell.to_string(), state, log, tail })
            }
        };
        cells.iter().filter_map(report).collect()
    }

    fn tell(&mut self, cell: &CellName, verdict: &Verdict) {
        let words = verdict.words().to_owned();
        if self.told.get(cell) != Some(&words) {
            self.steps.step(&format!("cell {cell}: {words}"));
            self.told.insert(cell.clone(), words);
        }
    }

    /// Which cells have said for long enough that they are broken.
    fn is_broken(&mut self, cell: &CellName, verdict: &Verdict) -> bool {
        if !matches!(verdict, Verdict::Broken(_)) {
            self.broken.remove(cell);
            return false;
        }
        self.broken.entry(cell.clone()).or_insert_with(Instant::now).elapsed() > BROKEN_PATIENCE
    }

    /// Waits until `cells` (or with `any_primary` just the recorded primary) are well; gives the primary.
    async fn wait(&mut self, cells: &[CellName], any_primary: bool, what: &str) -> Result<String> {
        loop {
            self.launched.check()?;
            let error = match self.observe().await {
                Ok(observed) => {
                    let verdicts: Vec<_> =
                        cells.iter().map(|cell| (cell, self.judge(&observed, cell))).collect();
                    let mut broken = false;
                    for (cell, verdict) in &verdicts {
                        self.tell(cell, verdict);
                        broken |= self.is_broken(cell, verdict);
                    }
                    let well = |cell: &str| {
                        verdicts.iter().any(|(c, v)| c.as_str() == cell && matches!(v, Verdict::Well(_)))
                    };
                    let done = match &observed.leader {
                        Some(leader) if any_primary => well(leader),
                        Some(_) => verdicts.iter().all(|(_, v)| matches!(v, Verdict::Well(_))),
                        None => false,
                    };
                    if let (true, Some(leader)) = (done, &observed.leader) {
                        return Ok(leader.clone());
                    }
                    if broken || Instant::now() >= self.deadline {
                        return Err(ProvisionError::NotStreaming {
                            what: what.to_owned(),
                            after: self.begun.elapsed(),
                            cells: self.reports(&observed, cells),
                        });
                    }
                    None
                }
                Err(status) if is_passing(&status) => Some(status),
                Err(status) => return Err(status.into()),
            };
            if let Some(status) = error.filter(|_| Instant::now() >= self.deadline) {
                let log = self.cluster.admin_log();
                return Err(ProvisionError::NoAnswer {
                    what: "multiadmin".to_owned(),
                    after: self.begun.elapsed(),
                    reason: status.message().to_owned(),
                    tail: log_tail(&log),
                    log,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits for the primary; gives its cell.
    pub(crate) async fn wait_for_primary(&mut self) -> Result<String> {
        let cells = self.cell_names();
        self.wait(&cells, true, "there is no primary").await
    }

    /// Waits until these cells are the primary or stream from it.
    pub(crate) async fn wait_until_well(&mut self, cells: &[CellName]) -> Result<String> {
        self.wait(cells, false, "not every cell streams from the primary").await
    }

    pub(crate) fn cell_names(&self) -> Vec<CellName> {
        self.cluster.state.cells.iter().map(|cell| cell.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(leader: Option<&str>, status: PoolerStatus) -> Observation {
        Observation {
            leader: leader.map(str::to_owned),
            status: BTreeMap::from([(status.cell.clone(), status)]),
        }
    }

    fn standby() -> PoolerStatus {
        PoolerStatus {
            cell: "zone2".into(),
            pid: 42,
            state: InstanceState::Running.into(),
            role: Role::Standby.into(),
            streams_from: Some("zone1".into()),
            tls_server_up: true,
            ..PoolerStatus::default()
        }
    }

    #[test]
    fn only_a_streaming_standby_is_well() {
        let well =
            |leader, status| matches!(judge(&observed(leader, status), "zone2", Some(42)), Verdict::Well(_));
        assert!(well(Some("zone1"), standby()));
        assert!(!well(Some("zone3"), standby()));
        assert!(!well(None, standby()));
        assert!(!well(Some("zone1"), PoolerStatus { streams_from: None, ..standby() }));
        assert!(!well(Some("zone1"), PoolerStatus { tls_server_up: false, ..standby() }));
        assert!(!well(Some("zone1"), PoolerStatus { role: Role::Primary.into(), ..standby() }));
        assert!(well(Some("zone2"), PoolerStatus { role: Role::Primary.into(), ..standby() }));
        let broken = PoolerStatus { state: InstanceState::Broken.into(), message: "no".into(), ..standby() };
        assert_eq!(
            judge(&observed(Some("zone1"), broken), "zone2", Some(42)),
            Verdict::Broken("broken: no".into())
        );
        assert!(matches!(judge(&Observation::default(), "zone2", Some(42)), Verdict::NotYet(_)));
    }

    #[test]
    fn what_an_earlier_process_said_does_not_count() {
        for running in [Some(43), None] {
            let verdict = judge(&observed(Some("zone1"), standby()), "zone2", running);
            assert_eq!(verdict, Verdict::NotYet("its multipooler has just been started".into()));
        }
    }
}
