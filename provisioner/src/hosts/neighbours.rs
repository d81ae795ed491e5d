//! How the cluster is, as a host sees it with its pooler's certificate.

use std::collections::BTreeMap;
use std::sync::Arc;

use cellar_model::{CellName, DatabaseName, Key, Keyspace, Leader, PoolerStatus, Ports};
use cellar_tls::{CA_CERTIFICATE, ClientTls, ProbeProtocol, SERVER_KEY};
use cellar_topology::{EtcdEndpoint, EtcdKv, Store, StoreError};

use crate::certificates::sets::POOLER_CERTIFICATE;
use crate::cluster::cell_problem::{CellFacts, RecordedPrimary, cell_problems};
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::status::member_problems;
use crate::hosts::servers::probe_server;
use crate::hosts::turn::{Turn, take_turn};

/// The members of a database, as etcd has them.
#[derive(Debug, Default)]
pub(crate) struct Members {
    /// What completes the name of a cell where there are several databases.
    of_database: String,
    leader: Option<CellName>,
    cells: Vec<CellName>,
    statuses: BTreeMap<CellName, PoolerStatus>,
}

impl Members {
    /// Why a member is not well, if it is not. `pid` is its pooler's process, where that is known: a status outlives the
    /// process that wrote it.
    pub(crate) fn problem_of(&self, cell: &CellName, pid: Option<u32>) -> Option<String> {
        let status = self.statuses.get(cell);
        if status.is_some_and(|status| pid.is_some_and(|pid| pid != status.pid)) {
            return Some(format!("cell {cell}{}: its multipooler has just been started", self.of_database));
        }
        let primary = match &self.leader {
            Some(leader) => RecordedPrimary::Cell(leader.as_str()),
            None => RecordedPrimary::None,
        };
        let shown = format!("{cell}{}", self.of_database);
        cell_problems(&shown, cell.as_str(), status.map(CellFacts::of), primary).into_iter().next()
    }

    /// The problems of all members but that of this cell.
    pub(crate) fn problems_of_others(&self, own: &CellName) -> Vec<String> {
        let others = self.cells.iter().filter(|cell| *cell != own);
        others.filter_map(|cell| self.problem_of(cell, None)).collect()
    }
}

/// Members of etcd, as seen from a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtcdMembers {
    /// The one on this host.
    Own,
    /// Those on other hosts.
    Others,
}

/// The problems of these members of etcd. `own` is the address of this host's.
fn problems_of_members(endpoints: &[EtcdEndpoint], own: &str, members: EtcdMembers) -> Vec<String> {
    let wanted = endpoints.iter().filter(|endpoint| (endpoint.url == own) == (members == EtcdMembers::Own));
    let of_member = |endpoint: &EtcdEndpoint| {
        let url = endpoint.url.clone();
        member_problems(endpoint).into_iter().map(move |problem| format!("the etcd member {url} {problem}"))
    };
    wanted.flat_map(of_member).collect()
}

/// The records of one database, as the host's pooler of it may read them.
#[derive(Debug)]
struct OfDatabase {
    database: DatabaseName,
    store: Store,
}

/// The cluster around a host.
#[derive(Debug)]
pub(crate) struct Neighbours {
    /// Of the databases that have members here.
    databases: Vec<OfDatabase>,
    /// With the rights of any pooler of this host.
    store: Store,
    etcd: EtcdKv,
    client: ClientTls,
    cluster: Cluster,
    cell: CellName,
}

