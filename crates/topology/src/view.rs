//! A typed picture of the topology, kept from raw entries.

use std::collections::{BTreeMap, HashMap};

use cellar_model::{
    Cell, CellName, Database, DatabaseName, Job, JobId, JobRecord, Key, Keyspace, Leader, Lock, Pooler,
    PoolerStatus, Run, Snapshot, join,
};
use serde::de::DeserializeOwned;

use crate::kv::{Change, Entry};

/// The records of a cluster, or of the part of it that somebody watches.
///
/// What cannot be read, or says something else than its key, is left out and
/// named in `unreadable`: one bad record must not hide the good ones.
#[derive(Debug, Default)]
pub struct View {
    /// All cells.
    pub cells: BTreeMap<CellName, Cell>,
    /// All databases.
    pub databases: BTreeMap<DatabaseName, Database>,
    /// All poolers.
    pub poolers: BTreeMap<(DatabaseName, CellName), Pooler>,
    /// Status of the living poolers.
    pub status: BTreeMap<(DatabaseName, CellName), PoolerStatus>,
    /// Recorded primaries.
    pub leaders: BTreeMap<DatabaseName, Leader>,
    /// Jobs as they were asked.
    pub jobs: BTreeMap<JobId, JobRecord>,
    /// What came of them.
    pub runs: BTreeMap<JobId, Run>,
    /// Which pooler process works on which job.
    pub claims: BTreeMap<JobId, String>,
    /// Locks and queues.
    pub locks: BTreeMap<DatabaseName, Lock>,
    /// The leading multiadmin.
    pub admin_leader: Option<String>,
    /// Keys that were skipped, and why.
    pub unreadable: BTreeMap<String, String>,
    revisions: HashMap<Key, i64>,
}

impl View {
    /// The revision of a record's last change, 0 when there is none: what a guard takes.
    #[must_use]
    pub fn revision(&self, key: &Key) -> i64 {
        self.revisions.get(key).copied().unwrap_or(0)
    }

    /// What planning looks at.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot {
            cells: &self.cells,
            databases: &self.databases,
            poolers: &self.poolers,
            status: &self.status,
            leaders: &self.leaders,
        }
    }

    /// A job with what came of it.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<Job> {
        let record = self.jobs.get(id)?;
        Some(join(record, self.runs.get(id), self.claims.contains_key(id), self.locks.get(&record.database)))
    }

    /// Whether a job has ended; one that is not there any more has.
    #[must_use]
    pub fn has_ended(&self, id: &JobId) -> bool {
        let Some(record) = self.jobs.get(id) else { return true };
        record.closure.is_some() || self.runs.get(id).is_some_and(|run| run.state.is_terminal())
    }

    /// Replaces everything below `prefix` by a listing.
    pub(crate) fn replace(&mut self, keys: &Keyspace, prefix: &str, entries: Vec<Entry>) {
        let stale: Vec<Key> =
            self.revisions.keys().filter(|key| keys.path(key).starts_with(prefix)).cloned().collect();
        for key in stale {
            self.remove(&key);
        }
        self.unreadable.retain(|path, _| !path.starts_with(prefix));
        for entry in entries {
            self.put(keys, &entry);
        }
    }

    /// Takes one change in.
    pub(crate) fn apply(&mut self, keys: &Keyspace, change: &Change) {
        match change {
            Change::Put(entry) => self.put(keys, entry),
            Change::Delete { key: path, .. } => {
                self.unreadable.remove(path);
                if let Some(key) = keys.parse(path) {
                    self.remove(&key);
                }
            }
        }
    }

    fn put(&mut self, keys: &Keyspace, entry: &Entry) {
        let outcome = match keys.parse(&entry.key) {
            Some(key) => self.insert(key, entry),
            None => Err("no record of Cellar has such a key".to_owned()),
        };
        match outcome {
            Ok(()) => {
                self.unreadable.remove(&entry.key);
            }
            Err(reason) => {
                // The old value is not the truth any more either.
                if let Some(key) = keys.parse(&entry.key) {
                    self.remove(&key);
                    self.revisions.insert(key, entry.revision);
                }
                if self.unreadable.insert(entry.key.clone(), reason.clone()).is_none() {
                    tracing::warn!(key = entry.key, reason, "skipping a record that cannot be read");
                }
            }
        }
    }

    fn insert(&mut self, key: Key, entry: &Entry) -> Result<(), String> {
        fn read<R: DeserializeOwned>(entry: &Entry) -> Result<R, String> {
            serde_json::from_slice(&entry.value).map_err(|error| error.to_string())
        }
        fn same<T: PartialEq>(ours: &T, theirs: &T) -> Result<(), String> {
            if ours == theirs {
                Ok(())
            } else {
                Err("the record names another subject than its key".to_owned())
            }
        }
        match &key {
            Key::Cell(name) => {
                let record: Cell = read(entry)?;
                same(name, &record.name)?;
                self.cells.insert(name.clone(), record);
            }
            Key::Database(name) => {
                let record: Database = read(entry)?;
                same(name, &record.name)?;
                self.databases.insert(name.clone(), record);
            }
            Key::Pooler(db, cell) => {
                let record: Pooler = read(entry)?;
                same(&(db, cell), &(&record.database, &record.cell))?;
                self.poolers.insert((db.clone(), cell.clone()), record);
            }
            Key::Status(db, cell) => {
                let record: PoolerStatus = read(entry)?;
                same(&(db, cell), &(&record.database, &record.cell))?;
                self.status.insert((db.clone(), cell.clone()), record);
            }
            Key::Leader(db) => {
                self.leaders.insert(db.clone(), read(entry)?);
            }
            Key::Job(db, id) => {
                let record: JobRecord = read(entry)?;
                same(&(db, id), &(&record.database, &record.id))?;
                self.jobs.insert(*id, record);
            }
            Key::Run(db, cell, id) => {
                let record: Run = read(entry)?;
                same(&(db, cell, id), &(&record.database, &record.cell, &record.id))?;
                self.runs.insert(*id, record);
            }
            Key::Claim(_, _, id) => {
                self.claims.insert(*id, read(entry)?);
            }
            Key::Lock(db) => {
                self.locks.insert(db.clone(), read(entry)?);
            }
            Key::AdminLeader => self.admin_leader = Some(read(entry)?),
        }
        self.revisions.insert(key, entry.revision);
        Ok(())
    }

    fn remove(&mut self, key: &Key) {
        self.revisions.remove(key);
        match key {
            Key::Cell(name) => drop(self.cells.remove(name)),
            Key::Database(name) => drop(self.databases.remove(name)),
            Key::Pooler(db, cell) => drop(self.poolers.remove(&(db.clone(), cell.clone()))),
            Key::Status(db, cell) => drop(self.status.remove(&(db.clone(), cell.clone()))),
            Key::Leader(db) => drop(self.leaders.remove(db)),
            Key::Job(_, id) => drop(self.jobs.remove(id)),
            Key::Run(_, _, id) => drop(self.runs.remove(id)),
            Key::Claim(_, _, id) => drop(self.claims.remove(id)),
            Key::Lock(db) => drop(self.locks.remove(db)),
            Key::AdminLeader => self.admin_leader = None,
        }
    }
}
