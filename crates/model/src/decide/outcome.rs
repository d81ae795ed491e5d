//! The job state machine: what state a job is in, and who may end it.
//!
//! Two writers could end a job: its pooler by writing the run, multiadmin by
//! closing the job. `claimable` and `closable` are the guards that each
//! checks in the transaction it writes with, so exactly one outcome wins.

use crate::records::job::record::{Job, JobRecord, JobStep};
use crate::records::job::run::{JobState, Progress, Run};
use crate::records::lock::Lock;

/// The state of a job.
///
/// `claimed` says whether a claim key exists, that is, whether the pooler that runs it was alive a lease's time ago.
#[must_use]
pub fn state(record: &JobRecord, run: Option<&Run>, claimed: bool, lock: Option<&Lock>) -> JobState {
    // A run that ended outranks a closure only if it came first; the guards
    // below make sure that never both are there.
    match (run, &record.closure) {
        (Some(run), _) if run.state.is_terminal() => run.state,
        (_, Some(closure)) => closure.state,
        // A job that multiadmin drives has no claim: it runs from the moment at which it holds the lock.
        (None, None)
            if record.kind().is_driven() && lock.is_some_and(|lock| lock.holder == Some(record.id)) =>
        {
            JobState::Running
        }
        (Some(_), None) if claimed => JobState::Running,
        (Some(_), None) => JobState::Lost,
        (None, None) => JobState::Pending,
    }
}

/// Joins the two records into what the API shows. For `claimed` see [`state`].
#[must_use]
pub fn join(record: &JobRecord, run: Option<&Run>, claimed: bool, lock: Option<&Lock>) -> Job {
    let state = state(record, run, claimed, lock);
    let (error, end_time) = match (run, &record.closure) {
        (Some(run), _) if run.state.is_terminal() => (run.error.clone(), run.end_time),
        (_, Some(closure)) => (closure.error.clone(), Some(closure.time)),
        _ => (None, None),
    };
    Job {
        record: record.clone(),
        state,
        start_time: run.map(|run| run.start_time),
        end_time,
        progress: run.map(|run| run.progress.clone()),
        result: run.and_then(|run| run.result.clone()).or_else(|| record.closure.as_ref()?.result.clone()),
        error,
        waits_for: lock.map(|lock| lock.in_front_of(&record.id)).unwrap_or_default(),
        history: run.map(|run| run.history.clone()).unwrap_or_default(),
        steps: Vec::new(),
    }
}

/// Adds its steps to a job that multiadmin drives: they say when it began and what it does.
#[must_use]
pub fn with_steps(mut job: Job, mut steps: Vec<Job>) -> Job {
    steps.sort_by_key(|step| {
        (step.record.create_time, step.start_time.is_none(), step.start_time, step.record.id)
    });
    job.start_time = steps.first().map(|first| first.record.create_time).or(job.start_time);
    let current = steps.iter().find(|step| !step.state.is_terminal());
    if let (JobState::Running, Some(step)) = (job.state, current) {
        let doing =
            step.progress.as_ref().map(|progress| progress.phase.as_str()).filter(|phase| !phase.is_empty());
        let phase =
            format!("{} {}: {}", step.record.kind(), step.record.cell, doing.unwrap_or(step.state.as_str()));
        let progress = step.progress.clone().unwrap_or_default();
        job.progress = Some(Progress { phase, ..progress });
    }
    job.steps = steps
        .into_iter()
        .map(|step| JobStep {
            id: step.record.id,
            kind: step.record.kind(),
            cell: step.record.cell,
            state: step.state,
            start_time: step.start_time,
            end_time: step.end_time,
            progress: step.progress,
            error: step.error,
        })
        .collect();
    job
}

/// Whether a pooler may claim the job now. Checked again by the claim's transaction through the
/// mod revisions of the job and the lock.
#[must_use]
pub fn claimable(record: &JobRecord, run: Option<&Run>, lock: &Lock) -> bool {
    if record.closure.is_some() || run.is_some() || record.kind().is_driven() {
        return false;
    }
    // A step works under the lock of the job that it is a step of.
    !record.kind().takes_lock() || lock.holder == Some(record.parent.unwrap_or(record.id))
}

/// Whether multiadmin may close the job: no pooler claims it, no run has ended, and it is not
/// closed yet. Checked again by the closing transaction.
#[must_use]
pub fn closable(record: &JobRecord, run: Option<&Run>, claimed: bool) -> bool {
    record.closure.is_none() && !claimed && !run.is_some_and(|run| run.state.is_terminal())
}

