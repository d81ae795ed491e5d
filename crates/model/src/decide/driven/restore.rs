//! A restore of the whole database to a point in time.

use crate::decide::driven::driven_job::DrivenJob;
use crate::decide::driven::replacement;
use crate::decide::driven::scene::{Decision, Scene, error_of};
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::rebuild::RebuildParams;
use crate::records::recovery::RecoverParams;
use crate::records::restore::{RestoreParams, RestorePlan};

/// A restore: plan, fence, recover, and take the new data into use.
pub(super) struct Restore<'a> {
    pub(super) params: &'a RestoreParams,
}

impl Restore<'_> {
    fn keeps_old_data(&self) -> bool {
        !self.params.in_place
    }

    fn recover_params(&self, scene: &Scene<'_>, plan: &RestorePlan) -> RecoverParams {
        RecoverParams {
            set: Some(plan.backup.clone()),
            kept: None,
            target: plan.resolved.clone(),
            timeline: plan.timeline,
            last_segment: replacement::last_segment(scene, plan.timeline),
            incarnation: scene.next_number(),
            in_place: self.params.in_place,
        }
    }
}

impl DrivenJob for Restore<'_> {
    fn is_committed(&self, scene: &Scene<'_>) -> bool {
        replacement::is_committed(scene)
    }

    fn prepare(&self, scene: &Scene<'_>) -> Result<Decision, JobError> {
        let Some(step) = scene.last(JobKind::Plan) else {
            // The primary's pooler also sees the WAL that is not archived yet.
            let primary = scene.leader.map(|leader| &leader.cell).filter(|cell| scene.alive.contains(cell));
            let cell = primary.unwrap_or(&scene.job.cell);
            return Ok(Decision::Begin(vec![scene.step(JobSpec::Plan(self.params.clone()), cell)]));
        };
        let plan = match (step.state, step.result.as_ref().and_then(|outcome| outcome.plan())) {
            (JobState::Succeeded, Some(plan)) => plan,
            (state, _) if !state.is_terminal() => return Ok(Decision::Wait),
            // Refused before anything was done: the plan's own error is the restore's.
            _ => return Err(step.error.clone().unwrap_or_else(|| error_of(step))),
        };
        if let Some(decision) = replacement::fence(scene)? {
            return Ok(decision);
        }
        replacement::recover(scene, self.recover_params(scene, plan), self.keeps_old_data())
    }

    fn complete(&self, scene: &Scene<'_>) -> Decision {
        let keep_for = self.keeps_old_data().then_some(scene.job.id);
        let rebuild = RebuildParams { keep_for, reinstate: None };
        replacement::take_into_use(scene, rebuild).unwrap_or_else(|| replacement::succeeded(scene))
    }

    fn state_left(&self, scene: &Scene<'_>) -> String {
        let cell = &scene.job.cell;
        if !self.params.in_place || scene.last(JobKind::Recover).is_none() {
            "the database is as it was before".to_owned()
        } else if scene.leader.is_some_and(|leader| leader.cell == *cell) {
            format!(
                "the data of the primary in {cell} was being restored over and is not whole any more: restore it again"
            )
        } else {
            format!(
                "the database is as it was before, but the standby in {cell} was being restored over and may not be whole any more: if it does not stream, `cellar rebuild {cell}`"
            )
        }
    }
}
