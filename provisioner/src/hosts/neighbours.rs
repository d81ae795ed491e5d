//! How the cluster is, as a host sees it with its pooler's certificate, and the record by which one host at a time is
//! upgraded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cellar_model::{
    CellName, HostUpgrade, InstanceState, Key, Keyspace, Leader, PoolerStatus, Ports, Role, timestamp_text,
};
use cellar_system::clock;
use cellar_tls::{CA_CERTIFICATE, ClientTls, SERVER_KEY};
use cellar_topology::{EtcdEndpoint, EtcdKv, LeaseKeeper, Store, StoreError, TxnOutcome};

use crate::certificates::sets::POOLER_CERTIFICATE;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};

/// How long the record outlives the process that holds it, in seconds: longer than etcd needs for a new leader.
const LEASE_SECONDS: u32 = 30;

/// How long etcd may take to give a lease.
const LEASE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often the record is tried to be written.
const MAX_ATTEMPTS: u32 = 10;

/// The cells of a cluster, as etcd has them.
#[derive(Debug, Default)]
pub(crate) struct Cells {
    leader: Option<CellName>,
    cells: Vec<CellName>,
    statuses: BTreeMap<CellName, PoolerStatus>,
}

impl Cells {
    /// Why a cell is not well, if it is not. `pid` is its pooler's process, where that is known: a status outlives the
    /// process that wrote it.
    pub(crate) fn problem_of(&self, cell: &CellName, pid: Option<u32>) -> Option<String> {
        let told = |why: &str| Some(format!("cell {cell}: {why}"));
        let Some(status) = self.statuses.get(cell) else { return told("its multipooler does not report") };
        if pid.is_some_and(|pid| pid != status.pid) {
            return told("its multipooler has just been started");
        }
        if status.state != InstanceState::Running {
            let message = if status.message.is_empty() { "PostgreSQL does not run" } else { &status.message };
            return told(message);
        }
        let Some(leader) = &self.leader else { return told("no primary is recorded") };
        match status.role {
            Role::Primary if leader == cell => {}
            Role::Primary => return told(&format!("a primary, while {leader} is the recorded one")),
            _ if status.streams_from(leader) => {}
            _ => return told(&format!("it does not stream from {leader}")),
        }
        (!status.tls_server_up).then(|| format!("cell {cell}: its pgBackRest server does not answer"))
    }

    /// The problems of all cells but this one.
    pub(crate) fn problems_of_others(&self, own: &CellName) -> Vec<String> {
        let others = self.cells.iter().filter(|cell| *cell != own);
        others.filter_map(|cell| self.problem_of(cell, None)).collect()
    }
}

/// The problems of etcd's members whose addresses are wanted.
fn problems_of_members(endpoints: &[EtcdEndpoint], is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let problem = |endpoint: &EtcdEndpoint| {
        let url = &endpoint.url;
        match &endpoint.status {
            Err(reason) => Some(format!("the etcd member {url} does not answer: {reason}")),
            Ok(status) if status.leader == 0 => Some(format!("the etcd member {url} has no leader")),
            Ok(status) if status.learner => Some(format!("the etcd member {url} is a learner")),
            Ok(status) if !status.alarms.is_empty() => {
                Some(format!("the etcd member {url} has the alarm {}", status.alarms.join(", ")))
            }
            Ok(_) => None,
        }
    };
    endpoints.iter().filter(|endpoint| is_wanted(&endpoint.url)).filter_map(problem).collect()
}

/// The cluster around a host.
#[derive(Debug)]
pub(crate) struct Neighbours {
    store: Store,
    etcd: EtcdKv,
    cluster: Cluster,
    cell: CellName,
}

impl Neighbours {
    /// Seen from the host of a cell, with what its pooler may read.
    pub(crate) async fn of(cluster: &Cluster, cell: &CellName) -> Result<Self> {
        let tls = cluster.layout.cell(cell).tls();
        let [ca, certificate, key] =
            [CA_CERTIFICATE, POOLER_CERTIFICATE, SERVER_KEY].map(|file| tls.join(file));
        let client = ClientTls::from_files(&ca, &certificate, &key)?;
        let etcd = EtcdKv::connect(&cluster.etcd_urls()?, Some(client.tonic_config())).await?;
        let store = Store::new(Arc::new(etcd.clone()), Keyspace::new(&cluster.state.cluster));
        Ok(Self { store, etcd, cluster: cluster.clone(), cell: cell.clone() })
    }

