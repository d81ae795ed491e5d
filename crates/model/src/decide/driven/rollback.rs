//! The rollback of a restore: the database becomes again what it was before.

use crate::decide::driven::driven_job::DrivenJob;
use crate::decide::driven::replacement;
use crate::decide::driven::scene::{Decision, Scene, failure};
use crate::records::job::id::JobId;
use crate::records::job::run::JobError;
use crate::records::rebuild::RebuildParams;
use crate::records::recovery::RecoverParams;
use crate::records::target::Target;
use crate::types::code::Code;

/// A rollback: fence, recover from the old data that the restore kept, take that into use, and delete what is left of
/// the old data. It makes an incarnation of its own and keeps nothing.
pub(super) struct Rollback {
    /// The restore that is rolled back.
    pub(super) restore: JobId,
}

impl Rollback {
    fn recover_params(&self, scene: &Scene<'_>) -> RecoverParams {
        let timeline = replacement::current_timeline(scene);
        RecoverParams {
            set: None,
            kept: Some(self.restore),
            target: Target::Latest {},
            timeline,
            last_segment: replacement::last_segment(scene, timeline),
            incarnation: scene.next_number(),
            in_place: false,
        }
    }
}

impl DrivenJob for Rollback {
    fn is_committed(&self, scene: &Scene<'_>) -> bool {
        replacement::is_committed(scene)
    }

    fn prepare(&self, scene: &Scene<'_>) -> Result<Decision, JobError> {
        // It may have waited behind another restore, whose data it must not undo.
        if scene.incarnation.job != Some(self.restore) || scene.incarnation.kept_in.is_none() {
            let message = match scene.incarnation.job {
                Some(job) if job != self.restore => {
                    format!(
                        "job {job} came after restore {}, which cannot be rolled back any more",
                        self.restore
                    )
                }
                _ => format!("nothing is kept of the data from before restore {}", self.restore),
            };
            let hint = "restore to a point in time instead: `cellar restore --to-time`";
            return Err(failure(Code::NothingKept, message, hint));
        }
        match replacement::fence(scene)? {
            Some(decision) => Ok(decision),
            None => replacement::recover(scene, self.recover_params(scene), false),
        }
    }

    fn complete(&self, scene: &Scene<'_>) -> Decision {
        let rebuild = RebuildParams { keep_for: None, reinstate: Some(self.restore) };
        replacement::take_into_use(scene, rebuild)
            .or_else(|| scene.discard(self.restore))
            .unwrap_or_else(|| replacement::succeeded(scene))
    }
}
