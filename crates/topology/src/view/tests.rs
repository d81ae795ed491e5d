//! How a view takes in entries: good ones, unreadable ones, and runs that another cell wrote.

use std::collections::BTreeMap;

use cellar_model::{CellName, DatabaseName, JobState, Key, Keyspace};
use serde::Serialize;

use crate::kv::{Change, Entry};
use crate::view::records::View;
use crate::view::test_records::{cell, database, job, job_id, pooler, run};

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

    fn list(&mut self, prefix: &str, entries: &[Entry]) {
        let mut listed = View::of_scope(self.view.scope.clone());
        listed.load(&self.keys, entries);
        self.view.replace(&self.keys, prefix, listed);
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
fn unreadable_records_are_listed_and_hide_no_others() {
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
    // Repaired, removed.
    s.put(&zone(2).1, &cell("zone2", 1));
    for name in &named[3..] {
        s.delete(&format!("/cellar/demo/{name}"));
    }
    assert_eq!(s.unreadable(), ["/cellar/demo/admins/leader", "/cellar/demo/cells/ZONE"]);
    assert_eq!(s.view.cells.len(), 2);
}

#[test]
fn open_job_of_a_newer_build_is_told_from_a_damaged_record() {
    let mut s = Subject::new();
    let path = s.keys.path(&Key::Job("app".parse().unwrap(), job_id(1)));
    for (value, newer) in [
        (r#"{"kind":"JOB_KIND_FAILOVER","id":1}"#, true),
        (r#"{"kind":"JOB_KIND_FAILOVER","closure":null}"#, true),
        (r#"{"kind":"JOB_KIND_FAILOVER","closure":{"state":"JOB_STATE_FAILED"}}"#, false),
        (r#"{"kind":"JOB_KIND_RESTORE","restore":{"target":{"mood":"good"}}}"#, true),
        (r#"{"kind":"JOB_KIND_BACKUP"}"#, false),
        ("{ not JSON", false),
        (r#"{"id":1}"#, false),
    ] {
        s.put_raw(&path, value);
        assert_eq!(s.view.newer_jobs.contains(&job_id(1)), newer, "{value}");
        assert_eq!(s.unreadable(), [path.as_str()]);
    }
    s.put_raw(&path, r#"{"kind":"JOB_KIND_FAILOVER"}"#);
    s.delete(&path);
    assert!(s.view.newer_jobs.is_empty());
}

#[test]
fn a_record_of_another_subject_than_its_key_is_unreadable() {
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
fn a_corrupt_update_removes_the_old_value_and_keeps_its_revision() {
    let mut s = Subject::new();
    let key = zone(1).1;
    let path = s.keys.path(&key);
    assert_eq!(s.view.revision(&key), 0);
    let good = s.put(&key, &cell("zone1", 0));
    assert_eq!(s.view.revision(&key), good);
    let corrupt = s.put_raw(&path, "{}");
    assert!(s.view.cells.is_empty());
    assert_eq!(s.view.revision(&key), corrupt, "a repair needs it as its guard");
    let repaired = s.put(&key, &cell("zone1", 3));
    assert_eq!((s.view.cells[&zone(1).0].index, s.view.revision(&key)), (3, repaired));
    assert!(s.view.unreadable.is_empty());

    s.put_raw(&path, "{}");
    s.delete(&path);
    assert_eq!(s.view, View::default(), "nothing is left, not even its revision");
    s.delete(&path);
    assert_eq!(s.view, View::default());
}

#[test]
fn a_listing_replaces_only_what_lies_below_its_prefix() {
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
    s.list(&keys.kind("cells"), &[kept.clone(), corrupt.clone()]);
    assert_eq!(s.view.cells.keys().collect::<Vec<_>>(), [&zone(2).0]);
    assert_eq!(s.view.cells[&zone(2).0].index, 7);
    assert_eq!(s.view.databases.keys().collect::<Vec<_>>(), [&app]);
    assert_eq!(s.unreadable(), ["/cellar/demo/cells/zone4", "/cellar/demo/databases/web"]);
    let revisions = [1, 2, 3, 4].map(|n| s.view.revision(&zone(n).1));
    assert_eq!(revisions, [0, kept.revision, 0, corrupt.revision]);
    // A listing of everything removes what it does not contain.
    s.list(&keys.all(), &[]);
    assert_eq!(s.view, View::default());
}

#[test]
fn each_kind_of_record_is_stored_and_removed() {
    let mut s = Subject::new();
    let (zone1, db, job) = (zone(1).0, database("app").name, job(1, "app", "zone1"));
    let own = run(&job, &zone1, JobState::Running);
    s.put(&Key::Pooler(db.clone(), zone1.clone()), &pooler("app", "zone1"));
    s.put_raw("/cellar/demo/status/app/zone1", r#"{"database":"app","cell":"zone1","epoch":"e"}"#);
    s.put_raw("/cellar/demo/leaders/app", r#"{"cell":"zone1","term":1}"#);
    s.put(&Key::Job(db.clone(), job.id), &job);
    s.put(&Key::Run(db.clone(), zone1.clone(), job.id), &own);
    s.put(&Key::Claim(db.clone(), zone1.clone(), job.id), &"e");
    // The claim of the cell lies among those of its jobs, and is none of them.
    s.put(&Key::CellClaim(db.clone(), zone1.clone()), &"1 e machine");
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
    assert_eq!([view.runs.len(), view.claims.len(), view.locks.len(), view.cell_claims.len()], [1; 4]);
    assert_eq!(view.admin_leader.as_deref(), Some("admin-1"));
    assert_eq!((view.run(&job), view.claim(&job)), (Some(&own), Some("e")));
    assert_eq!(view.job(&job.id).unwrap().state, JobState::Running);
    let keys = s.keys.clone();
    let paths: Vec<String> = s.view.revisions.keys().map(|key| keys.path(key)).collect();
    assert_eq!(s.view.audit[&audit.parse().unwrap()], cellar_model::AuditOutcome::Allowed);
    assert_eq!(paths.len(), 10);
    for path in paths {
        s.delete(&path);
    }
    assert_eq!(s.view, View::default());
}

#[test]
fn runs_and_claims_of_another_cell_do_not_count_for_a_job() {
    let mut s = Subject::new();
    let job = job(1, "app", "zone1");
    let other = zone(2).0;
    s.put(&Key::Job(job.database.clone(), job.id), &job);
    // A faulty or compromised pooler can write only below its own cell.
    let foreign = Key::Run(job.database.clone(), other.clone(), job.id);
    s.put(&foreign, &run(&job, &other, JobState::Succeeded));
    s.put(&Key::Claim(job.database.clone(), other.clone(), job.id), &"e");
    assert_eq!(s.view.job(&job.id).unwrap().state, JobState::Pending);
    assert!(!s.view.has_ended(&job.id));
    assert_eq!(s.view.claim(&job), None);
    // Nor can it replace the job's own run.
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
fn a_job_that_cannot_be_read_has_not_ended() {
    let mut s = Subject::new();
    let job = job(1, "app", "zone1");
    let path = s.keys.path(&Key::Job(job.database.clone(), job.id));
    assert!(s.view.has_ended(&job.id));
    s.put(&Key::Job(job.database.clone(), job.id), &job);
    assert!(!s.view.has_ended(&job.id));
    s.put_raw(&path, "{}");
    assert!(!s.view.has_ended(&job.id), "its pooler may be running it");
    s.delete(&path);
    assert!(s.view.has_ended(&job.id));
}
