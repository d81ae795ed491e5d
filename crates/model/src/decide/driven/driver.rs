//! The driver: asks the job's kind for the next decision, and ends jobs that cannot go on.

use crate::decide::driven::confirm::Confirm;
use crate::decide::driven::driven_job::DrivenJob;
use crate::decide::driven::restore::Restore;
use crate::decide::driven::rollback::Rollback;
use crate::decide::driven::scene::{Decision, Scene, failure};
use crate::records::incarnation::Incarnation;
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::JobSpec;
use crate::types::code::Code;

/// The one place that knows the kinds of driven jobs. None for a job that a pooler runs.
fn driven_job(spec: &JobSpec) -> Option<Box<dyn DrivenJob + '_>> {
    match spec {
        JobSpec::Restore(params) => Some(Box::new(Restore { params })),
        JobSpec::Rollback(restore) => Some(Box::new(Rollback { restore: *restore })),
        JobSpec::Confirm(restore) => Some(Box::new(Confirm { restore: *restore })),
        _ => None,
    }
}

/// The next thing to do for a job that holds its database's lock. For a job that multiadmin does not drive it is to wait.
#[must_use]
pub fn drive(scene: &Scene<'_>) -> Decision {
    let Some(job) = driven_job(&scene.job.spec) else { return Decision::Wait };
    if job.is_committed(scene) {
        return job.complete(scene);
    }
    if let Some(cancel) = &scene.job.cancel {
        let error = failure(Code::Canceled, format!("canceled by {}", cancel.requested_by), "");
        return give_up(job.as_ref(), scene, JobState::Canceled, error);
    }
    if scene.is_overdue() {
        let error =
            failure(Code::DeadlineExceeded, "the job's deadline passed", "give it more time with --timeout");
        return give_up(job.as_ref(), scene, JobState::Failed, error);
    }
    job.prepare(scene).unwrap_or_else(|error| give_up(job.as_ref(), scene, JobState::Failed, error))
}

/// Ends the job and lifts its fence, once no step of it is under way.
fn give_up(job: &dyn DrivenJob, scene: &Scene<'_>, state: JobState, error: JobError) -> Decision {
    if let Some(decision) = scene.end_steps() {
        return decision;
    }
    let message = format!("{}; {}", error.message, job.state_left(scene));
    let fenced = scene.incarnation.fence == Some(scene.job.id);
    let incarnation = fenced.then(|| Incarnation { fence: None, ..scene.incarnation.clone() });
    Decision::Close { state, error: Some(JobError { message, ..error }), result: None, incarnation }
}
