//! Keeping a view current: listings replace what lies below a prefix, changes are applied one by one.

use cellar_model::{
    AuditRecord, Cell, Database, JobKind, JobRecord, Key, Keyspace, Pooler, PoolerStatus, Run, Schedule,
};
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::kv::{Change, Entry};
use crate::view::ended_jobs::{Scope, slimmed};
use crate::view::records::View;

/// Whether this, which is no [`JobRecord`] to this build, is a job that a newer build can begin or drive.
fn is_open_job_of_newer_build(value: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Outline {
        kind: String,
        #[serde(default)]
        closure: Option<IgnoredAny>,
    }
    let Ok(Outline { kind, closure: None }) = serde_json::from_slice(value) else { return false };
    match JobKind::deserialize(StrDeserializer::<serde::de::value::Error>::new(&kind)) {
        Ok(kind) => kind.is_driven(),
        Err(_) => true,
    }
}

impl View {
    /// Takes in entries of a listing that is not complete yet.
    pub(crate) fn load(&mut self, keys: &Keyspace, entries: &[Entry]) {
        for entry in entries {
            self.put(keys, entry, true);
        }
    }

    /// Replaces everything below `prefix` by a complete listing.
    pub(crate) fn replace(&mut self, keys: &Keyspace, prefix: &str, mut listed: Self) {
        let expected = self.expect_listing(keys, prefix);
        let stale: Vec<Key> = self
            .revisions
            .keys()
            .filter(|key| Keyspace::is_in_range(prefix, &keys.path(key)))
            .cloned()
            .collect();
        for key in stale {
            self.remove(&key);
            self.remove_ended(&key);
        }
        self.unreadable.retain(|path, _| !Keyspace::is_in_range(prefix, path));
        self.merge_jobs(&mut listed, &expected);
        self.cells.append(&mut listed.cells);
        self.databases.append(&mut listed.databases);
        self.poolers.append(&mut listed.poolers);
        self.status.append(&mut listed.status);
        self.leaders.append(&mut listed.leaders);
        self.claims.append(&mut listed.claims);
        self.cell_claims.append(&mut listed.cell_claims);
        self.locks.append(&mut listed.locks);
        self.incarnations.append(&mut listed.incarnations);
        self.failovers.append(&mut listed.failovers);
        self.schedules.append(&mut listed.schedules);
        self.audit.append(&mut listed.audit);
        self.revocations = listed.revocations.or(self.revocations.take());
        self.admin_leader = listed.admin_leader.or(self.admin_leader.take());
        self.unreadable.append(&mut listed.unreadable);
        self.newer_jobs.append(&mut listed.newer_jobs);
        // Those of jobs and runs were taken in with their records, unless these cannot be read.
        let others = listed.revisions.into_iter().filter(|(key, _)| {
            !matches!(key, Key::Job(..) | Key::Run(..)) || self.unreadable.contains_key(&keys.path(key))
        });
        self.revisions.extend(others);
    }

    /// Applies one change.
    pub fn apply(&mut self, keys: &Keyspace, change: &Change) {
        match change {
            Change::Put(entry) => self.put(keys, entry, false),
            Change::Delete { key: path, .. } => {
                self.unreadable.remove(path);
                if let Some(key) = keys.parse(path)
                    && !self.remove_ended(&key)
                {
                    self.remove(&key);
                }
            }
        }
    }

    /// `listing` is set while the records of other jobs may be missing.
    fn put(&mut self, keys: &Keyspace, entry: &Entry, listing: bool) {
        let outcome = match keys.parse(&entry.key) {
            Some(key) => self.insert(key, entry, listing),
            None => Err("no record of Cellar has such a key".to_owned()),
        };
        match outcome {
            Ok(()) => {
                self.unreadable.remove(&entry.key);
            }
            Err(reason) => {
                // The old value is out of date, too.
                if let Some(key) = keys.parse(&entry.key) {
                    self.remove_ended(&key);
                    self.remove(&key);
                    if let Key::Job(_, id) = &key
                        && is_open_job_of_newer_build(&entry.value)
                    {
                        self.newer_jobs.insert(*id);
                    }
                    self.revisions.insert(key, entry.revision);
                }
                if self.unreadable.insert(entry.key.clone(), reason.clone()).is_none() {
                    tracing::warn!(key = entry.key, reason, "skipping a record that cannot be read");
                }
            }
        }
    }

