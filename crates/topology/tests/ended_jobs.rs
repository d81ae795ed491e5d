//! What a mirror keeps of jobs that have ended, through everything that can happen to their records and to etcd.
#![expect(clippy::unwrap_used, reason = "this is a test")]

#[path = "support/records.rs"]
#[expect(dead_code, reason = "shared with tests that write more kinds of records")]
mod records;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cellar_model::{
    CellName, Closure, JobId, JobRecord, JobSpec, JobState, Key, Keyspace, RestoreParams, Run, Target,
};
use cellar_topology::{MemoryKv, Mirror, Scope, Store, Transaction, View};
use jiff::Timestamp;
use proptest::prelude::*;
use records::{job, job_id, run};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// What may happen to one of a few jobs, or to the store.
#[derive(Debug, Clone)]
enum Step {
    Submit {
        n: u128,
        cell: bool,
        parent: bool,
    },
    Claim(u128),
    End(u128),
    Close(u128),
    Forget(u128),
    /// etcd is set back to a state from before the job's end.
    SetBack {
        n: u128,
        run: bool,
    },
    Compact,
    Reachable(bool),
    Wait(u64),
}

/// The first is a restore, of which others may be steps.
const JOBS: std::ops::Range<u128> = 1..9;

const RESTORE: u128 = 1;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (JOBS, any::<bool>(), any::<bool>()).prop_map(|(n, cell, parent)| Step::Submit { n, cell, parent }),
        4 => JOBS.prop_map(Step::Claim),
        4 => JOBS.prop_map(Step::End),
        2 => JOBS.prop_map(Step::Close),
        2 => JOBS.prop_map(Step::Forget),
        1 => (JOBS, any::<bool>()).prop_map(|(n, run)| Step::SetBack { n, run }),
        1 => Just(Step::Compact),
        2 => any::<bool>().prop_map(Step::Reachable),
        4 => (0..900u64).prop_map(Step::Wait),
    ]
}

fn restore(n: u128, cell: &str) -> JobRecord {
    let params = RestoreParams {
        target: Target::Latest {},
        timeline: None,
        in_place: false,
        onto: None,
        backup: None,
    };
    JobRecord { spec: JobSpec::Restore(params), ..job(n, "app", cell) }
}

async fn records_of(kv: &MemoryKv, store: &Store, n: u128) -> (Option<JobRecord>, Option<Run>) {
    kv.set_unreachable(false);
    let db: cellar_model::DatabaseName = "app".parse().unwrap();
    let record: Option<JobRecord> =
        store.get(&Key::Job(db.clone(), job_id(n))).await.unwrap().map(|found| found.record);
    let Some(record) = record else { return (None, None) };
    let run =
        store.get(&Key::Run(db, record.cell.clone(), record.id)).await.unwrap().map(|found| found.record);
    (Some(record), run)
}

fn keys(record: &JobRecord) -> (Key, Key) {
    let (db, cell, id) = (record.database.clone(), record.cell.clone(), record.id);
    (Key::Job(db.clone(), id), Key::Run(db, cell, id))
}

async fn commit(transaction: Transaction<'_>) {
    transaction.commit().await.unwrap();
}

async fn happen(kv: &MemoryKv, store: &Store, step: Step, reachable: &mut bool, used: &mut BTreeSet<u128>) {
    let n = match step {
        Step::Compact => return kv.compact(),
        Step::Reachable(now) => {
            *reachable = now;
            return kv.set_unreachable(!now);
        }
        Step::Wait(ms) => return tokio::time::sleep(Duration::from_millis(ms)).await,
        Step::Submit { n, .. }
        | Step::Claim(n)
        | Step::End(n)
        | Step::Close(n)
        | Step::Forget(n)
        | Step::SetBack { n, .. } => n,
    };
    let (record, known) = records_of(kv, store, n).await;
    let transaction = store.transaction();
    match (step, record) {
        // No id is used twice, and a step is recorded while its parent is.
        (Step::Submit { cell, parent, .. }, None) if used.insert(n) => {
            let cell = if cell { "zone1" } else { "zone2" };
            let has_parent = parent && records_of(kv, store, RESTORE).await.0.is_some();
            let parent = has_parent.then(|| job_id(RESTORE));
            let record =
                if n == RESTORE { restore(n, cell) } else { JobRecord { parent, ..job(n, "app", cell) } };
            commit(transaction.put(&keys(&record).0, &record)).await;
        }
        (Step::Claim(_), Some(record))
            if known.is_none() && record.closure.is_none() && !record.kind().is_driven() =>
        {
            let begun = run(&record, &record.cell, JobState::Running);
            commit(transaction.put(&keys(&record).1, &begun)).await;
        }
        (Step::End(_), Some(record)) if known.is_some() && record.closure.is_none() => {
            let ended =
                Run { end_time: Some(Timestamp::UNIX_EPOCH), ..run(&record, &record.cell, JobState::Failed) };
            commit(transaction.put(&keys(&record).1, &ended)).await;
        }
        (Step::Close(_), Some(record)) if !known.as_ref().is_some_and(|run| run.state.is_terminal()) => {
            let closure =
                Closure { state: JobState::Failed, time: Timestamp::UNIX_EPOCH, error: None, result: None };
            let closed = JobRecord { closure: Some(closure), ..record };
            commit(transaction.put(&keys(&closed).0, &closed)).await;
        }
        (Step::Forget(_), Some(record)) => {
            let (job, run) = keys(&record);
            commit(transaction.delete(&job).delete(&run)).await;
        }
        (Step::SetBack { run: to_running, .. }, Some(record)) if known.is_some() => {
            // Its watches break too.
            kv.set_unreachable(true);
            kv.set_unreachable(false);
            let (job, key) = keys(&record);
            let before = JobRecord { closure: None, ..record.clone() };
            let transaction = transaction.put(&job, &before);
            let begun = run(&record, &record.cell, JobState::Running);
            commit(if to_running { transaction.put(&key, &begun) } else { transaction.delete(&key) }).await;
            kv.compact();
        }
        _ => {}
    }
    kv.set_unreachable(!*reachable);
}

