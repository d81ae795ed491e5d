//! The confirmation of a restore: the old data that it kept is deleted.

use crate::decide::driven::driven_job::DrivenJob;
use crate::decide::driven::scene::{Decision, Scene, error_of, failure};
use crate::records::incarnation::Incarnation;
use crate::records::job::id::JobId;
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::JobKind;
use crate::types::code::Code;
use crate::types::name::CellName;

/// A confirmation. What one could not delete another deletes.
pub(super) struct Confirm {
    /// The restore that is confirmed.
    pub(super) restore: JobId,
}

impl DrivenJob for Confirm {
    /// From the first deletion on.
    fn is_committed(&self, scene: &Scene<'_>) -> bool {
        scene.of_kind(JobKind::Discard).next().is_some()
    }

    fn prepare(&self, scene: &Scene<'_>) -> Result<Decision, JobError> {
        Ok(self.complete(scene))
    }

    fn state_left(&self, scene: &Scene<'_>) -> String {
        let kept = scene.incarnation.job == Some(self.restore) && scene.incarnation.kept_in.is_some();
        if kept {
            "nothing was deleted, and the restore can still be rolled back".to_owned()
        } else {
            "no old data was deleted; confirm it again to delete what is left".to_owned()
        }
    }

    fn complete(&self, scene: &Scene<'_>) -> Decision {
        if scene.job.cancel.is_some() || scene.is_overdue() {
            // What is deleted stays deleted.
            return scene.end_steps().unwrap_or_else(|| close(scene));
        }
        // First: from now on no rollback may use what is being deleted.
        if scene.incarnation.job == Some(self.restore) && scene.incarnation.kept_in.is_some() {
            return Decision::Write(Incarnation { kept_in: None, ..scene.incarnation.clone() });
        }
        scene.discard(self.restore).unwrap_or_else(|| close(scene))
    }
}

fn close(scene: &Scene<'_>) -> Decision {
    let failed = scene.of_kind(JobKind::Discard).find(|step| step.state != JobState::Succeeded);
    let left: Vec<&str> = scene
        .members
        .iter()
        .filter(|cell| !scene.succeeded_in(JobKind::Discard, cell))
        .map(CellName::as_str)
        .collect();
    let close = |state, error| Decision::Close { state, error, result: None, incarnation: None };
    let hint = format!(
        "confirm it again when they are back; until then they keep the old data: `cellar restore confirm {}`",
        scene.job.spec.subject().map(|restore| restore.to_string()).unwrap_or_default()
    );
    let not_in = || format!("the old data is deleted, but not in {}", left.join(", "));
    let fail = |state, code, message: String| close(state, Some(failure(code, message, &hint)));
    match (failed, &scene.job.cancel) {
        (None, _) if left.is_empty() => close(JobState::Succeeded, None),
        (_, Some(cancel)) => {
            let message = format!("canceled by {}; {}", cancel.requested_by, not_in());
            fail(JobState::Canceled, Code::Canceled, message)
        }
        (_, None) if scene.is_overdue() => {
            fail(JobState::Failed, Code::DeadlineExceeded, format!("the job's deadline passed; {}", not_in()))
        }
        (Some(step), None) => close(JobState::Failed, Some(JobError { hint, ..error_of(step) })),
        (None, None) => fail(JobState::Failed, Code::CellDown, not_in()),
    }
}
