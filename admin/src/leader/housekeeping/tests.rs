//! A test per rule, and one over random worlds.

use std::time::Duration;

use cellar_model::{
    AuditId, AuditRecord, BackupParams, BackupType, CancelRequest, CellLayout, Code, Database, Incarnation,
    JobId, JobRecord, JobSpec, JobState, Key, Keyspace, LOST_TIMEOUT, Lock, MAX_AUDIT_RECORDS, Progress,
    Protocol, RebuildParams, Run,
};
use cellar_topology::{Change, Entry, View};
use jiff::Timestamp;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Action, decide};
use crate::jobs::stage::{Stage, has_ended, stage};
use crate::leader::observations::Observations;

mod dead_primary;
mod retention;
mod steps;

fn id(n: u64) -> JobId {
    JobId::new(uuid::Uuid::from_u128(u128::from(n)))
}

fn second(n: i64) -> Timestamp {
    Timestamp::new(n, 0).unwrap()
}

/// Created at second `n`, given up at second 1000.
fn record(n: u64, cell: &str) -> JobRecord {
    JobRecord::new(
        id(n),
        JobSpec::Backup(BackupParams {
            backup_type: BackupType::Incr,
            allow_primary: false,
            max_lag_bytes: 0,
        }),
        "app".parse().unwrap(),
        cell.parse().unwrap(),
        "me",
        second(i64::try_from(n).unwrap()),
        second(1000),
    )
}

fn run(record: &JobRecord, state: JobState) -> Run {
    Run {
        id: record.id,
        database: record.database.clone(),
        cell: record.cell.clone(),
        state,
        epoch: "e".into(),
        start_time: second(0),
        end_time: None,
        progress: Progress::default(),
        result: None,
        error: None,
        history: vec![],
        protocol: Protocol::OURS,
    }
}

struct World {
    view: View,
    observed: Observations,
}

impl World {
    /// Two cells, both silent as far as is known so far.
    fn new() -> Self {
        let mut view = View::default();
        let database: Database = serde_json::from_value(serde_json::json!({
            "name": "app", "stanza": "app", "repoPath": "/r", "bootstrapCell": "zone1",
        }))
        .unwrap();
        for (index, name) in ["zone1", "zone2"].into_iter().enumerate() {
            let cell = cellar_model::Cell {
                name: name.parse().unwrap(),
                index: u32::try_from(index).unwrap(),
                host: "h".parse().unwrap(),
                directory: format!("/{name}"),
            };
            let pooler = CellLayout::new(&cell.directory).pooler(&database, &cell, "::").unwrap();
            view.poolers.insert((database.name.clone(), cell.name.clone()), pooler);
        }
        view.databases.insert(database.name.clone(), database);
        Self { view, observed: Observations::default() }
    }

    fn add(&mut self, record: JobRecord) {
        let lock = self.view.locks.entry(record.database.clone()).or_default();
        if lock.holder.is_none() {
            lock.holder = Some(record.id);
        } else {
            lock.queue.push(record.id);
        }
        self.view.jobs.insert(record.id, record);
    }

    fn begin(&mut self, n: u64, state: JobState, claimed: bool) {
        let record = &self.view.jobs[&id(n)];
        let key = (record.database.clone(), record.cell.clone(), record.id);
        self.view.runs.insert(key.clone(), run(record, state));
        if claimed {
            self.view.claims.insert(key, "e".into());
        } else {
            self.view.claims.remove(&key);
        }
    }

    /// Looks for the given time at a world that does not change.
    fn observe(&mut self, duration: Duration) {
        let begin = Instant::now();
        let interval = Duration::from_secs(5);
        let mut looked = Duration::ZERO;
        while looked < duration {
            self.observed.observe(&self.view, begin + looked);
            looked += interval.min(duration - looked);
        }
        self.observed.observe(&self.view, begin + duration);
    }

