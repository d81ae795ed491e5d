//! Replacing a database's data: what a restore and a rollback have in common.
//!
//! All members are fenced, the chosen cell recovers beside its data, and then the next incarnation is written: that
//! transaction is the point of no return. After it the chosen cell swaps the new data in, the other cells are rebuilt
//! from it, and the new timeline gets its first backup. A cell that is down is rebuilt when it returns.

use std::time::Duration;

use crate::decide::driven::scene::{Decision, Scene, error_of, failure};
use crate::decide::primary_fence;
use crate::records::backup::{BackupParams, BackupType, DEFAULT_MAX_LAG};
use crate::records::incarnation::Incarnation;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::DeadPrimary;
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::rebuild::RebuildParams;
use crate::records::recovery::{RecoverParams, RecoveryResult};
use crate::records::restore::RestoreResult;
use crate::records::target::Target;
use crate::types::code::Code;
use crate::types::lsn::Timeline;
use crate::types::name::CellName;

/// Pause before a swap that failed is tried again; it doubles with each attempt.
const SWAP_RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// The longest pause: a swap that fails for the 72 hours of a job then takes 900 steps.
const MAX_SWAP_RETRY_INTERVAL: Duration = Duration::from_secs(300);

/// Backups that are tried on the new timeline: of a standby that was rebuilt, and then of the primary.
const MAX_FIRST_BACKUPS: usize = 2;

/// Whether the job's own incarnation stands.
pub(super) fn is_committed(scene: &Scene<'_>) -> bool {
    scene.incarnation.job == Some(scene.job.id)
}

/// Stops writes in every member that lives; nothing when that is done.
///
/// # Errors
/// When the chosen cell or the primary could not be fenced. A primary that is silent is left unfenced only if the
/// operator vouches that it takes no writes.
pub(super) fn fence(scene: &Scene<'_>) -> Result<Option<Decision>, JobError> {
    let job = scene.job;
    // Looked at in every round until the point of no return, and first before anything is done.
    for cell in scene.primaries().filter(|cell| is_out_of_reach(scene, cell)) {
        let is_recorded = scene.leader.is_some_and(|leader| leader.cell == *cell);
        primary_fence::may_stay_unfenced(job, cell, is_recorded && scene.primary_is_followed)?;
    }
    if scene.incarnation.fence != Some(job.id) {
        let incarnation = Incarnation { fence: Some(job.id), ..scene.incarnation.clone() };
        return Ok(Some(Decision::Write(incarnation)));
    }
    if scene.last(JobKind::Recover).is_none()
        && let Some(decision) = scene.begin_in(&JobSpec::Fence, scene.alive.iter())
    {
        return Ok(Some(decision));
    }
    if scene.is_under_way(JobKind::Fence) {
        return Ok(Some(Decision::Wait));
    }
    let must_be_fenced = |cell: &CellName| *cell == job.cell || scene.primaries().any(|other| other == cell);
    let mut failed = scene.of_kind(JobKind::Fence).filter(|step| step.state != JobState::Succeeded);
    if let Some(step) = failed.find(|step| must_be_fenced(&step.record.cell)) {
        return Err(error_of(step));
    }
    // Their multipoolers were away when all were asked, and are back.
    let back = scene.primaries().filter(|cell| scene.alive.contains(cell));
    Ok(scene.begin_in(&JobSpec::Fence, back))
}

/// Whether a cell was never asked for a fence, and cannot be asked now.
fn is_out_of_reach(scene: &Scene<'_>, cell: &CellName) -> bool {
    !scene.alive.contains(cell) && !scene.of_kind(JobKind::Fence).any(|step| step.record.cell == *cell)
}

/// The timeline that the recorded primary is on.
pub(super) fn current_timeline(scene: &Scene<'_>) -> Timeline {
    scene.leader.map_or(Timeline::new(1), |leader| leader.term)
}

/// The last WAL file of the primary that was stopped, if it is of that timeline.
pub(super) fn last_segment(scene: &Scene<'_>, timeline: Timeline) -> Option<String> {
    let fenced = scene.of_kind(JobKind::Fence).filter_map(|step| step.result.as_ref()?.fence());
    let stopped = fenced.filter(|fence| fence.was_primary).max_by_key(|fence| fence.timeline);
    stopped
        .filter(|fence| fence.timeline == timeline && !fence.last_segment.is_empty())
        .map(|fence| fence.last_segment.clone())
}

