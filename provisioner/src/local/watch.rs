//! Waiting until cells are well, by asking multiadmin.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cellar_api::v1::{GetDatabaseRequest, InstanceState, ListPoolersRequest, PoolerStatus, Role};
use cellar_model::{CellName, DatabaseName};
use cellar_system::running_pid;
use tonic::Code as Grpc;

use crate::certificates::clients::AdminClient;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::cell_report::CellReport;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::log_tail;
use crate::local::launch::Launched;

/// How often to ask.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a cell must report that it is broken: longer than a pooler's lease, so that the report of an earlier process is
/// gone by then.
const BROKEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest page that multiadmin gives; a database has at most 256 poolers.
const MAX_PAGE: u32 = 1000;

/// The cells as multiadmin reports them.
#[derive(Debug, Default)]
pub(crate) struct Observation {
    /// The recorded primary.
    pub(crate) leader: Option<String>,
    /// What each cell's pooler reports; nothing for one that is down.
    pub(crate) status: BTreeMap<String, PoolerStatus>,
}

/// How one cell is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CellHealth {
    /// It is the primary, or streams from it; in words.
    Well(String),
    /// On its way; in words.
    NotYet(String),
    /// It does not become well without help; in words.
    Broken(String),
}

impl CellHealth {
    fn text(&self) -> &str {
        match self {
            Self::Well(text) | Self::NotYet(text) | Self::Broken(text) => text,
        }
    }
}

/// The health of a cell whose pooler is the process `pid`. Etcd holds the status of a dead one until its lease ends; it
/// is no status of the one that runs now.
pub(crate) fn assess(observed: &Observation, cell: &str, pid: Option<u32>) -> CellHealth {
    let Some(status) = observed.status.get(cell) else {
        return CellHealth::NotYet("its multipooler does not report yet".to_owned());
    };
    if pid != Some(status.pid) {
        return CellHealth::NotYet("its multipooler has just been started".to_owned());
    }
    let with_message = |state: &str| match status.message.as_str() {
        "" => state.to_owned(),
        message => format!("{state}: {message}"),
    };
    match status.state() {
        InstanceState::Running => {}
        InstanceState::Broken => return CellHealth::Broken(with_message("broken")),
        InstanceState::Waiting => return CellHealth::NotYet(with_message("waiting")),
        InstanceState::Seeding => return CellHealth::NotYet(with_message("seeding")),
        InstanceState::Starting => return CellHealth::NotYet(with_message("starting")),
        InstanceState::Down => return CellHealth::NotYet(with_message("down")),
        InstanceState::Unknown => return CellHealth::NotYet(with_message("starting")),
    }
    let role = match (status.role(), &observed.leader) {
        (Role::Primary, Some(leader)) if leader == cell => "the primary".to_owned(),
        (Role::Primary, Some(leader)) => {
            return CellHealth::NotYet(format!("a primary, while {leader} is the recorded one"));
        }
        (Role::Standby, Some(leader)) if status.streams_from.as_ref() == Some(leader) => {
            format!("streams from {leader}")
        }
        (Role::Standby, _) => return CellHealth::NotYet(with_message("a standby that does not stream yet")),
        _ => return CellHealth::NotYet(with_message("running, and its role is not known yet")),
    };
    if status.tls_server_up {
        CellHealth::Well(role)
    } else {
        CellHealth::NotYet(format!("{role}, and its pgBackRest TLS server does not answer yet"))
    }
}

/// Whether asking again later may help.
pub(crate) fn is_transient(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Unknown | Grpc::Cancelled | Grpc::NotFound
    )
}

/// Waits for one database, and reports each change.
pub(crate) struct Watcher<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) database: DatabaseName,
    pub(crate) admin: AdminClient,
    launched: &'a Mutex<Launched>,
    pub(crate) steps: &'a Steps,
    pub(crate) begun: Instant,
    pub(crate) deadline: Instant,
    reported: BTreeMap<CellName, String>,
    broken: BTreeMap<CellName, Instant>,
}

impl<'a> Watcher<'a> {
    pub(crate) async fn new(
        cluster: &'a Cluster,
        database: &DatabaseName,
        launched: &'a Mutex<Launched>,
        steps: &'a Steps,
        deadline: Instant,
    ) -> Result<Self> {
        Ok(Self {
            cluster,
            database: database.clone(),
            admin: cluster.admin().await?,
            launched,
            steps,
            begun: Instant::now(),
            deadline,
            reported: BTreeMap::new(),
            broken: BTreeMap::new(),
        })
    }