    /// What is decided at that second, by a leader that has led since the first.
    fn decide(&self, now: i64) -> Vec<Action> {
        let mut observed = self.observed.clone();
        observed.seen_open(&self.view, second(now));
        decide(&self.view, &observed, second(now))
    }

    /// The codes with which jobs are closed.
    fn closures(&self, now: i64) -> Vec<(JobId, JobState, Code)> {
        self.decide(now)
            .into_iter()
            .filter_map(|action| match action {
                Action::Close { record, .. } => {
                    let closure = record.closure.unwrap();
                    Some((record.id, closure.state, closure.error.unwrap().code))
                }
                _ => None,
            })
            .collect()
    }
}

#[test]
fn nothing_is_done_about_a_job_that_waits_or_runs() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.add(record(2, "zone2"));
    world.begin(1, JobState::Running, true);
    world.observe(Duration::from_secs(29));
    assert_eq!(world.decide(10), []);
    // A living pooler has the last word even past the deadline.
    assert_eq!(world.closures(2000), [(id(2), JobState::Failed, Code::DeadlineExceeded)]);
}

/// The deadline was set by another host's clock, and this leader's is years ahead.
#[test]
fn clock_of_the_leader_does_not_make_a_job_late() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.observe(Duration::from_secs(5));
    assert_eq!(decide(&world.view, &world.observed, second(100_000_000)), []);
}

#[test]
fn past_its_deadline_a_job_that_nobody_works_on_is_closed() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    assert_eq!(world.closures(1000), [(id(1), JobState::Failed, Code::DeadlineExceeded)]);
    assert_eq!(world.closures(999), []);
    world.begin(1, JobState::Running, false);
    assert_eq!(world.closures(1000), [(id(1), JobState::Failed, Code::DeadlineExceeded)]);
    world.begin(1, JobState::Succeeded, false);
    assert_eq!(world.closures(1000), []);
}

#[test]
fn only_the_holder_is_closed_for_a_silent_pooler() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.add(record(2, "zone1"));
    world.observe(Duration::from_secs(30));
    assert_eq!(world.closures(10), [(id(1), JobState::Failed, Code::CellDown)]);
    // It reported in between: counting begins again.
    let status = serde_json::json!({"database": "app", "cell": "zone1", "epoch": "e"});
    let key = ("app".parse().unwrap(), "zone1".parse().unwrap());
    world.view.status.insert(key.clone(), serde_json::from_value(status).unwrap());
    world.observe(Duration::from_secs(100));
    assert_eq!(world.closures(10), []);
    world.view.status.remove(&key);
    world.observe(LOST_TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.closures(10), []);
}

#[test]
fn a_cancel_is_carried_out_where_no_pooler_can() {
    let mut world = World::new();
    let cancel = CancelRequest { requested_by: "me".into(), time: second(5) };
    world.add(JobRecord { cancel: Some(cancel), ..record(1, "zone1") });
    assert_eq!(world.closures(10), [(id(1), JobState::Canceled, Code::Canceled)]);
    world.begin(1, JobState::Running, true);
    world.observe(Duration::from_secs(100));
    assert_eq!(world.closures(10), [], "its pooler lives and will end it");
    world.begin(1, JobState::Running, false);
    world.observe(LOST_TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.closures(10), []);
    world.observe(LOST_TIMEOUT);
    assert_eq!(world.closures(10), [(id(1), JobState::Canceled, Code::Canceled)]);
}

#[test]
fn a_lost_job_is_closed_after_its_work_was_ended_unless_it_only_reads() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.add(JobRecord { spec: JobSpec::Verify, ..record(2, "zone1") });
    world.begin(1, JobState::Running, false);
    world.begin(2, JobState::Running, false);
    assert_eq!(world.observed.next_timeout(), None, "neither was seen lost yet");
    world.observe(LOST_TIMEOUT - Duration::from_secs(1));
    assert_eq!(world.closures(10), []);
    assert_eq!(world.observed.next_timeout(), Some(Duration::from_secs(1)), "the leader looks again then");
    world.observe(LOST_TIMEOUT);
    assert_eq!(world.closures(10), [(id(1), JobState::Failed, Code::CellDown)]);
    assert_eq!(world.observed.next_timeout(), None, "nothing is left to wait for");
}