impl Neighbours {
    /// Seen from the host of a cell, with what its poolers may read.
    pub(crate) async fn of(cluster: &Cluster, cell: &CellName) -> Result<Self> {
        let (mut databases, mut any) = (Vec::new(), None);
        for member in cluster.members_here() {
            let tls = cluster.layout_of(&member).tls();
            let [ca, certificate, key] =
                [CA_CERTIFICATE, POOLER_CERTIFICATE, SERVER_KEY].map(|file| tls.join(file));
            let client = ClientTls::from_files(&ca, &certificate, &key)?;
            let etcd = EtcdKv::connect(&cluster.etcd_urls()?, Some(client.tonic_config())).await?;
            let store = Store::new(Arc::new(etcd.clone()), Keyspace::new(&cluster.state.cluster));
            let _ = any.get_or_insert_with(|| (store.clone(), etcd, client));
            databases.push(OfDatabase { database: member.database, store });
        }
        let (store, etcd, client) = any.ok_or_else(|| ProvisionError::Start {
            what: format!("a program: no database has a member in cell {cell}"),
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        Ok(Self { databases, store, etcd, client, cluster: cluster.clone(), cell: cell.clone() })
    }

    /// All members of a database that has one here.
    pub(crate) async fn members(&self, database: &DatabaseName) -> std::result::Result<Members, StoreError> {
        let known = self.databases.iter().find(|known| known.database == *database);
        let Some(OfDatabase { store, .. }) = known else {
            return Err(StoreError::Terminal(format!("this host has no member of database {database}")));
        };
        let keys = store.keys();
        let mut found = Members::default();
        if self.cluster.state.has_several_databases() {
            found.of_database = format!(" of database {database}");
        }
        let wish = self.cluster.state.database(database);
        for entry in store.list(&keys.kind("cells")).await?.entries {
            if let Some(Key::Cell(cell)) = keys.parse(&entry.key)
                && wish.is_none_or(|wish| wish.is_wanted_in(&cell))
            {
                found.cells.push(cell);
            }
        }
        for entry in store.list(&keys.of_database("status", database)).await?.entries {
            if let (Some(Key::Status(_, cell)), Ok(status)) =
                (keys.parse(&entry.key), serde_json::from_slice(&entry.value))
            {
                found.statuses.insert(cell, status);
            }
        }
        let leader = store.get::<Leader>(&Key::Leader(database.clone())).await?;
        found.leader = leader.map(|leader| leader.record.cell);
        Ok(found)
    }

    fn own_member(&self) -> Result<String> {
        let (host, port) =
            (self.cluster.host_of(&self.cell).to_owned(), self.cluster.port(Ports::ETCD_CLIENT)?);
        Ok(format!("https://{host}:{port}"))
    }

    /// The problems of these members of etcd.
    pub(crate) async fn problems_of_members(&self, members: EtcdMembers) -> Result<Vec<String>> {
        Ok(problems_of_members(&self.etcd.endpoints().await, &self.own_member()?, members))
    }

    /// Whether this host's multiadmin answers and lets its own host's pooler in: it listens once it has asked etcd.
    pub(crate) async fn probe_multiadmin(&self) -> std::result::Result<(), String> {
        let port = self.cluster.port(Ports::ADMIN_GRPC).map_err(|error| error.to_string())?;
        probe_server(self.cluster.host_of(&self.cell), port, ProbeProtocol::Grpc, &self.client)
            .await?
            .accepted
    }

    /// What is not well on other hosts.
    pub(crate) async fn problems_elsewhere(&self) -> Result<Vec<String>> {
        let mut problems = self.problems_of_members(EtcdMembers::Others).await?;
        for OfDatabase { database, .. } in &self.databases {
            problems.extend(self.members(database).await?.problems_of_others(&self.cell));
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cellar_topology::EtcdMemberStatus;

    use super::*;

    fn status(cell: &str, role: &str, change: &serde_json::Value) -> (CellName, PoolerStatus) {
        let mut text = serde_json::json!({
            "database": "app", "cell": cell, "epoch": "e", "pid": 7, "state": "INSTANCE_STATE_RUNNING",
            "role": role, "streamsFrom": "zone1", "tlsServerUp": true,
        });
        text.as_object_mut().unwrap().extend(change.as_object().cloned().unwrap_or_default());
        (cell.parse().unwrap(), serde_json::from_value(text).unwrap())
    }

    fn cells(change: &serde_json::Value) -> Members {
        Members {
            of_database: String::new(),
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
            (serde_json::json!({"state": "INSTANCE_STATE_DOWN"}), "PostgreSQL is not running"),
            (serde_json::json!({"state": "INSTANCE_STATE_BROKEN", "message": "no disk"}), "no disk"),
            (serde_json::json!({"streamsFrom": null}), "does not stream from zone1"),
            (serde_json::json!({"role": "ROLE_PRIMARY"}), "while zone1 is the recorded one"),
            (serde_json::json!({"tlsServerUp": false}), "pgBackRest TLS server"),
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

    #[test]
    fn members_are_those_of_other_hosts_or_the_own_one() {
        let endpoint = |n: u64, leader: u64| EtcdEndpoint {
            url: format!("https://db{n}:12379"),
            status: Ok(EtcdMemberStatus {
                id: n,
                leader,
                version: "3.4.23".to_owned(),
                database_bytes: 1,
                raft_index: 1,
                raft_applied_index: 1,
                raft_term: 1,
                learner: false,
                alarms: vec![],
            }),
            took: Duration::ZERO,
        };
        let mut endpoints = [endpoint(1, 0), endpoint(2, 2), endpoint(3, 2)];
        endpoints[2].status = Err("refused".to_owned());
        let problems = |members| problems_of_members(&endpoints, "https://db1:12379", members);
        assert_eq!(problems(EtcdMembers::Own), ["the etcd member https://db1:12379 has no leader"]);
        assert_eq!(
            problems(EtcdMembers::Others),
            ["the etcd member https://db3:12379 does not answer: refused"]
        );
    }
}