    /// An error when something that was started has ended.
    pub(crate) fn check_launched(&self) -> Result<()> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner).check()
    }

    /// Tells a step, and of which database it is where there are several.
    pub(crate) fn tell(&self, text: &str) {
        self.steps.step(&format!("{}{text}", self.cluster.state.prefix(&self.database)));
    }

    fn member(&self, cell: &CellName) -> Member {
        Member { cell: cell.clone(), database: self.database.clone() }
    }

    async fn observe(&mut self) -> std::result::Result<Observation, tonic::Status> {
        let name = self.database.to_string();
        let database = self.admin.get_database(GetDatabaseRequest { name: name.clone() }).await?.into_inner();
        let request = ListPoolersRequest { database: name, page_size: MAX_PAGE, page_token: String::new() };
        let poolers = self.admin.list_poolers(request).await?.into_inner().poolers;
        let status = poolers
            .into_iter()
            .filter_map(|view| view.status)
            .map(|status| (status.cell.clone(), status))
            .collect();
        Ok(Observation { leader: database.leader.map(|leader| leader.cell), status })
    }

    fn assess(&self, observed: &Observation, cell: &CellName) -> CellHealth {
        let pid = match self.cluster.is_local() {
            true => running_pid(&self.cluster.pooler_pid_file(&self.member(cell))),
            // Whether it is that of a process that has died meanwhile, only its host knows.
            false => observed.status.get(cell.as_str()).map(|status| status.pid),
        };
        assess(observed, cell.as_str(), pid)
    }

    fn reports(&self, observed: &Observation, cells: &[CellName]) -> Vec<CellReport> {
        let report = |cell: &CellName| match self.assess(observed, cell) {
            CellHealth::Well(_) => None,
            CellHealth::NotYet(state) | CellHealth::Broken(state) => {
                let log = self.cluster.pooler_log(&self.member(cell));
                let tail = log_tail(&log);
                let cell = self.cluster.state.shown(&self.member(cell));
                Some(CellReport { cell, state, log, tail })
            }
        };
        cells.iter().filter_map(report).collect()
    }

    fn report_change(&mut self, cell: &CellName, health: &CellHealth) {
        let text = health.text().to_owned();
        if self.reported.get(cell) != Some(&text) {
            let shown = self.cluster.state.shown(&self.member(cell));
            self.steps.step(&format!("cell {shown}: {text}"));
            self.reported.insert(cell.clone(), text);
        }
    }

    /// Which cells have said for long enough that they are broken.
    fn is_broken(&mut self, cell: &CellName, health: &CellHealth) -> bool {
        if !matches!(health, CellHealth::Broken(_)) {
            self.broken.remove(cell);
            return false;
        }
        self.broken.entry(cell.clone()).or_insert_with(Instant::now).elapsed() > BROKEN_TIMEOUT
    }

    /// Waits until `cells` (or with `any_primary` just the recorded primary) are well; gives the primary.
    async fn wait(&mut self, cells: &[CellName], any_primary: bool, what: &str) -> Result<String> {
        loop {
            self.check_launched()?;
            let error = match self.observe().await {
                Ok(observed) => {
                    let healths: Vec<_> =
                        cells.iter().map(|cell| (cell, self.assess(&observed, cell))).collect();
                    let mut broken = false;
                    for (cell, health) in &healths {
                        self.report_change(cell, health);
                        broken |= self.is_broken(cell, health);
                    }
                    let well = |cell: &str| {
                        healths.iter().any(|(c, v)| c.as_str() == cell && matches!(v, CellHealth::Well(_)))
                    };
                    let done = match &observed.leader {
                        Some(leader) if any_primary => well(leader),
                        Some(_) => healths.iter().all(|(_, v)| matches!(v, CellHealth::Well(_))),
                        None => false,
                    };
                    if let (true, Some(leader)) = (done, &observed.leader) {
                        return Ok(leader.clone());
                    }
                    if broken || Instant::now() >= self.deadline {
                        return Err(ProvisionError::NotStreaming {
                            what: format!("{}{what}", self.cluster.state.prefix(&self.database)),
                            after: self.begun.elapsed(),
                            cells: self.reports(&observed, cells),
                        });
                    }
                    None
                }
                Err(status) if is_transient(&status) => {
                    if !self.cluster.is_local() {
                        // Another one may answer.
                        self.admin = self.cluster.admin().await?;
                    }
                    Some(status)
                }
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
            tokio::time::sleep(POLL_INTERVAL).await;
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
        let members = self.cluster.state.members_of(&self.database);
        members.into_iter().map(|member| member.cell).collect()
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
    fn only_a_streaming_standby_or_the_primary_is_well() {
        let well = |leader, status| {
            matches!(assess(&observed(leader, status), "zone2", Some(42)), CellHealth::Well(_))
        };
        assert!(well(Some("zone1"), standby()));
        assert!(!well(Some("zone3"), standby()));
        assert!(!well(None, standby()));
        assert!(!well(Some("zone1"), PoolerStatus { streams_from: None, ..standby() }));
        assert!(!well(Some("zone1"), PoolerStatus { tls_server_up: false, ..standby() }));
        assert!(!well(Some("zone1"), PoolerStatus { role: Role::Primary.into(), ..standby() }));
        assert!(well(Some("zone2"), PoolerStatus { role: Role::Primary.into(), ..standby() }));
        let broken = PoolerStatus { state: InstanceState::Broken.into(), message: "no".into(), ..standby() };
        assert_eq!(
            assess(&observed(Some("zone1"), broken), "zone2", Some(42)),
            CellHealth::Broken("broken: no".into())
        );
        assert!(matches!(assess(&Observation::default(), "zone2", Some(42)), CellHealth::NotYet(_)));
    }

    #[test]
    fn report_of_an_earlier_process_does_not_count() {
        for running in [Some(43), None] {
            let health = assess(&observed(Some("zone1"), standby()), "zone2", running);
            assert_eq!(health, CellHealth::NotYet("its multipooler has just been started".into()));
        }
    }
}