/// Whether a pooler that has come back may write the outcome of a run that an earlier process of
/// the same cell left behind.
#[must_use]
pub fn lost_is_recoverable(record: &JobRecord, run: &Run, epoch: &str) -> bool {
    record.closure.is_none() && run.state == JobState::Running && run.epoch != epoch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::code::Code;
    use jiff::Timestamp;
    use proptest::prelude::*;

    use crate::records::job::id::JobId;
    use crate::records::job::record::Closure;
    use crate::records::job::run::JobError;
    use crate::records::job::spec::JobSpec;
    use crate::records::rebuild::RebuildParams;
    use crate::types::protocol::Protocol;

    fn record(n: u128) -> JobRecord {
        JobRecord::new(
            JobId::new(uuid::Uuid::from_u128(n)),
            JobSpec::Rebuild(RebuildParams::default()),
            "app".parse().unwrap(),
            "zone1".parse().unwrap(),
            "test",
            Timestamp::UNIX_EPOCH,
            Timestamp::UNIX_EPOCH,
        )
    }

    fn run(record: &JobRecord, epoch: u8) -> Run {
        Run {
            id: record.id,
            database: record.database.clone(),
            cell: record.cell.clone(),
            state: JobState::Running,
            epoch: epoch.to_string(),
            start_time: Timestamp::UNIX_EPOCH,
            end_time: None,
            progress: Progress::default(),
            result: None,
            error: None,
            history: vec![],
            protocol: Protocol::OURS,
        }
    }

    fn error() -> JobError {
        JobError {
            code: Code::DeadlineExceeded,
            message: "late".into(),
            hint: String::new(),
            tool_output: String::new(),
        }
    }

    /// The world as etcd holds it, with the transactions' guards, and processes that act on
    /// stale views of it in any order.
    #[derive(Debug, Clone)]
    enum Act {
        Claim(u8),
        LeaseExpires,
        Finish(u8, bool),
        Recover(u8),
        Close,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (0u8..3).prop_map(Act::Claim),
            Just(Act::LeaseExpires),
            (0u8..3, any::<bool>()).prop_map(|(e, ok)| Act::Finish(e, ok)),
            (0u8..3).prop_map(Act::Recover),
            Just(Act::Close),
        ];
        proptest::collection::vec(act, 1..40)
    }

    proptest! {
        /// Terminal states never change, and a job is never both closed and ended by its run.
        #[test]
        fn exactly_one_outcome_wins(acts in acts()) {
            let mut record = record(1);
            let lock = Lock { holder: Some(record.id), queue: vec![] };
            let mut the_run: Option<Run> = None;
            let mut claim: Option<u8> = None;
            let mut outcome: Option<JobState> = None;
            for act in acts {
                match act {
                    Act::Claim(epoch) if claimable(&record, the_run.as_ref(), &lock) => {
                        the_run = Some(run(&record, epoch));
                        claim = Some(epoch);
                    }
                    Act::LeaseExpires => claim = None,
                    Act::Finish(epoch, ok) if claim == Some(epoch) => {
                        if let Some(run) = the_run.as_mut().filter(|run| run.state == JobState::Running && record.closure.is_none()) {
                            run.state = if ok { JobState::Succeeded } else { JobState::Failed };
                            claim = None;
                        }
                    }
                    Act::Recover(epoch) => {
                        if let Some(run) = the_run.as_mut().filter(|run| lost_is_recoverable(&record, run, &epoch.to_string())) {
                            run.state = JobState::Failed;
                            claim = None;
                        }
                    }
                    Act::Close if closable(&record, the_run.as_ref(), claim.is_some()) => {
                        record.closure = Some(Closure { state: JobState::Failed, time: Timestamp::UNIX_EPOCH, error: Some(error()), result: None });
                    }
                    _ => {}
                }
                let job = join(&record, the_run.as_ref(), claim.is_some(), Some(&lock));
                if let Some(before) = outcome {
                    prop_assert_eq!(job.state, before);
                }
                if job.state.is_terminal() {
                    outcome = Some(job.state);
                    prop_assert!(record.closure.is_none() || !the_run.as_ref().is_some_and(|run| run.state.is_terminal()));
                }
            }
        }
    }

    #[test]
    fn lost_is_seen_not_stored() {
        let record = record(1);
        let run = run(&record, 1);
        assert_eq!(join(&record, Some(&run), true, None).state, JobState::Running);
        assert_eq!(join(&record, Some(&run), false, None).state, JobState::Lost);
        assert_eq!(join(&record, None, false, None).state, JobState::Pending);
    }
}
