//! What is kept of the past.

use cellar_model::{BackupLabel, DrillParams, JobError};

use super::super::history;
use super::*;

#[test]
fn the_newest_of_the_past_are_kept() {
    let mut world = World::new();
    let surplus = 50;
    for n in 1..=(history::KEPT + surplus) as u64 {
        world.view.jobs.insert(id(n), record(n, "zone1"));
        world.begin(n, JobState::Succeeded, false);
    }
    // Two that must stay although they are old.
    world.view.locks.insert("app".parse().unwrap(), Lock { holder: Some(id(3)), queue: vec![] });
    world.begin(5, JobState::Succeeded, true);
    let forgotten: Vec<JobId> = world
        .decide(2000)
        .into_iter()
        .filter_map(|action| if let Action::Forget { jobs } = action { Some(jobs) } else { None })
        .inspect(|jobs| assert!(jobs.len() * 2 < 120, "etcd takes 128 operations"))
        .flatten()
        .map(|job| job.id)
        .collect();
    let expected: Vec<JobId> = (1..=surplus as u64).filter(|n| ![3, 5].contains(n)).map(id).collect();
    assert_eq!(forgotten, expected);
}

/// The listing shows it, and plans and expiries go by it.
#[test]
fn last_drill_that_says_something_about_a_backup_is_kept() {
    let mut world = World::new();
    let label: BackupLabel = "20260301-101500F".parse().unwrap();
    let drill = |n: u64| {
        let params = DrillParams {
            backup: Some(label.clone()),
            checks: Vec::new(),
            check_database: String::new(),
            skip_amcheck: false,
            nice: 19,
            max_bytes_per_second: 0,
        };
        JobRecord { spec: JobSpec::Drill(params), ..record(n, "zone1") }
    };
    let failed = |code| {
        let error =
            JobError { code, message: String::new(), hint: String::new(), tool_output: String::new() };
        Some(error)
    };
    // Passed, then the repository was found damaged, then there was no memory.
    let ends = [(1, None), (2, failed(Code::WalMissing)), (3, failed(Code::MemoryShort))];
    for (n, error) in ends {
        world.view.jobs.insert(id(n), drill(n));
        let state = if error.is_some() { JobState::Failed } else { JobState::Succeeded };
        world.begin(n, state, false);
        world.view.runs.values_mut().filter(|run| run.id == id(n)).for_each(|run| run.error = error.clone());
    }
    for n in 10..=(history::KEPT + 20) as u64 {
        world.view.jobs.insert(id(n), record(n, "zone1"));
        world.begin(n, JobState::Succeeded, false);
    }
    let forgotten: Vec<JobId> = world
        .decide(3000)
        .into_iter()
        .filter_map(|action| if let Action::Forget { jobs } = action { Some(jobs) } else { None })
        .flatten()
        .map(|job| job.id)
        .collect();
    let is_kept = |n| !forgotten.contains(&id(n));
    assert_eq!((is_kept(1), is_kept(2), is_kept(3)), (false, true, false), "{forgotten:?}");
}

/// A request that comes again with the same id must find its job, however many came after it.
#[test]
fn a_young_job_is_kept_whatever_came_after_it() {
    let mut world = World::new();
    for n in 1..=(history::KEPT + 3) as u64 {
        world.view.jobs.insert(id(n), record(n, "zone1"));
        world.begin(n, JobState::Succeeded, false);
    }
    let age = history::MIN_AGE.as_secs();
    // Their times of creation are the seconds 1, 2, 3 and so on. A clock that is behind forgets none.
    for (now, expected) in [(0, 0), (age, 0), (age + 1, 1), (age + 2, 2), (age + 500, 3)] {
        let actions = world.decide(now);
        let forgotten = actions.iter().filter_map(|action| match action {
            Action::Forget { jobs } => Some(jobs.len()),
            _ => None,
        });
        assert_eq!(forgotten.sum::<usize>(), expected, "at {now}");
    }
}

