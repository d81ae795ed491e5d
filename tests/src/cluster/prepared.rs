//! Clusters for tests whose subject is not how a cluster comes to be: copies of one that `cellar up` has made.
//!
//! The first test that wants certain cells has them made from nothing, and taken down again. A copy gets the data
//! directories, the repository, and what is on record of the jobs so far. It gets nothing that names a directory, a
//! port or a key: neither state, configuration and certificates nor etcd's data. `cellar up` makes those, as it does
//! for a cluster that has lost them, and so each copy has its own. All copies have one system identifier.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use cellar_api::v1;
use cellar_model::Key;
use cellar_topology::{Entry, Store, StoreError, TxnOutcome, Write};

use crate::cluster::local::Cluster;
use crate::machine::run::run;
use crate::machine::wait::{block_on, eventually, wait_for};

/// Kinds of records that `cellar up` does not make again.
const KEPT_RECORDS: [&str; 3] = ["jobs", "runs", "audit"];

/// A cluster that is down, to be copied.
#[derive(Debug)]
struct Prepared {
    cluster: Cluster,
    cells: Vec<String>,
    records: Vec<Entry>,
    _remover: Child,
}

impl Cluster {
    /// A running cluster with the given cells: all stream, and the repository holds the full backup of the first.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn up(cells: &str) -> Self {
        /// By their cells.
        static ALL: Mutex<BTreeMap<String, Arc<OnceLock<Prepared>>>> = Mutex::new(BTreeMap::new());
        let slot =
            ALL.lock().unwrap_or_else(PoisonError::into_inner).entry(cells.to_owned()).or_default().clone();
        let prepared = slot.get_or_init(|| Prepared::new(cells));
        let cluster = Self::new();
        prepared.copy_to(cluster.directory());
        let _ = cluster.try_up(cells).ok();
        cluster.restore_records(prepared);
        cluster
    }

    /// Does something in etcd, again for a minute while it cannot be reached.
    #[track_caller]
    fn at_etcd<T>(&self, what: &str, work: &impl AsyncFn(&Store) -> Result<T, StoreError>) -> T {
        wait_for(&format!("etcd to take or to give {what}"), Duration::from_secs(60), || {
            match block_on(async { work(&self.store().await).await }) {
                Ok(done) => Some(done),
                Err(StoreError::Retryable(_)) => None,
                Err(error) => panic!("{what}: {error}"),
            }
        })
    }

    fn restore_records(&self, prepared: &Prepared) {
        let (from, to) =
            (prepared.cluster.directory().display().to_string(), self.directory().display().to_string());
        let write = |entry: &Entry| {
            let text = String::from_utf8_lossy(&entry.value).replace(&from, &to);
            Write::Put { key: entry.key.clone(), value: text.into_bytes(), lease: None }
        };
        let writes: Vec<Write> = prepared.records.iter().map(write).collect();
        // Once more when it is not known whether it was committed: it writes the same.
        let _: TxnOutcome = self.at_etcd("the records", &async |store: &Store| {
            let outcome = store.kv().txn(Vec::new(), writes.clone()).await?;
            assert!(matches!(outcome, TxnOutcome::Committed(_)), "{outcome:?}");
            Ok(outcome)
        });
        let jobs = block_on(async {
            let store = self.store().await;
            let keys = prepared.records.iter().filter_map(|entry| store.keys().parse(&entry.key));
            let jobs =
                keys.filter_map(|key| if let Key::Job(_, id) = key { Some(id.to_string()) } else { None });
            jobs.collect::<Vec<_>>()
        });
        for id in jobs {
            eventually("multiadmin to know the jobs of the cluster that was copied", || {
                let request = v1::GetJobRequest { id: id.clone() };
                self.ask(async |client| client.get_job(request.clone()).await).is_ok()
            });
        }
    }
}

impl Prepared {
    fn new(cells: &str) -> Self {
        let cluster = Cluster::bootstrapped(cells);
        let of_kind = |kind: &str| {
            cluster.at_etcd(kind, &async |store: &Store| store.list(&store.keys().kind(kind)).await).entries
        };
        let records = KEPT_RECORDS.into_iter().flat_map(of_kind).collect();
        cluster.cellar(&["down"]);
        cluster.give_up_ports();
        let cells = cells.split(',').map(str::to_owned).collect();
        let remover = remove_at_end(cluster.directory());
        Self { cluster, cells, records, _remover: remover }
    }

    /// Copies what does not name a place.
    fn copy_to(&self, target: &Path) {
        if let Err(error) = std::fs::create_dir_all(target) {
            panic!("{}: {error}", target.display());
        }
        let mut sources = vec!["repo".to_owned(), "log/audit.log".to_owned()];
        for cell in &self.cells {
            sources.extend(["pg_data", "state"].map(|name| format!("{cell}/{name}")));
            sources.extend(self.job_logs(cell));
        }
        let mut copy = Command::new("cp");
        copy.args(["--archive", "--reflink=auto", "--parents"]).args(sources).arg(target);
        let _ = run(copy.current_dir(self.cluster.directory())).ok();
    }

    /// The files that a cell's pooler keeps of the jobs on record.
    fn job_logs(&self, cell: &str) -> Vec<String> {
        let ids: Vec<&str> = self.records.iter().filter_map(|entry| entry.key.rsplit('/').next()).collect();
        let files = std::fs::read_dir(self.cluster.directory().join(cell).join("jobs"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .filter_map(|file| file.file_name().into_string().ok())
            .filter(|name| ids.iter().any(|id| name.starts_with(id)))
            .map(|name| format!("{cell}/jobs/{name}"))
            .collect()
    }
}

/// Starts a process that removes the directory as soon as this one has ended, however it ends: nobody drops what is
/// static. It waits for its standard input to be closed.
fn remove_at_end(directory: &Path) -> Child {
    let mut remover = Command::new("sh");
    remover.args(["-c", "read -r _; rm -rf \"$1\"", "sh"]).arg(directory).process_group(0);
    match remover.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => child,
        Err(error) => panic!("sh cannot be run: {error}"),
    }
}
