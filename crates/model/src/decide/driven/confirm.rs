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
    let hint = "confirm it again when they are back; until then they keep the old data";
    match failed {
        Some(step) => close(JobState::Failed, Some(JobError { hint: hint.to_owned(), ..error_of(step) })),
        None if left.is_empty() => close(JobState::Succeeded, None),
        None => {
            let message = format!("the old data is deleted, but not in {}", left.join(", "));
            close(JobState::Failed, Some(failure(Code::CellDown, message, hint)))
        }
    }
}