#[test]
fn restore_that_may_be_rolled_back_is_kept_whatever_came_after_it() {
    let mut world = World::new();
    let surplus = 20;
    for n in 1..=(history::KEPT + surplus) as u64 {
        let parent = (n == 2).then(|| id(1));
        world.view.jobs.insert(id(n), JobRecord { parent, ..record(n, "zone1") });
        world.begin(n, JobState::Succeeded, false);
    }
    world.view.incarnations.insert("app".parse().unwrap(), incarnation(Some(1), None));
    let forgotten: Vec<JobId> = world
        .decide(2000)
        .into_iter()
        .filter_map(|action| if let Action::Forget { jobs } = action { Some(jobs) } else { None })
        .flatten()
        .map(|job| job.id)
        .collect();
    assert!(!forgotten.is_empty());
    assert!(!forgotten.contains(&id(1)) && !forgotten.contains(&id(2)), "the restore and its step");
}

/// Its old data is deleted by a confirmation, which goes by the record.
#[test]
fn restore_that_was_never_confirmed_is_kept_also_when_others_followed() {
    let restored = |n: u64, confirmed: bool| {
        let mut world = World::new();
        for m in 1..=(history::KEPT + 20) as u64 {
            world.view.jobs.insert(id(m), record(m, "zone1"));
            world.begin(m, JobState::Succeeded, false);
        }
        let recovery = serde_json::json!({"timeline": 2, "fromTimeline": 1, "lsn": "0/1", "stopped": "end",
            "sizeBytes": 1, "restoreMillis": 1, "recoveryMillis": 1});
        let result = serde_json::json!({"restore": {"cell": "zone1", "incarnation": 2, "recovery": recovery, "kept": true}});
        let closure = |result: serde_json::Value| {
            let text = serde_json::json!({"state": "JOB_STATE_SUCCEEDED", "time": "1970-01-01T00:00:01Z", "result": result});
            Some(serde_json::from_value(text).unwrap())
        };
        let spec =
            JobSpec::Restore(serde_json::from_value(serde_json::json!({"target": {"latest": {}}})).unwrap());
        world.view.jobs.insert(id(n), JobRecord { spec, closure: closure(result), ..record(n, "zone1") });
        if confirmed {
            let spec = JobSpec::Confirm(id(n));
            let closure = closure(serde_json::Value::Null);
            world.view.jobs.insert(id(n + 1), JobRecord { spec, closure, ..record(n + 1, "zone1") });
        }
        let actions = world.decide(2000);
        let forgotten = actions.iter().filter_map(|action| match action {
            Action::Forget { jobs } => Some(jobs),
            _ => None,
        });
        forgotten.flatten().any(|job| job.id == id(n))
    };
    assert!(!restored(3, false) && restored(3, true));
}

#[test]
fn audit_records_are_bounded_too() {
    let mut world = World::new();
    let surplus = 250;
    for n in 1..=(MAX_AUDIT_RECORDS + surplus) as u64 {
        let call: AuditRecord = serde_json::from_value(serde_json::json!({
            "id": AuditId::new(uuid::Uuid::from_u128(n.into())), "time": "2026-03-01T10:00:00Z", "rpc": "Backup",
            "outcome": "AUDIT_OUTCOME_ALLOWED",
        }))
        .unwrap();
        world.view.audit.insert(call.id, call.outcome);
    }
    let oldest: Vec<AuditId> = world.view.audit.keys().take(surplus).copied().collect();
    let mut forgotten = Vec::new();
    for action in world.decide(10) {
        let Action::ForgetAudit { ids } = &action else { panic!("{action:?}") };
        assert!(ids.len() < 128, "etcd takes 128 operations");
        forgotten.extend(ids.clone());
        apply(&mut world.view, action);
    }
    assert_eq!(forgotten, oldest);
    assert_eq!(world.decide(10), [], "it rests");
}