    /// All cells of the database.
    pub(crate) async fn cells(&self) -> std::result::Result<Cells, StoreError> {
        let (keys, database) = (self.store.keys(), &self.cluster.state.database);
        let mut found = Cells::default();
        for entry in self.store.list(&keys.kind("cells")).await?.entries {
            if let Some(Key::Cell(cell)) = keys.parse(&entry.key) {
                found.cells.push(cell);
            }
        }
        for entry in self.store.list(&keys.of_database("status", database)).await?.entries {
            if let (Some(Key::Status(_, cell)), Ok(status)) =
                (keys.parse(&entry.key), serde_json::from_slice(&entry.value))
            {
                found.statuses.insert(cell, status);
            }
        }
        let leader = self.store.get::<Leader>(&Key::Leader(database.clone())).await?;
        found.leader = leader.map(|leader| leader.record.cell);
        Ok(found)
    }

    fn own_member(&self) -> Result<String> {
        let (host, port) =
            (self.cluster.host_of(&self.cell).to_owned(), self.cluster.port(Ports::ETCD_CLIENT)?);
        Ok(format!("https://{host}:{port}"))
    }

    /// The problems of etcd's members on other hosts, or with `own` of this host's.
    pub(crate) async fn problems_of_members(&self, own: bool) -> Result<Vec<String>> {
        let here = self.own_member()?;
        Ok(problems_of_members(&self.etcd.endpoints().await, |url| (url == here) == own))
    }

    /// What is not well on other hosts.
    pub(crate) async fn problems_elsewhere(&self) -> Result<Vec<String>> {
        let mut problems = self.problems_of_members(false).await?;
        problems.extend(self.cells().await?.problems_of_others(&self.cell));
        Ok(problems)
    }

    /// Takes the right to upgrade this host, which one host has at a time.
    ///
    /// # Errors
    /// When another host is being upgraded.
    pub(crate) async fn take_turn(&self) -> Result<Turn> {
        take_turn(&self.store, &self.cell).await
    }
}

/// The right to upgrade a host, until it is given back; at the latest when its process has ended for half a minute.
#[derive(Debug)]
pub(crate) struct Turn {
    store: Store,
    _keeper: LeaseKeeper,
    revision: i64,
}

async fn take_turn(store: &Store, cell: &CellName) -> Result<Turn> {
    let keeper = LeaseKeeper::start(store.kv().clone(), LEASE_SECONDS);
    let mut changes = keeper.subscribe();
    let lease = tokio::time::timeout(LEASE_TIMEOUT, changes.wait_for(Option::is_some)).await;
    let Ok(Ok(Some(lease))) = lease.map(|held| held.map(|held| *held)) else {
        return Err(StoreError::Retryable("it gives no lease".to_owned()).into());
    };
    let key = Key::HostUpgrade;
    let record = HostUpgrade { cell: cell.clone(), pid: std::process::id(), begun: Some(clock::now()) };
    for _ in 0..MAX_ATTEMPTS {
        let found = store.get::<HostUpgrade>(&key).await.map_err(explained)?;
        let revision = match &found {
            None => 0,
            // An answer that was lost.
            Some(found) if found.record == record => {
                return Ok(Turn { store: store.clone(), _keeper: keeper, revision: found.revision });
            }
            // The directory's lock is ours, so it is of a process that has ended.
            Some(found) if found.record.cell == *cell => found.revision,
            Some(found) => return Err(is_taken(&found.record)),
        };
        match store.transaction().expect(&key, revision).put_leased(&key, &record, lease).commit().await {
            Ok(TxnOutcome::Committed(revision)) => {
                return Ok(Turn { store: store.clone(), _keeper: keeper, revision });
            }
            Ok(TxnOutcome::Conflict) => {}
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(explained(error)),
        }
    }
    Err(StoreError::Retryable("the record of upgrades changes all the time".to_owned()).into())
}

/// The users of a cluster that an earlier version set up may not use the record.
fn explained(error: StoreError) -> ProvisionError {
    match error {
        StoreError::Terminal(reason) if reason.contains("permission denied") => {
            ProvisionError::UpgradeRefused {
                reason: format!("etcd does not let this host's multipooler record upgrades ({reason})"),
                hint:
                    "update the operator's machine first and run `cellar cluster wait` there: it grants that"
                        .to_owned(),
            }
        }
        error => error.into(),
    }
}