/// As of an older build's process, or of one on another machine: the process that has the cell now takes over runs of its own
/// machine's processes only.
#[test]
fn lost_job_that_the_next_process_of_its_cell_does_not_take_over_is_closed() {
    for spec in [JobSpec::Verify, JobSpec::Check] {
        let mut world = World::new();
        world.add(JobRecord { spec, ..record(1, "zone1") });
        world.begin(1, JobState::Running, false);
        let begin = Instant::now();
        let mut looked = 0;
        let mut look_until = |world: &mut World, second: u64| {
            while looked < second {
                looked = second.min(looked + 5);
                world.observed.observe(&world.view, begin + Duration::from_secs(looked));
            }
        };
        let reports = |world: &mut World, epoch: &str| {
            let status = serde_json::json!({"database": "app", "cell": "zone1", "epoch": epoch});
            let key = ("app".parse().unwrap(), "zone1".parse().unwrap());
            world.view.status.insert(key, serde_json::from_value(status).unwrap());
        };
        look_until(&mut world, 100);
        assert_eq!(world.closures(10), [], "the process that ran it may be cut off from etcd");
        reports(&mut world, "e");
        look_until(&mut world, 200);
        assert_eq!(world.closures(10), [], "it is there, and binds its claim again");
        reports(&mut world, "another");
        look_until(&mut world, 201);
        let seen = 201 + LOST_TIMEOUT.as_secs();
        look_until(&mut world, seen - 1);
        assert_eq!(world.closures(10), [], "the next one may be about to take it over");
        assert_eq!(
            world.observed.next_timeout(),
            Some(Duration::from_secs(1)),
            "the leader looks again then"
        );
        look_until(&mut world, seen);
        assert_eq!(world.closures(10), [(id(1), JobState::Failed, Code::PoolerRestarted)]);
    }
}

/// A process of such a build may work on after its lease, on another machine that is cut off.
#[test]
fn lost_job_that_holds_up_others_is_not_closed_by_another_process_when_its_build_may_work_on() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.begin(1, JobState::Running, false);
    for run in world.view.runs.values_mut() {
        run.protocol = Protocol::default();
    }
    let status = serde_json::json!({"database": "app", "cell": "zone1", "epoch": "another"});
    let key = ("app".parse().unwrap(), "zone1".parse().unwrap());
    world.view.status.insert(key, serde_json::from_value(status).unwrap());
    world.observe(10 * LOST_TIMEOUT);
    assert_eq!(world.closures(10), []);
}

/// A leader that stood still has not seen a claim that came back meanwhile and lapsed again.
#[test]
fn nothing_is_concluded_from_the_time_in_which_nobody_looked() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.begin(1, JobState::Running, false);
    let begin = Instant::now();
    world.observed.observe(&world.view, begin);
    world.observed.observe(&world.view, begin + Duration::from_secs(60));
    assert_eq!(world.closures(10), []);
    for seconds in [64, 68, 72] {
        world.observed.observe(&world.view, begin + Duration::from_secs(seconds));
    }
    assert_eq!(world.closures(10), [(id(1), JobState::Failed, Code::CellDown)]);
}

#[test]
fn a_lost_job_of_a_build_without_watchdog_is_closed_at_its_deadline() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.begin(1, JobState::Running, false);
    let run = world.view.runs.values_mut().next().unwrap();
    run.protocol = Protocol::UNNUMBERED;
    world.observe(Duration::from_secs(500));
    assert_eq!(world.closures(10), [], "its pgBackRest may still run");
    assert_eq!(world.closures(1001), [(id(1), JobState::Failed, Code::DeadlineExceeded)]);
}