/// Recovers in the chosen cell, and then makes the next incarnation, which keeps the old data if `keeps_old_data`.
///
/// # Errors
/// When the recovery failed.
pub(super) fn recover(
    scene: &Scene<'_>,
    params: RecoverParams,
    keeps_old_data: bool,
) -> Result<Decision, JobError> {
    let begin = |params| Ok(Decision::Begin(vec![scene.step(JobSpec::Recover(params), &scene.job.cell)]));
    match scene.last(JobKind::Recover) {
        None => begin(params),
        Some(step) if !step.state.is_terminal() => Ok(Decision::Wait),
        // The primary was fenced when the recovery had begun: what it archived since was not read.
        Some(step) if step.state == JobState::Succeeded && has_more_wal(&step.record.spec, &params) => {
            begin(params)
        }
        Some(step) if step.state == JobState::Succeeded && recovery(scene).is_some() => {
            Ok(Decision::Write(next_incarnation(scene, keeps_old_data)))
        }
        Some(step) => Err(error_of(step)),
    }
}

/// Whether a recovery would read on to an end of the WAL that the one before did not know.
fn has_more_wal(before: &JobSpec, now: &RecoverParams) -> bool {
    let JobSpec::Recover(before) = before else { return false };
    let to_the_end = matches!(now.target, Target::Latest {} | Target::Time(_)) && now.kept.is_none();
    to_the_end && now.last_segment.is_some() && now.last_segment != before.last_segment
}

fn recovery<'a>(scene: &'a Scene<'_>) -> Option<&'a RecoveryResult> {
    scene.last(JobKind::Recover)?.result.as_ref()?.recovery()
}

/// The number that the copy is marked with.
fn recovered_as(scene: &Scene<'_>) -> Option<u32> {
    match &scene.last(JobKind::Recover)?.record.spec {
        JobSpec::Recover(params) => Some(params.incarnation),
        _ => None,
    }
}

fn next_incarnation(scene: &Scene<'_>, keeps_old_data: bool) -> Incarnation {
    let cell = &scene.job.cell;
    // Data of an incarnation before the present one is not what a rollback returns to.
    let is_in_use = scene.incarnation.is_in_use(scene.leader);
    let oldest = scene.incarnation.timeline.filter(|_| !is_in_use).unwrap_or(Timeline::new(1));
    let is_whole = |cell: &CellName| {
        scene.of_kind(JobKind::Fence).any(|step| {
            let fence = step.result.as_ref().and_then(JobOutcome::fence);
            step.record.cell == *cell
                && step.state == JobState::Succeeded
                && fence.is_some_and(|fence| fence.whole && fence.timeline >= oldest)
        })
    };
    // A primary that was stopped cleanly has every acknowledged row. Without it the chosen cell's own old data is the
    // best there is, and if its disk is empty another member's.
    let kept = scene.primaries().chain([cell]).chain(scene.members).find(|cell| is_whole(cell));
    Incarnation {
        // That of the copy's mark, which is the highest one by now.
        number: recovered_as(scene).unwrap_or_else(|| scene.next_number()),
        cell: Some(cell.clone()),
        job: Some(scene.job.id),
        fence: None,
        kept_in: kept.filter(|_| keeps_old_data).cloned(),
        timeline: recovery(scene).map(|recovery| recovery.timeline),
    }
}

/// Takes the new data into use everywhere; nothing when that is done.
pub(super) fn take_into_use(scene: &Scene<'_>, rebuild: RebuildParams) -> Option<Decision> {
    if let Some(cancel) = &scene.job.cancel {
        return Some(abandon(scene, &cancel.requested_by));
    }
    swap(scene).or_else(|| rebuild_others(scene, rebuild)).or_else(|| first_backup(scene))
}

/// The end of a job whose new data is in use everywhere.
pub(super) fn succeeded(scene: &Scene<'_>) -> Decision {
    Decision::Close { state: JobState::Succeeded, error: None, result: outcome(scene), incarnation: None }
}

/// Ends a job whose new incarnation stands because somebody asked: the poolers do by themselves what is left.
fn abandon(scene: &Scene<'_>, by: &str) -> Decision {
    if let Some(decision) = scene.end_steps() {
        return decision;
    }
    let cell = &scene.job.cell;
    let mut hint = format!(
        "cell {cell} takes the new data into use when it is up, and the others rebuild themselves; take a backup then"
    );
    if scene.incarnation.kept_in.is_some() {
        hint.push_str(&format!(". `cellar restore rollback {}` goes back to the old data", scene.job.id));
    }
    hint.push_str(&what_is_left(scene));
    let message = format!(
        "canceled by {by} after the point of no return: the database is the restored one in cell {cell}"
    );
    Decision::Close {
        state: JobState::Canceled,
        error: Some(failure(Code::Canceled, message, &hint)),
        result: outcome(scene),
        incarnation: None,
    }
}

/// Ends a job whose new incarnation stands, though not all went well.
fn restored_but(scene: &Scene<'_>, error: JobError) -> Decision {
    let message = format!("the database is restored in cell {}, but {}", scene.job.cell, error.message);
    let hint = format!("{}{}", error.hint, what_is_left(scene));
    Decision::Close {
        state: JobState::Failed,
        error: Some(JobError { message, hint, ..error }),
        result: outcome(scene),
        incarnation: None,
    }
}

