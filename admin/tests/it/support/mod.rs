//! A cluster in memory: one primary, two standbys, and poolers that behave as the test says.

#![allow(unreachable_pub, reason = "a module of a test binary")]

pub mod pooler;
pub mod raw;
pub mod tls;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cellar_admin::{Admin, AuditLog, Dial};
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::{
    AuditRecord, Cell, CellLayout, CellName, Database, DatabaseName, InstanceState, JobId, JobRecord,
    JobState, Key, Keyspace, Leader, Lock, PoolerStatus, Progress, Protocol, Retention, Role, Run,
    SystemIdentifier, Timeline,
};
use cellar_topology::{MemoryKv, Store, TxnOutcome, Write};
use jiff::Timestamp;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

/// Long enough for a loaded machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Waits for a condition; `what` names it when it is not met in time.
pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn db() -> DatabaseName {
    "app".parse().unwrap()
}

pub fn zone(n: u32) -> CellName {
    format!("zone{n}").parse().unwrap()
}

pub struct World {
    pub kv: MemoryKv,
    pub store: Store,
    directory: tempfile::TempDir,
}

impl World {
    /// zone1 is the primary of `app`; zone2 and zone3 stream from it.
    pub async fn new() -> Self {
        let world = Self::empty();
        world.put(&Key::Database(db()), &database("app")).await;
        for n in 1..=3 {
            world.join(n).await;
        }
        let leader = Leader {
            cell: zone(1),
            term: Timeline::new(1),
            system_identifier: None,
            lsn: None,
            leadership: None,
        };
        world.put(&Key::Leader(db()), &leader).await;
        world
    }

    pub fn empty() -> Self {
        let kv = MemoryKv::default();
        let store = Store::new(Arc::new(kv.clone()), Keyspace::new(&"demo".parse().unwrap()));
        Self { kv, store, directory: tempfile::tempdir().unwrap() }
    }

    /// Adds a cell whose pooler reports.
    pub async fn join(&self, n: u32) {
        let cell = Cell {
            name: zone(n),
            index: n - 1,
            host: "localhost".parse().unwrap(),
            directory: format!("/c/zone{n}"),
        };
        let pooler = CellLayout::new(&cell.directory).pooler(&database("app"), &cell, "127.0.0.1").unwrap();
        self.put(&Key::Cell(zone(n)), &cell).await;
        self.put(&Key::Pooler(db(), zone(n)), &pooler).await;
        self.put(&Key::Status(db(), zone(n)), &status(n)).await;
    }

    /// Records that the database has been made, in zone1.
    pub async fn record_made_primary(&self) {
        let leader = Leader {
            cell: zone(1),
            term: Timeline::new(1),
            system_identifier: Some(SystemIdentifier::new(7)),
            lsn: None,
            leadership: None,
        };
        self.put(&Key::Leader(db()), &leader).await;
    }

    pub async fn put<R: serde::Serialize>(&self, key: &Key, record: &R) {
        self.put_raw(&self.store.keys().path(key), &serde_json::to_vec(record).unwrap()).await;
    }

    pub async fn put_raw(&self, key: &str, value: &[u8]) {
        let write = Write::Put { key: key.to_owned(), value: value.to_vec(), lease: None };
        self.store.kv().txn(vec![], vec![write]).await.unwrap();
    }

    pub async fn delete(&self, key: &Key) {
        let write = Write::Delete { key: self.store.keys().path(key) };
        self.store.kv().txn(vec![], vec![write]).await.unwrap();
    }

    pub async fn admin(&self) -> Admin {
        self.admin_dialing(no_pooler()).await
    }

    pub async fn admin_dialing(&self, dial: Arc<Dial>) -> Admin {
        let admin = self.starting(dial);
        assert!(admin.ready(WAIT_TIMEOUT).await);
        admin
    }

    /// An admin whose view may not be complete yet.
    pub fn starting(&self, dial: Arc<Dial>) -> Admin {
        Admin::start(self.store.clone(), dial, AuditLog::open(&self.audit_log()).unwrap())
    }

