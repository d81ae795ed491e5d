//! Processes of a newer release, which write fields and jobs that this one does not know.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{DatabaseName, JobId, Key, Keyspace, Lock};
use cellar_topology::Change;
use serde_json::{Value, json};

use crate::etcd::Etcd;
use crate::random::Chance;

/// The field that only the newer release knows.
const FIELD: &str = "newerField";

/// Kinds of records that several processes write, without those that are bound to a lease.
const KINDS: [&str; 6] = ["databases", "jobs", "runs", "locks", "incarnations", "leaders"];

/// What the newer release has written so far.
#[derive(Debug)]
pub struct NewerRelease {
    keys: Keyspace,
    database: DatabaseName,
    fields: BTreeMap<String, Value>,
    /// The revision of its last write of each record. What is seen of before says nothing of it.
    written: BTreeMap<String, i64>,
    open: BTreeSet<JobId>,
    count: u64,
}

impl NewerRelease {
    /// One that has written nothing yet.
    #[must_use]
    pub fn new(keys: Keyspace, database: DatabaseName) -> Self {
        Self {
            keys,
            database,
            fields: BTreeMap::new(),
            written: BTreeMap::new(),
            open: BTreeSet::new(),
            count: 0,
        }
    }

    /// Adds a field to some record.
    pub fn add_field(&mut self, etcd: &Etcd, chance: &Chance) {
        let mut records: Vec<(String, Value)> = Vec::new();
        for entry in KINDS.iter().flat_map(|kind| etcd.entries(&self.keys.kind(kind))) {
            if let Ok(record @ Value::Object(_)) = serde_json::from_slice(&entry.value) {
                records.push((entry.key, record));
            }
        }
        if records.is_empty() {
            return;
        }
        let (key, mut record) = records.swap_remove(chance.below(records.len()));
        self.count += 1;
        record[FIELD] = json!({ "number": self.count });
        self.fields.insert(key.clone(), record[FIELD].clone());
        self.write(etcd, &key, &record);
    }

    /// Requests a job of a kind of its own, which waits for the lock as others do; or ends the one that it requested
    /// before.
    pub fn use_job(&mut self, etcd: &Etcd) {
        if !self.open.is_empty() {
            self.end_jobs(etcd);
            return;
        }
        self.count += 1;
        let Ok(id) = format!("00000000-0000-7000-8000-{:012}", self.count).parse::<JobId>() else { return };
        let key = Key::Lock(self.database.clone());
        let held = etcd.entries(&self.keys.path(&key));
        let mut lock = match held.first().map(|entry| serde_json::from_slice::<Value>(&entry.value)) {
            None => json!({}),
            Some(Ok(lock)) => lock,
            Some(Err(_)) => return,
        };
        let Ok(known) = serde_json::from_value::<Lock>(lock.clone()) else { return };
        if known.holder.is_none() {
            lock["holder"] = json!(id);
        } else {
            lock["queue"] = json!(known.queue.iter().chain([&id]).collect::<Vec<_>>());
        }
        self.open.insert(id);
        self.write_job(etcd, id, None);
        self.write(etcd, &self.keys.path(&key), &lock);
    }

    fn write(&mut self, etcd: &Etcd, key: &str, record: &Value) {
        let revision = etcd.put(key, record.to_string().into_bytes());
        self.written.insert(key.to_owned(), revision);
    }

    /// Ends the jobs of the newer release.
    pub fn end_jobs(&mut self, etcd: &Etcd) {
        for id in std::mem::take(&mut self.open) {
            let closure = json!({ "state": "JOB_STATE_SUCCEEDED", "time": "2026-03-01T10:00:00Z" });
            self.write_job(etcd, id, Some(closure));
        }
    }

    fn write_job(&mut self, etcd: &Etcd, id: JobId, closure: Option<Value>) {
        let mut record = json!({
            "id": id, "database": self.database, "cell": "zone1", "kind": "JOB_KIND_OF_A_NEWER_RELEASE",
            "requestedBy": "newer", "createTime": "2026-03-01T10:00:00Z", "deadline": "2026-03-01T10:00:00Z",
        });
        if let Some(closure) = closure {
            record["closure"] = closure;
        }
        let key = self.keys.path(&Key::Job(self.database.clone(), id));
        self.fields.remove(&key);
        self.write(etcd, &key, &record);
    }

    /// Takes in one change; returns what must not be.
    pub fn see(&mut self, change: &Change) -> Option<String> {
        let entry = match change {
            Change::Put(entry) => entry,
            Change::Delete { key, .. } => {
                self.fields.remove(key);
                return None;
            }
        };
        if self.written.get(&entry.key).is_some_and(|written| entry.revision < *written) {
            return None;
        }
        if let Some(field) = self.fields.get(&entry.key) {
            let record: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
            if record.get(FIELD) != Some(field) {
                self.fields.remove(&entry.key);
                return Some(format!("a field of a newer release is gone from {}", entry.key));
            }
        }
        if self.keys.parse(&entry.key) == Some(Key::Lock(self.database.clone())) {
            let lock: Lock = serde_json::from_slice(&entry.value).unwrap_or_default();
            let lost = self.open.iter().find(|id| lock.holder != Some(**id) && !lock.queue.contains(id));
            return lost.map(|id| format!("open job {id} of a newer release lost its place in the lock"));
        }
        None
    }
}