/// What to do about the data that a rollback has kept and would have deleted at its end: the continuation of a hint.
fn what_is_left(scene: &Scene<'_>) -> String {
    match &scene.job.spec {
        JobSpec::Rollback(restore) => format!(
            ". What is left of the other data: `cellar restore confirm {}` deletes what this rollback kept, `cellar restore confirm {restore}` what the restore kept",
            scene.job.id
        ),
        _ => String::new(),
    }
}

fn outcome(scene: &Scene<'_>) -> Option<JobOutcome> {
    let recovery = recovery(scene)?.clone();
    let plan = scene.last(JobKind::Plan).and_then(|step| step.result.as_ref()?.plan());
    let left_out = scene
        .members
        .iter()
        .filter(|cell| **cell != scene.job.cell && !scene.succeeded_in(JobKind::Rebuild, cell));
    let backup = scene.of_kind(JobKind::Backup).find_map(|step| step.result.as_ref()?.backup());
    // The recorded primary is another one by now.
    let mut dead = scene.job.dead_primary.iter().flat_map(DeadPrimary::cells);
    Some(JobOutcome::Restore(RestoreResult {
        cell: scene.job.cell.clone(),
        incarnation: scene.incarnation.number,
        recovery,
        backup: plan.map(|plan| plan.backup.clone()),
        left_out: left_out.cloned().collect(),
        kept: match scene.job.kind() {
            // It deletes what was kept; not in a cell that is down, or where that fails.
            JobKind::Rollback => !scene.members.iter().all(|cell| scene.succeeded_in(JobKind::Discard, cell)),
            _ => scene.incarnation.kept_in.is_some(),
        },
        first_backup: backup.map(|backup| backup.label.clone()),
        not_fenced: dead.find(|cell| !scene.succeeded_in(JobKind::Fence, cell)).cloned(),
    }))
}

/// Swaps the new data in, again and again until it succeeds or the deadline passes.
fn swap(scene: &Scene<'_>) -> Option<Decision> {
    let cell = &scene.job.cell;
    let attempts = u32::try_from(scene.of_kind(JobKind::Swap).count()).unwrap_or(u32::MAX);
    let factor = 1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    let pause = SWAP_RETRY_INTERVAL.saturating_mul(factor).min(MAX_SWAP_RETRY_INTERVAL);
    match scene.last(JobKind::Swap) {
        Some(step) if step.state == JobState::Succeeded => None,
        Some(step) if !step.state.is_terminal() => Some(Decision::Wait),
        Some(step) if scene.is_overdue() => Some(restored_but(scene, error_of(step))),
        Some(step) if scene.ended_for(step) < pause => Some(Decision::Wait),
        // A cell that is down swaps by itself when it returns; steps that nobody runs would only fill the history.
        Some(_) if !scene.alive.contains(cell) => Some(Decision::Wait),
        _ => Some(Decision::Begin(vec![scene.step(JobSpec::Swap, cell)])),
    }
}

/// Rebuilds the other cells that were fenced. One that cannot be rebuilt is left out.
fn rebuild_others(scene: &Scene<'_>, params: RebuildParams) -> Option<Decision> {
    let others = scene
        .of_kind(JobKind::Fence)
        .filter(|step| step.state == JobState::Succeeded && step.record.cell != scene.job.cell)
        .map(|step| &step.record.cell)
        .filter(|cell| scene.members.contains(cell));
    scene
        .begin_in(&JobSpec::Rebuild(params), others)
        .or_else(|| scene.is_under_way(JobKind::Rebuild).then_some(Decision::Wait))
}

/// Takes the first backup of the new timeline: from a standby if one was rebuilt, then once more from the primary.
fn first_backup(scene: &Scene<'_>) -> Option<Decision> {
    let attempts = scene.of_kind(JobKind::Backup).count();
    match scene.last(JobKind::Backup) {
        Some(step) if step.state == JobState::Succeeded => return None,
        Some(step) if !step.state.is_terminal() => return Some(Decision::Wait),
        Some(step) if attempts >= MAX_FIRST_BACKUPS || scene.is_overdue() => {
            let mut error = error_of(step);
            error.message = format!("its first backup failed: {}", error.message);
            "take one with `cellar backup`: until then a restore begins from before"
                .clone_into(&mut error.hint);
            return Some(restored_but(scene, error));
        }
        _ => {}
    }
    let rebuilt = scene.of_kind(JobKind::Rebuild).filter(|step| step.state == JobState::Succeeded);
    let standby = rebuilt.map(|step| &step.record.cell).min().filter(|_| attempts == 0);
    let primary = &scene.job.cell;
    let source = standby.unwrap_or(primary);
    let params = BackupParams {
        backup_type: BackupType::Incr,
        allow_primary: source == primary,
        max_lag_bytes: DEFAULT_MAX_LAG,
    };
    Some(Decision::Begin(vec![scene.step(JobSpec::Backup(params), source)]))
}