fn is_taken(holder: &HostUpgrade) -> ProvisionError {
    let since = holder.begun.map_or_else(String::new, |begun| format!(", since {}", timestamp_text(begun)));
    ProvisionError::UpgradeRefused {
        reason: format!("the host of cell {} is being upgraded{since}", holder.cell),
        hint: "hosts are upgraded one at a time: wait until it has ended there. If it was interrupted, that is known within half a minute".to_owned(),
    }
}

impl Turn {
    /// Whether it is still ours.
    pub(crate) async fn is_held(&self) -> Result<bool> {
        let found = self.store.get::<HostUpgrade>(&Key::HostUpgrade).await?;
        Ok(found.is_some_and(|found| found.revision == self.revision))
    }

    /// Gives it back. When etcd does not answer, its lease does that.
    pub(crate) async fn give_back(self) {
        let given = self.store.transaction().expect(&Key::HostUpgrade, self.revision);
        let _ = given.delete(&Key::HostUpgrade).commit().await;
    }
}

#[cfg(test)]
mod tests {
    use cellar_topology::MemoryKv;

    use super::*;

    fn status(cell: &str, role: &str, change: &serde_json::Value) -> (CellName, PoolerStatus) {
        let mut text = serde_json::json!({
            "database": "app", "cell": cell, "epoch": "e", "pid": 7, "state": "INSTANCE_STATE_RUNNING",
            "role": role, "streamsFrom": "zone1", "tlsServerUp": true,
        });
        text.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap_or_default());
        (cell.parse().unwrap(), serde_json::from_value(text).unwrap())
    }

    fn cells(change: &serde_json::Value) -> Cells {
        Cells {
            leader: Some("zone1".parse().unwrap()),
            cells: ["zone1", "zone2"].map(|cell| cell.parse().unwrap()).to_vec(),
            statuses: BTreeMap::from([
                status("zone1", "ROLE_PRIMARY", &serde_json::json!({})),
                status("zone2", "ROLE_STANDBY", change),
            ]),
        }
    }

    #[test]
    fn only_the_primary_and_what_streams_from_it_is_well() {
        let (one, two): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let well = cells(&serde_json::json!({}));
        assert_eq!((well.problem_of(&one, Some(7)), well.problem_of(&two, None)), (None, None));
        assert!(well.problem_of(&two, Some(8)).unwrap().contains("just been started"));
        for (change, said) in [
            (serde_json::json!({"state": "INSTANCE_STATE_DOWN"}), "PostgreSQL does not run"),
            (serde_json::json!({"state": "INSTANCE_STATE_BROKEN", "message": "no disk"}), "no disk"),
            (serde_json::json!({"streamsFrom": null}), "does not stream from zone1"),
            (serde_json::json!({"role": "ROLE_PRIMARY"}), "while zone1 is the recorded one"),
            (serde_json::json!({"tlsServerUp": false}), "pgBackRest server"),
        ] {
            let cells = cells(&change);
            let problems = cells.problems_of_others(&one);
            assert!(problems.len() == 1 && problems[0].contains(said), "{problems:?}");
            assert_eq!(cells.problems_of_others(&two), [""; 0], "the own cell may be what is to be mended");
        }
        let mut silent = cells(&serde_json::json!({}));
        silent.statuses.remove(&two);
        assert!(silent.problems_of_others(&one)[0].contains("does not report"));
        silent.leader = None;
        assert!(silent.problem_of(&one, None).unwrap().contains("no primary"));
    }

    #[tokio::test]
    async fn one_host_at_a_time_has_its_turn() {
        let store = Store::new(Arc::new(MemoryKv::default()), Keyspace::new(&"demo".parse().unwrap()));
        let (one, two): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let turn = take_turn(&store, &one).await.unwrap();
        assert!(turn.is_held().await.unwrap());
        let refused = take_turn(&store, &two).await.unwrap_err();
        assert!(refused.to_string().contains("cell zone1 is being upgraded"), "{refused}");
        assert!(refused.hint().is_some());
        // The same host goes on from one that was interrupted, whose turn that is no more.
        let next = take_turn(&store, &one).await.unwrap();
        assert!(!turn.is_held().await.unwrap());
        turn.give_back().await;
        assert!(next.is_held().await.unwrap(), "who has lost it gives nothing back");
        next.give_back().await;
        take_turn(&store, &two).await.unwrap().give_back().await;
    }
}
