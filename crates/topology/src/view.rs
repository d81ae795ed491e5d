//! A typed picture of the topology, kept from raw entries.

use std::collections::{BTreeMap, HashMap};

use cellar_model::{
    AuditId, AuditRecord, Cell, CellName, Database, DatabaseName, Incarnation, Job, JobId, JobOutcome,
    JobRecord, Key, Keyspace, Leader, Lock, Pooler, PoolerStatus, RevocationList, Run, Schedule,
    ScheduleName, Snapshot, join, with_steps,
};
use serde::de::DeserializeOwned;

use crate::kv::{Change, Entry};

/// Where a run and its claim lie: in the name of the pooler that writes them.
///
/// A job's own run is the one in its own cell. Another pooler can write a run with the same
/// id below its own prefix, and that one must not be taken for the job's.
pub type RunKey = (DatabaseName, CellName, JobId);

/// The records of a cluster, or of the part of it that somebody watches.
///
/// What cannot be read, or says something else than its key, is left out and
/// named in `unreadable`: one bad record must not hide the good ones.
#[derive(Debug, Default, PartialEq, Eq)]
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
    /// What came of them, by where each lies; [`View::run`] finds a job's.
    pub runs: BTreeMap<RunKey, Run>,
    /// Which pooler process works on which job, by where each lies; [`View::claim`] finds a job's.
    pub claims: BTreeMap<RunKey, String>,
    /// Locks and queues.
    pub locks: BTreeMap<DatabaseName, Lock>,
    /// Which copies of the databases are the true ones.
    pub incarnations: BTreeMap<DatabaseName, Incarnation>,
    /// What multiadmin asks for by itself.
    pub schedules: BTreeMap<(DatabaseName, ScheduleName), Schedule>,
    /// The certificates that nobody accepts any more.
    pub revocations: Option<RevocationList>,
    /// The leading multiadmin.
    pub admin_leader: Option<String>,
    /// The newest calls that changed something or were to.
    pub audit: BTreeMap<AuditId, AuditRecord>,
    /// Keys that were skipped, and why.
    pub unreadable: BTreeMap<String, String>,
    revisions: HashMap<Key, i64>,
}

fn run_key(record: &JobRecord) -> RunKey {
    (record.database.clone(), record.cell.clone(), record.id)
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
            incarnations: &self.incarnations,
        }
    }

    /// A job with what came of it.
    #[must_use]
    pub fn job(&self, id: &JobId) -> Option<Job> {
        let record = self.jobs.get(id)?;
        let mut job = self.joined(record);
        if !record.kind().is_driven() {
            return Some(job);
        }
        if let Some(JobOutcome::Restore(restore)) = &mut job.result {
            // What was kept at its end may have been confirmed, rolled back or overtaken since.
            let incarnation = self.incarnations.get(&record.database);
            restore.kept &=
                incarnation.is_some_and(|known| known.job == Some(*id) && known.kept_in.is_some());
        }
        Some(with_steps(job, self.steps(id)))
    }

    fn joined(&self, record: &JobRecord) -> Job {
        join(record, self.run(record), self.claim(record).is_some(), self.locks.get(&record.database))
    }

    /// The steps of a job that multiadmin drives, in no order.
    #[must_use]
    pub fn steps(&self, parent: &JobId) -> Vec<Job> {
        self.jobs
            .values()
            .filter(|record| record.parent == Some(*parent))
            .map(|record| self.joined(record))
            .collect()
    }

    /// The incarnation of a database; the first one when it was never restored.
    #[must_use]
    pub fn incarnation(&self, database: &DatabaseName) -> Incarnation {
        self.incarnations.get(database).cloned().unwrap_or_default()
    }

    /// What the job's own pooler wrote of it.
    #[must_use]
    pub fn run(&self, record: &JobRecord) -> Option<&Run> {
        self.runs.get(&run_key(record))
    }

    /// The process of the job's own pooler that works on it.
    #[must_use]
    pub fn claim(&self, record: &JobRecord) -> Option<&str> {
        self.claims.get(&run_key(record)).map(String::as_str)
    }

    /// Whether a job has ended; one that is not there any more has, one that cannot be read may run.
    #[must_use]
    pub fn has_ended(&self, id: &JobId) -> bool {
        let Some(record) = self.jobs.get(id) else {
            return !self.revisions.keys().any(|key| matches!(key, Key::Job(_, job) if job == id));
        };
        record.closure.is_some() || self.run(record).is_some_and(|run| run.state.is_terminal())
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
    pub fn apply(&mut self, keys: &Keyspace, change: &Change) {
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
                self.runs.insert((db.clone(), cell.clone(), *id), record);
            }
            Key::Claim(db, cell, id) => {
                self.claims.insert((db.clone(), cell.clone(), *id), read(entry)?);
            }
            Key::Lock(db) => {
                self.locks.insert(db.clone(), read(entry)?);
            }
            Key::Incarnation(db) => {
                self.incarnations.insert(db.clone(), read(entry)?);
            }
            Key::Schedule(db, name) => {
                let record: Schedule = read(entry)?;
                same(&(db, name), &(&record.database, &record.name))?;
                self.schedules.insert((db.clone(), name.clone()), record);
            }
            Key::Revocations => self.revocations = Some(read(entry)?),
            Key::AdminLeader => self.admin_leader = Some(read(entry)?),
            Key::Audit(id) => {
                let record: AuditRecord = read(entry)?;
                same(id, &record.id)?;
                self.audit.insert(*id, record);
            }
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
            Key::Job(db, id) => {
                if self.jobs.get(id).is_some_and(|record| record.database == *db) {
                    self.jobs.remove(id);
                }
            }
            Key::Run(db, cell, id) => drop(self.runs.remove(&(db.clone(), cell.clone(), *id))),
            Key::Claim(db, cell, id) => drop(self.claims.remove(&(db.clone(), cell.clone(), *id))),
            Key::Lock(db) => drop(self.locks.remove(db)),
            Key::Incarnation(db) => drop(self.incarnations.remove(db)),
            Key::Schedule(db, name) => drop(self.schedules.remove(&(db.clone(), name.clone()))),
            Key::Revocations => self.revocations = None,
            Key::AdminLeader => self.admin_leader = None,
            Key::Audit(id) => drop(self.audit.remove(id)),
        }
    }
}