/// Everything that is asked of a view about one job.
fn about(view: &View, full: &View, id: JobId) -> (Option<JobState>, [bool; 3], i64, i64) {
    let state = view.ended.get(&id).map(|ended| ended.state).or_else(|| Some(view.job(&id)?.state));
    let (job, run) = full.jobs.get(&id).map(keys).unzip();
    let revision = |key: Option<Key>| key.map_or(0, |key| view.revision(&key));
    let is = [view.knows(&id), view.has_ended(&id), view.recorded_end(&id).is_some()];
    (state, is, revision(job), revision(run))
}

fn check(view: &View, full: &View, own: Option<&CellName>) {
    for id in JOBS.map(job_id) {
        let record = full.jobs.get(&id);
        let left_out =
            |record: &JobRecord| own.is_some_and(|own| record.cell != *own) && !record.kind().is_driven();
        if record.is_some_and(left_out) {
            assert!(!view.knows(&id), "another cell's job");
            continue;
        }
        assert_eq!(about(view, full, id), about(full, full, id), "{record:?}");
        let open_parent = record
            .and_then(|record| full.jobs.get(&record.parent?))
            .is_some_and(|parent| own.is_none() && !full.has_ended(&parent.id));
        let whole = record.is_some_and(|record| {
            !full.has_ended(&id) || open_parent || (own.is_none() && record.kind().is_driven())
        });
        assert_eq!(
            view.jobs.get(&id),
            record.filter(|_| whole),
            "an ended job is summarised, an open one whole"
        );
    }
}

async fn mirrors_through(steps: Vec<Step>) {
    let kv = MemoryKv::default();
    let store = Store::new(Arc::new(kv.clone()), Keyspace::new(&"demo".parse().unwrap()));
    let (db, zone1) = ("app".parse().unwrap(), "zone1".parse::<CellName>().unwrap());
    let start = |scope: Option<Scope>| match scope {
        None => Mirror::start(&store, vec![store.keys().all()]),
        Some(Scope::OpenJobs) => Mirror::start_with(&store, vec![store.keys().all()], Scope::OpenJobs),
        Some(scope) => Mirror::start_with(&store, store.keys().watched_by_pooler(&db, &zone1), scope),
    };
    let all = || [None, Some(Scope::OpenJobs), Some(Scope::OpenJobsOf(zone1.clone()))].map(start);
    let followed = all();
    let (mut reachable, mut used) = (true, BTreeSet::new());
    for step in steps {
        happen(&kv, &store, step, &mut reachable, &mut used).await;
    }
    kv.set_unreachable(false);
    // Longer than the pause before a listing that follows a broken watch, twice: one may ask for another.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let fresh = all();
    for mirror in followed.iter().chain(&fresh) {
        mirror.ready(WAIT_TIMEOUT).await.unwrap();
    }
    let full = followed[0].view();
    for mirrors in [&followed, &fresh] {
        check(&mirrors[1].view(), &full, None);
        check(&mirrors[2].view(), &full, Some(&zone1));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn open_jobs_are_whole_and_ended_ones_are_summarised(steps in proptest::collection::vec(step(), 0..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(mirrors_through(steps));
    }
}