    /// The file with the audit trail of all admins of this world.
    pub fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    /// The records in that file.
    pub fn audit_lines(&self) -> Vec<AuditRecord> {
        let text = std::fs::read_to_string(self.audit_log()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn job(&self, id: &JobId) -> Option<JobRecord> {
        self.store.get(&Key::Job(db(), *id)).await.unwrap().map(|found| found.record)
    }

    pub async fn lock(&self) -> Lock {
        self.store.get(&Key::Lock(db())).await.unwrap().map(|found| found.record).unwrap_or_default()
    }

    /// Claims the job as its pooler does; false when the guards do not hold.
    pub async fn claim(&self, job: &v1::Job) -> bool {
        let id: JobId = job.id.parse().unwrap();
        let cell: CellName = job.cell.parse().unwrap();
        let record = self.store.get::<JobRecord>(&Key::Job(db(), id)).await.unwrap().unwrap();
        let lock = self.store.get::<Lock>(&Key::Lock(db())).await.unwrap().unwrap();
        if record.record.closure.is_some() || lock.record.holder != Some(id) {
            return false;
        }
        let outcome = self
            .store
            .transaction()
            .expect(&Key::Job(db(), id), record.revision)
            .expect(&Key::Lock(db()), lock.revision)
            .expect_absent(&Key::Run(db(), cell.clone(), id))
            .put(&Key::Run(db(), cell.clone(), id), &run(&record.record, JobState::Running))
            .put(&Key::Claim(db(), cell, id), &"epoch".to_owned())
            .commit()
            .await
            .unwrap();
        matches!(outcome, TxnOutcome::Committed(_))
    }

    /// Writes the end of the run, as the job's pooler does.
    pub async fn finish(&self, job: &v1::Job, state: JobState) {
        let id: JobId = job.id.parse().unwrap();
        let record = self.job(&id).await.unwrap();
        let cell = record.cell.clone();
        self.store
            .transaction()
            .put(&Key::Run(db(), cell.clone(), id), &run(&record, state))
            .delete(&Key::Claim(db(), cell, id))
            .commit()
            .await
            .unwrap();
    }

    /// Removes the job's claim, as when its pooler dies.
    pub async fn lose(&self, job: &v1::Job) {
        self.delete(&Key::Claim(db(), job.cell.parse().unwrap(), job.id.parse().unwrap())).await;
    }

    /// Everything that etcd has, except the audit records: to check that nothing was changed.
    pub async fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let (listing, audit) =
            (self.store.list(&self.store.keys().all()).await.unwrap(), self.store.keys().kind("audit"));
        let entries = listing.entries.into_iter().filter(|entry| !entry.key.starts_with(&audit));
        entries.map(|entry| (entry.key, entry.value)).collect()
    }
}

/// No pooler can be reached.
pub fn no_pooler() -> Arc<Dial> {
    Arc::new(|_| Ok(Endpoint::from_static("http://127.0.0.1:1").connect_lazy()))
}

pub fn database(name: &str) -> Database {
    Database {
        name: name.parse().unwrap(),
        stanza: name.parse().unwrap(),
        repository: "/repo".parse().unwrap(),
        retention: Retention { full: 2 },
        bootstrap_cell: zone(1),
        port_offset: 0,
        repo_cipher: None,
        pgbackrest_names: Vec::new(),
        minimum_protocol: Protocol::default(),
        cluster_id: None,
        cells: Vec::new(),
        is_qualified: false,
        durability: cellar_model::Durability::default(),
        settings: std::collections::BTreeMap::new(),
        pause: None,
    }
}

pub fn status(n: u32) -> PoolerStatus {
    let text = serde_json::json!({ "database": "app", "cell": zone(n), "epoch": "epoch" });
    let mut status: PoolerStatus = serde_json::from_value(text).unwrap();
    status.state = InstanceState::Running;
    status.role = if n == 1 { Role::Primary } else { Role::Standby };
    status.streams_from = (n > 1).then(|| zone(1));
    status
}

pub fn run(record: &JobRecord, state: JobState) -> Run {
    Run {
        id: record.id,
        database: record.database.clone(),
        cell: record.cell.clone(),
        state,
        epoch: "epoch".into(),
        start_time: Timestamp::now(),
        end_time: state.is_terminal().then(Timestamp::now),
        progress: Progress { phase: "copying".into(), bytes_done: 1, bytes_total: 2, ..Progress::default() },
        result: None,
        error: None,
        history: vec![],
        protocol: Protocol::OURS,
    }
}

pub fn backup_of(n: u32) -> v1::BackupRequest {
    v1::BackupRequest { cell: zone(n).to_string(), ..v1::BackupRequest::default() }
}

pub async fn backup(admin: &Admin, request: v1::BackupRequest) -> Result<v1::Job, Status> {
    Api::backup(admin, Request::new(request)).await.map(Response::into_inner)
}

pub async fn get_job(admin: &Admin, id: &str) -> Result<v1::Job, Status> {
    Api::get_job(admin, Request::new(v1::GetJobRequest { id: id.into() })).await.map(Response::into_inner)
}

pub async fn cancel(admin: &Admin, id: &str) -> Result<v1::Job, Status> {
    Api::cancel_job(admin, Request::new(v1::CancelJobRequest { id: id.into() }))
        .await
        .map(Response::into_inner)
}

pub async fn reaches(admin: &Admin, id: &str, state: v1::JobState) -> v1::Job {
    wait_for(&format!("job {id} is {state:?}"), || async {
        get_job(admin, id).await.unwrap().state() == state
    })
    .await;
    get_job(admin, id).await.unwrap()
}

/// The stable code of a refusal.
pub fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    cellar_api::reason_of(&result.unwrap_err()).expect("a status without ErrorInfo").to_string()
}