#[cfg(test)]
#[path = "../tests/support/records.rs"]
mod records;

#[cfg(test)]
mod tests {
    use super::records::{cell, database, job, job_id, pooler, run};
    use super::*;
    use cellar_model::JobState;
    use serde::Serialize;

    /// A view and the store's next revision.
    struct Subject {
        keys: Keyspace,
        view: View,
        revision: i64,
    }

    impl Subject {
        fn new() -> Self {
            Self { keys: Keyspace::new(&"demo".parse().unwrap()), view: View::default(), revision: 10 }
        }

        fn entry(&mut self, path: &str, value: &[u8]) -> Entry {
            self.revision += 1;
            Entry { key: path.to_owned(), value: value.to_vec(), revision: self.revision }
        }

        fn record(&mut self, key: &Key, record: &impl Serialize) -> Entry {
            self.entry(&self.keys.path(key), &serde_json::to_vec(record).unwrap())
        }

        fn put(&mut self, key: &Key, record: &impl Serialize) -> i64 {
            let entry = self.record(key, record);
            self.view.apply(&self.keys, &Change::Put(entry));
            self.revision
        }

        fn put_raw(&mut self, path: &str, value: &str) -> i64 {
            let entry = self.entry(path, value.as_bytes());
            self.view.apply(&self.keys, &Change::Put(entry));
            self.revision
        }

        fn delete(&mut self, path: &str) {
            self.revision += 1;
            let change = Change::Delete { key: path.to_owned(), revision: self.revision };
            self.view.apply(&self.keys, &change);
        }

        fn unreadable(&self) -> Vec<&str> {
            self.view.unreadable.keys().map(String::as_str).collect()
        }
    }

    fn zone(n: u32) -> (CellName, Key) {
        let name: CellName = format!("zone{n}").parse().unwrap();
        (name.clone(), Key::Cell(name))
    }