#[test]
fn an_open_job_of_a_newer_build_keeps_the_lock() {
    let mut world = World::new();
    let app = "app".parse().unwrap();
    world.add(record(1, "zone1"));
    world.add(record(2, "zone1"));
    let job = world.view.jobs.remove(&id(1)).unwrap();
    let stored = |view: &mut View, value: &str| {
        let keys = Keyspace::new(&"demo".parse().unwrap());
        let key = keys.path(&Key::Job("app".parse().unwrap(), id(1)));
        view.apply(&keys, &Change::Put(Entry { key, value: value.as_bytes().to_vec(), revision: 5 }));
    };
    stored(&mut world.view, r#"{"kind": "JOB_KIND_FAILOVER"}"#);
    assert!(!has_ended(&world.view, &app, &id(1)));
    let moves =
        |world: &World| world.decide(10).iter().any(|action| matches!(action, Action::PassLock { .. }));
    assert!(!moves(&world), "a newer multiadmin may drive it");
    let key = (app.clone(), job.cell.clone(), job.id);
    world.view.runs.insert(key, run(&job, JobState::Succeeded));
    assert!(has_ended(&world.view, &app, &id(1)) && moves(&world));
    world.view.runs.clear();
    stored(&mut world.view, "{ not JSON");
    assert!(has_ended(&world.view, &app, &id(1)), "a damaged record that nobody began");
}

#[test]
fn a_pending_job_of_a_removed_cell_is_closed() {
    let mut world = World::new();
    world.add(record(1, "zone1"));
    world.add(record(2, "zone2"));
    world.view.poolers.retain(|(_, cell), _| cell.as_str() == "zone1");
    assert_eq!(world.closures(10), [(id(2), JobState::Failed, Code::UnknownCell)]);
    world.begin(2, JobState::Running, false);
    assert_eq!(world.closures(10), [], "its outcome may still come");
}

#[test]
fn the_lock_moves_on_in_order() {
    let mut world = World::new();
    for n in 1..=3 {
        world.add(record(n, "zone1"));
    }
    world.begin(1, JobState::Succeeded, false);
    let moved = Lock { holder: Some(id(2)), queue: vec![id(3)] };
    let action = Action::PassLock { database: "app".parse().unwrap(), lock: moved, revision: 0 };
    assert_eq!(world.decide(10), [action]);
}

#[test]
fn jobs_without_a_place_get_one_and_those_that_run_come_first() {
    let mut world = World::new();
    for n in 1..=3 {
        world.add(record(n, "zone1"));
    }
    world.begin(2, JobState::Running, true);
    world.view.locks.clear();
    let lock = Lock { holder: Some(id(2)), queue: vec![id(1), id(3)] };
    assert_eq!(world.decide(10), [Action::PassLock { database: "app".parse().unwrap(), lock, revision: 0 }]);
}

fn incarnation(job: Option<u64>, fence: Option<u64>) -> Incarnation {
    let kept_in = job.map(|_| "zone1".parse().unwrap());
    Incarnation { number: 2, job: job.map(id), fence: fence.map(id), kept_in, ..Incarnation::default() }
}

#[test]
fn fence_of_a_job_that_ended_or_is_gone_is_lifted() {
    let mut world = World::new();
    let app: cellar_model::DatabaseName = "app".parse().unwrap();
    world.view.incarnations.insert(app.clone(), incarnation(None, Some(1)));
    let lifts =
        |world: &World| world.decide(10).iter().any(|action| matches!(action, Action::LiftFence { .. }));
    assert!(lifts(&world), "its job is gone");
    world.add(record(1, "zone1"));
    assert!(!lifts(&world), "its job waits");
    world.begin(1, JobState::Running, true);
    assert!(!lifts(&world), "its job runs");
    world.begin(1, JobState::Canceled, false);
    assert!(lifts(&world), "its job has ended");
}

/// One job of a random world: its cell, how far it is, whether it is claimed, canceled and in the lock.
type Draw = (bool, u8, bool, bool, bool, i64);

fn world_of(draws: Vec<Draw>, silent: u64) -> World {
    let mut world = World::new();
    for (n, (first, progress, claimed, canceled, placed, deadline)) in draws.into_iter().enumerate() {
        let n = n as u64 + 1;
        let cell = if first { "zone1" } else { "zone3" };
        let cancel = canceled.then(|| CancelRequest { requested_by: "me".into(), time: second(1) });
        let job = JobRecord { cancel, deadline: second(deadline), ..record(n, cell) };
        if placed {
            world.add(job);
        } else {
            world.view.jobs.insert(job.id, job);
        }
        match progress {
            0 => {}
            1 => world.begin(n, JobState::Running, claimed),
            _ => world.begin(n, JobState::Failed, claimed),
        }
    }
    world.observe(Duration::from_secs(silent));
    world
}

fn apply(view: &mut View, action: Action) {
    match action {
        Action::PassLock { database, lock, .. } => drop(view.locks.insert(database, lock)),
        Action::Close { record, .. } => drop(view.jobs.insert(record.id, *record)),
        Action::LiftFence { database, incarnation, .. } => {
            view.incarnations.insert(database, incarnation);
        }
        Action::Forget { jobs } => {
            for job in jobs {
                view.jobs.remove(&job.id);
                view.runs.remove(&(job.database, job.cell, job.id));
            }
        }
        Action::ForgetAudit { ids } => view.audit.retain(|id, _| !ids.contains(id)),
        Action::Drive(_) | Action::RaiseMinimum { .. } => {
            unreachable!("there are only backups, and no pooler reports")
        }
    }
}

proptest! {
    #[test]
    fn housekeeping_comes_to_rest_and_breaks_nothing(
        draws in proptest::collection::vec(
            (any::<bool>(), 0u8..3, any::<bool>(), any::<bool>(), any::<bool>(), 0i64..200), 0..20),
        silent in 0u64..60,
        now in 0i64..300,
    ) {
        let mut world = world_of(draws, silent);
        let app = "app".parse().unwrap();
        let mut rounds = 0;
        loop {
            let actions = world.decide(now);
            if actions.is_empty() {
                break;
            }
            rounds += 1;
            // Each round may give the lock to a holder that is closed in the next.
            prop_assert!(rounds < 60, "it never rests");
            for action in &actions {
                match action {
                    Action::Close { record, .. } => {
                        let before = &world.view.jobs[&record.id];
                        prop_assert!(matches!(stage(&world.view, before), Stage::Pending | Stage::Lost));
                        prop_assert_eq!(&JobRecord { closure: None, ..(**record).clone() }, before);
                    }
                    Action::PassLock { lock, .. } => {
                        let old = world.view.locks.get(&app).cloned().unwrap_or_default();
                        for gone in old.holder.iter().chain(&old.queue) {
                            let kept = lock.holder == Some(*gone) || lock.queue.contains(gone);
                            prop_assert_eq!(kept, !has_ended(&world.view, &app, gone));
                        }
                    }
                    Action::Forget { .. } | Action::ForgetAudit { .. } => prop_assert!(false, "so few are kept"),
                    Action::Drive(_) | Action::LiftFence { .. } | Action::RaiseMinimum { .. } => {
                        prop_assert!(false, "there are only backups, and no pooler reports");
                    }
                }
            }
            for action in actions {
                apply(&mut world.view, action);
            }
        }
        let lock = world.view.locks.get(&app).cloned().unwrap_or_default();
        for record in world.view.jobs.values() {
            let placed = lock.holder == Some(record.id) || lock.queue.contains(&record.id);
            prop_assert_eq!(placed, stage(&world.view, record) != Stage::Ended);
        }
    }
}

mod without_poolers;