    fn insert(&mut self, key: Key, entry: &Entry, listing: bool) -> Result<(), String> {
        fn read<R: DeserializeOwned>(entry: &Entry) -> Result<R, String> {
            serde_json::from_slice(&entry.value).map_err(|error| error.to_string())
        }
        fn check_subject<T: PartialEq>(in_key: &T, in_record: &T) -> Result<(), String> {
            if in_key == in_record {
                Ok(())
            } else {
                Err("the record names another subject than its key".to_owned())
            }
        }
        match &key {
            Key::Cell(name) => {
                let record: Cell = read(entry)?;
                check_subject(name, &record.name)?;
                self.cells.insert(name.clone(), record);
            }
            Key::Database(name) => {
                let record: Database = read(entry)?;
                check_subject(name, &record.name)?;
                self.databases.insert(name.clone(), record);
            }
            Key::Pooler(db, cell) => {
                let record: Pooler = read(entry)?;
                check_subject(&(db, cell), &(&record.database, &record.cell))?;
                self.poolers.insert((db.clone(), cell.clone()), record);
            }
            Key::Status(db, cell) => {
                let record: PoolerStatus = read(entry)?;
                check_subject(&(db, cell), &(&record.database, &record.cell))?;
                self.status.insert((db.clone(), cell.clone()), record);
            }
            Key::Leader(db) => {
                self.leaders.insert(db.clone(), read(entry)?);
            }
            Key::Failovers(db) => {
                self.failovers.insert(db.clone(), read(entry)?);
            }
            Key::Job(db, id) => {
                let record: JobRecord = read(entry)?;
                check_subject(&(db, id), &(&record.database, &record.id))?;
                let (id, is_step) = (*id, record.parent.is_some());
                self.insert_job(record, entry.revision);
                // Whether a step is needed shows its parent, which may come later in a listing.
                if !(listing && is_step) {
                    self.settle(&id);
                }
                return Ok(());
            }
            Key::Run(db, cell, id) => {
                let record: Run = read(entry)?;
                check_subject(&(db, cell, id), &(&record.database, &record.cell, &record.id))?;
                // In a listing the runs come after all jobs.
                let id = *id;
                let slim = matches!(self.scope, Scope::OpenJobsOf(_)) && record.state.is_terminal();
                self.insert_run(if slim { slimmed(record) } else { record }, entry.revision);
                self.settle(&id);
                return Ok(());
            }
            Key::Claim(db, cell, id) => {
                self.claims.insert((db.clone(), cell.clone(), *id), read(entry)?);
            }
            Key::CellClaim(db, cell) => {
                self.cell_claims.insert((db.clone(), cell.clone()), read(entry)?);
            }
            Key::Lock(db) => {
                self.locks.insert(db.clone(), read(entry)?);
            }
            Key::Incarnation(db) => {
                self.incarnations.insert(db.clone(), read(entry)?);
            }
            Key::Schedule(db, name) => {
                let record: Schedule = read(entry)?;
                check_subject(&(db, name), &(&record.database, &record.name))?;
                self.schedules.insert((db.clone(), name.clone()), record);
            }
            Key::Revocations => self.revocations = Some(read(entry)?),
            Key::AdminLeader => self.admin_leader = Some(read(entry)?),
            Key::Audit(id) => {
                let record: AuditRecord = read(entry)?;
                check_subject(id, &record.id)?;
                self.audit.insert(*id, record.outcome);
            }
            // Whoever upgrades a host, or has restored etcd, asks the store itself.
            Key::HostUpgrade | Key::EtcdRestore => {}
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
            Key::Failovers(db) => drop(self.failovers.remove(db)),
            Key::Job(db, id) => {
                self.newer_jobs.remove(id);
                if self.jobs.get(id).is_some_and(|record| record.database == *db) {
                    self.jobs.remove(id);
                    self.settle_steps(id);
                }
            }
            Key::Run(db, cell, id) => drop(self.runs.remove(&(db.clone(), cell.clone(), *id))),
            Key::Claim(db, cell, id) => drop(self.claims.remove(&(db.clone(), cell.clone(), *id))),
            Key::CellClaim(db, cell) => drop(self.cell_claims.remove(&(db.clone(), cell.clone()))),
            Key::Lock(db) => drop(self.locks.remove(db)),
            Key::Incarnation(db) => drop(self.incarnations.remove(db)),
            Key::Schedule(db, name) => drop(self.schedules.remove(&(db.clone(), name.clone()))),
            Key::Revocations => self.revocations = None,
            Key::AdminLeader => self.admin_leader = None,
            Key::Audit(id) => drop(self.audit.remove(id)),
            Key::HostUpgrade | Key::EtcdRestore => {}
        }
    }
}