    #[test]
    fn what_cannot_be_read_is_named_and_hides_nothing() {
        let mut s = Subject::new();
        s.put(&zone(1).1, &cell("zone1", 0));
        s.put_raw("/cellar/demo/cells/zone2", "{ not JSON");
        s.put_raw("/cellar/demo/cells/zone3", r#"{"name":"zone3"}"#);
        s.put_raw("/cellar/demo/gauges/app/nightly", "{}");
        s.put_raw("/cellar/demo/cells/ZONE", "{}");
        s.put_raw("/cellar/demo/admins/leader", "17");
        assert_eq!(s.view.cells.keys().collect::<Vec<_>>(), [&zone(1).0]);
        assert_eq!(s.view.admin_leader, None);
        let named = ["admins/leader", "cells/ZONE", "cells/zone2", "cells/zone3", "gauges/app/nightly"];
        assert_eq!(s.unreadable(), named.map(|name| format!("/cellar/demo/{name}")));
        assert!(s.view.unreadable["/cellar/demo/cells/zone3"].contains("host"), "says what is missing");
        // Mended, removed.
        s.put(&zone(2).1, &cell("zone2", 1));
        for name in &named[3..] {
            s.delete(&format!("/cellar/demo/{name}"));
        }
        assert_eq!(s.unreadable(), ["/cellar/demo/admins/leader", "/cellar/demo/cells/ZONE"]);
        assert_eq!(s.view.cells.len(), 2);
    }

    #[test]
    fn a_record_must_name_its_key() {
        let (zone1, db) = (zone(1).0, database("app").name);
        let wrong_job = job(1, "app", "zone1");
        let mut wrong_run = run(&wrong_job, &zone1, JobState::Running);
        let mut s = Subject::new();
        s.put(&zone(2).1, &cell("zone1", 0));
        s.put(&Key::Database(db.clone()), &database("web"));
        s.put(&Key::Pooler(db.clone(), zone1.clone()), &pooler("app", "zone2"));
        s.put(&Key::Pooler("web".parse().unwrap(), zone1.clone()), &pooler("app", "zone1"));
        s.put(&Key::Job(db.clone(), job_id(2)), &wrong_job);
        s.put(&Key::Job("web".parse().unwrap(), job_id(1)), &wrong_job);
        s.put(&Key::Run(db.clone(), zone(2).0, job_id(1)), &wrong_run);
        wrong_run.id = job_id(9);
        s.put(&Key::Run(db, zone1, job_id(1)), &wrong_run);
        assert_eq!(s.view.unreadable.len(), 8);
        assert!(s.view.unreadable.values().all(|reason| reason.contains("another subject")));
        let empty = View { unreadable: s.view.unreadable.clone(), ..View::default() };
        s.view.revisions.clear();
        assert_eq!(s.view, empty);
    }

    #[test]
    fn a_corrupt_update_removes_the_old_value_and_still_guards() {
        let mut s = Subject::new();
        let key = zone(1).1;
        let path = s.keys.path(&key);
        assert_eq!(s.view.revision(&key), 0);
        let good = s.put(&key, &cell("zone1", 0));
        assert_eq!(s.view.revision(&key), good);
        let corrupt = s.put_raw(&path, "{}");
        assert!(s.view.cells.is_empty());
        assert_eq!(s.view.revision(&key), corrupt, "who repairs it needs a guard");
        let mended = s.put(&key, &cell("zone1", 3));
        assert_eq!((s.view.cells[&zone(1).0].index, s.view.revision(&key)), (3, mended));
        assert!(s.view.unreadable.is_empty());

        s.put_raw(&path, "{}");
        s.delete(&path);
        assert_eq!(s.view, View::default(), "nothing is left, not even its revision");
        s.delete(&path);
        assert_eq!(s.view, View::default());
    }

    #[test]
    fn a_listing_replaces_what_lies_below_its_prefix_only() {
        let mut s = Subject::new();
        let app: DatabaseName = "app".parse().unwrap();
        s.put(&Key::Database(app.clone()), &database("app"));
        s.put(&zone(1).1, &cell("zone1", 0));
        s.put(&zone(2).1, &cell("zone2", 1));
        s.put_raw("/cellar/demo/cells/zone3", "{}");
        s.put_raw("/cellar/demo/databases/web", "{}");
        s.put_raw("/cellar/demo/cells/ZONE", "{}");
        let kept = s.record(&zone(2).1, &cell("zone2", 7));
        let corrupt = s.entry("/cellar/demo/cells/zone4", b"[]");
        let keys = s.keys.clone();
        s.view.replace(&keys, &keys.kind("cells"), vec![kept.clone(), corrupt.clone()]);
        assert_eq!(s.view.cells.keys().collect::<Vec<_>>(), [&zone(2).0]);
        assert_eq!(s.view.cells[&zone(2).0].index, 7);
        assert_eq!(s.view.databases.keys().collect::<Vec<_>>(), [&app]);
        assert_eq!(s.unreadable(), ["/cellar/demo/cells/zone4", "/cellar/demo/databases/web"]);
        let revisions = [1, 2, 3, 4].map(|n| s.view.revision(&zone(n).1));
        assert_eq!(revisions, [0, kept.revision, 0, corrupt.revision]);
        // A whole listing leaves nothing of before.
        s.view.replace(&keys, &keys.all(), vec![]);
        assert_eq!(s.view, View::default());
    }

    #[test]
    fn every_kind_is_kept_and_goes() {
        let mut s = Subject::new();
        let (zone1, db, job) = (zone(1).0, database("app").name, job(1, "app", "zone1"));
        let own = run(&job, &zone1, JobState::Running);
        s.put(&Key::Pooler(db.clone(), zone1.clone()), &pooler("app", "zone1"));
        s.put_raw("/cellar/demo/status/app/zone1", r#"{"database":"app","cell":"zone1","epoch":"e"}"#);
        s.put_raw("/cellar/demo/leaders/app", r#"{"cell":"zone1","term":1}"#);
        s.put(&Key::Job(db.clone(), job.id), &job);
        s.put(&Key::Run(db.clone(), zone1.clone(), job.id), &own);
        s.put(&Key::Claim(db.clone(), zone1.clone(), job.id), &"e");
        s.put(&Key::Lock(db.clone()), &cellar_model::Lock { holder: Some(job.id), queue: vec![] });
        s.put(&Key::AdminLeader, &"admin-1");
        let audit = "01890a5d-ac96-774b-bcce-b302099a8057";
        let call = format!(
            r#"{{"id":"{audit}","time":"2026-03-01T10:00:00Z","rpc":"Backup","outcome":"AUDIT_OUTCOME_ALLOWED"}}"#
        );
        s.put_raw(&format!("/cellar/demo/audit/{audit}"), &call);
        assert_eq!(s.view.unreadable, BTreeMap::new());
        let view = &s.view;
        assert_eq!([view.poolers.len(), view.status.len(), view.leaders.len(), view.jobs.len()], [1; 4]);
        assert_eq!([view.runs.len(), view.claims.len(), view.locks.len()], [1; 3]);
        assert_eq!(view.admin_leader.as_deref(), Some("admin-1"));
        assert_eq!((view.run(&job), view.claim(&job)), (Some(&own), Some("e")));
        assert_eq!(view.job(&job.id).unwrap().state, JobState::Running);
        let keys = s.keys.clone();
        let paths: Vec<String> = s.view.revisions.keys().map(|key| keys.path(key)).collect();
        assert_eq!(s.view.audit[&audit.parse().unwrap()].rpc, "Backup");
        assert_eq!(paths.len(), 9);
        for path in paths {
            s.delete(&path);
        }
        assert_eq!(s.view, View::default());
    }

    #[test]
    fn only_its_own_cell_speaks_for_a_job() {
        let mut s = Subject::new();
        let job = job(1, "app", "zone1");
        let other = zone(2).0;
        s.put(&Key::Job(job.database.clone(), job.id), &job);
        // A confused or stolen pooler writes where it may: below its own cell.
        let foreign = Key::Run(job.database.clone(), other.clone(), job.id);
        s.put(&foreign, &run(&job, &other, JobState::Succeeded));
        s.put(&Key::Claim(job.database.clone(), other.clone(), job.id), &"e");
        assert_eq!(s.view.job(&job.id).unwrap().state, JobState::Pending);
        assert!(!s.view.has_ended(&job.id));
        assert_eq!(s.view.claim(&job), None);
        // Nor can it take the true run away.
        let own = Key::Run(job.database.clone(), job.cell.clone(), job.id);
        s.put(&own, &run(&job, &job.cell, JobState::Failed));
        s.put(&foreign, &run(&job, &other, JobState::Running));
        assert!(s.view.has_ended(&job.id));
        let foreign = s.keys.path(&foreign);
        s.delete(&foreign);
        assert!(s.view.has_ended(&job.id));
        // Nor does another database's broken record with its id.
        s.put_raw(&s.keys.path(&Key::Job("web".parse().unwrap(), job.id)), "{}");
        assert!(s.view.jobs.contains_key(&job.id));
    }

    #[test]
    fn a_job_that_cannot_be_read_is_not_gone() {
        let mut s = Subject::new();
        let job = job(1, "app", "zone1");
        let path = s.keys.path(&Key::Job(job.database.clone(), job.id));
        assert!(s.view.has_ended(&job.id));
        s.put(&Key::Job(job.database.clone(), job.id), &job);
        assert!(!s.view.has_ended(&job.id));
        s.put_raw(&path, "{}");
        assert!(!s.view.has_ended(&job.id), "its pooler may be at work");
        s.delete(&path);
        assert!(s.view.has_ended(&job.id));
    }
}
