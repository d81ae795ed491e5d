//! Driving a job whose steps are jobs of several poolers: a restore, its rollback, its confirmation.
//!
//! [`drive`] looks at the job, its steps and the database's incarnation, and says the next thing
//! to do. It remembers nothing, so whichever multiadmin leads goes on from what etcd holds.
//!
//! A restore has one point of no return: the transaction that makes the next incarnation. Before it,
//! whatever fails, the fence is lifted and the database is as it was; after it the job only
//! goes forward, and what a dead process left undone is done when it returns.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::records::backup::BackupType;
use crate::records::job::{Job, JobError, JobRecord, JobState};
use crate::records::job_id::JobId;
use crate::records::outcome::JobOutcome;
use crate::records::pooler::Leader;
use crate::records::restore::{Incarnation, RecoverParams, RestoreResult, Target};
use crate::records::spec::{BackupParams, DEFAULT_MAX_LAG, JobKind, JobSpec, RebuildParams};
use crate::types::code::Code;
use crate::types::name::CellName;

/// Rest before a step that must succeed is tried again.
const RETRY: SignedDuration = SignedDuration::from_secs(3);

/// Everything that a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The driven job.
    pub job: &'a JobRecord,
    /// Its steps so far.
    pub steps: &'a [Job],
    /// The database's incarnation; the default one when there is no record.
    pub incarnation: &'a Incarnation,
    /// The recorded primary.
    pub leader: Option<&'a Leader>,
    /// The cells whose pooler reports.
    pub alive: &'a [CellName],
    /// All cells of the database.
    pub members: &'a [CellName],
    /// Now.
    pub now: Timestamp,
}

/// The next thing to do. Each is one transaction.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "one decision at a time is made and taken apart at once")]
pub enum Decision {
    /// Nothing until something changes.
    Wait,
    /// Record these steps.
    Begin(Vec<JobRecord>),
    /// Ask these steps to end.
    Cancel(Vec<JobId>),
    /// Replace the incarnation's record.
    Write(Incarnation),
    /// End the job, with the incarnation's record if that changes too.
    Close {
        /// How.
        state: JobState,
        /// Why, unless it succeeded.
        error: Option<JobError>,
        /// What came of it.
        result: Option<JobOutcome>,
        /// The incarnation without the fence.
        incarnation: Option<Incarnation>,
    },
}

fn step_id(parent: JobId, kind: JobKind, cell: &CellName, attempt: usize) -> JobId {
    // Derived, so that two leaders that decide the same at once record the same step and one of them wins.
    let namespace = Uuid::new_v5(&Uuid::NAMESPACE_URL, b"cellar/step");
    JobId::new(Uuid::new_v5(&namespace, format!("{parent}/{kind}/{cell}/{attempt}").as_bytes()))
}

impl Scene<'_> {
    fn of_kind(&self, kind: JobKind) -> impl Iterator<Item = &Job> {
        self.steps.iter().filter(move |step| step.record.kind() == kind)
    }

    fn last(&self, kind: JobKind) -> Option<&Job> {
        self.of_kind(kind).max_by_key(|step| (step.record.create_time, step.record.id))
    }

    fn succeeded_in(&self, kind: JobKind, cell: &CellName) -> bool {
        self.of_kind(kind).any(|step| step.record.cell == *cell && step.state == JobState::Succeeded)
    }

    fn step(&self, spec: JobSpec, cell: &CellName) -> JobRecord {
        let kind = spec.kind();
        let attempt = self.of_kind(kind).filter(|step| step.record.cell == *cell).count();
        let step = JobRecord::new(
            step_id(self.job.id, kind, cell, attempt),
            spec,
            self.job.database.clone(),
            cell.clone(),
            self.job.requested_by.clone(),
            self.now,
            self.job.deadline,
        );
        JobRecord { parent: Some(self.job.id), ..step }
    }

    fn committed(&self) -> bool {
        self.incarnation.job == Some(self.job.id)
    }

    fn overdue(&self) -> bool {
        self.job.deadline <= self.now
    }

    /// Ends the job with the database as it was, once no step of it is under way.
    fn give_up(&self, state: JobState, mut error: JobError) -> Decision {
        let running: Vec<&Job> = self.steps.iter().filter(|step| !step.state.is_terminal()).collect();
        let to_cancel: Vec<JobId> =
            running.iter().filter(|step| step.record.cancel.is_none()).map(|step| step.record.id).collect();
        if !to_cancel.is_empty() {
            return Decision::Cancel(to_cancel);
        }
        if !running.is_empty() {
            return Decision::Wait;
        }
        let over_the_primary = self.in_place()
            && self.last(JobKind::Recover).is_some()
            && self.leader.is_some_and(|leader| leader.cell == self.job.cell);
        let left = if over_the_primary {
            format!(
                "the data of the primary in {} was being restored over and is not whole any more: restore it again",
                self.job.cell
            )
        } else {
            "the database is as it was before".to_owned()
        };
        error.message = format!("{}; {left}", error.message);
        let fenced = self.incarnation.fence == Some(self.job.id);
        let incarnation = fenced.then(|| Incarnation { fence: None, ..self.incarnation.clone() });
        Decision::Close { state, error: Some(error), result: None, incarnation }
    }

    /// Ends a restore whose new incarnation stands because somebody asked: what is left the poolers do by themselves.
    fn abandon(&self, by: &str) -> Decision {
        let running: Vec<&Job> = self.steps.iter().filter(|step| !step.state.is_terminal()).collect();
        let to_cancel: Vec<JobId> =
            running.iter().filter(|step| step.record.cancel.is_none()).map(|step| step.record.id).collect();
        if !to_cancel.is_empty() {
            return Decision::Cancel(to_cancel);
        }
        if !running.is_empty() {
            return Decision::Wait;
        }
        let hint = format!(
            "cell {} takes the new data into use when it is up, and the others rebuild themselves; take a backup then. `cellar restore rollback {}` goes back to the old data",
            self.job.cell, self.job.id
        );
        let message = format!(
            "canceled by {by} after the point of no return: the database is the restored one in cell {}",
            self.job.cell
        );
        let error = JobError { code: Code::Canceled, message, hint, tool_output: String::new() };
        Decision::Close {
            state: JobState::Canceled,
            error: Some(error),
            result: self.result(),
            incarnation: None,
        }
    }

    fn cells_with(&self, kind: JobKind) -> Vec<&CellName> {
        self.of_kind(kind).map(|step| &step.record.cell).collect()
    }

    fn recovery(&self) -> Option<&crate::records::restore::RecoveryResult> {
        self.last(JobKind::Recover)?.result.as_ref()?.recovery()
    }

    fn in_place(&self) -> bool {
        matches!(&self.job.spec, JobSpec::Restore(params) if params.in_place)
    }

    fn result(&self) -> Option<JobOutcome> {
        let recovery = self.recovery()?.clone();
        let plan = self.last(JobKind::Plan).and_then(|step| step.result.as_ref()?.plan());
        let left_out = self
            .members
            .iter()
            .filter(|cell| **cell != self.job.cell && !self.succeeded_in(JobKind::Rebuild, cell));
        let backup = self.of_kind(JobKind::Backup).find_map(|step| step.result.as_ref()?.backup());
        let restore = RestoreResult {
            cell: self.job.cell.clone(),
            incarnation: self.incarnation.number,
            recovery,
            backup: plan.map(|plan| plan.backup.clone()),
            left_out: left_out.cloned().collect(),
            kept: self.incarnation.kept_in.is_some(),
            first_backup: backup.map(|backup| backup.label.clone()),
        };
        Some(JobOutcome::Restore(restore))
    }

    /// Ends a restore whose new incarnation stands, though not all went well.
    fn restored_but(&self, error: JobError) -> Decision {
        let message = format!("the database is restored in cell {}, but {}", self.job.cell, error.message);
        Decision::Close {
            state: JobState::Failed,
            error: Some(JobError { message, ..error }),
            result: self.result(),
            incarnation: None,
        }
    }
}

fn failure(code: Code, message: impl Into<String>, hint: &str) -> JobError {
    JobError { code, message: message.into(), hint: hint.to_owned(), tool_output: String::new() }
}

fn error_of(step: &Job) -> JobError {
    let (kind, cell) = (step.record.kind(), &step.record.cell);
    match &step.error {
        Some(error) => {
            JobError { message: format!("{kind} of cell {cell}: {}", error.message), ..error.clone() }
        }
        None => failure(Code::Internal, format!("{kind} of cell {cell} failed without saying why"), ""),
    }
}

/// The next thing to do for a job that holds its database's lock.
#[must_use]
pub fn drive(scene: &Scene<'_>) -> Decision {
    match scene.job.spec {
        JobSpec::Confirm(restore) => confirm(scene, restore),
        _ if scene.committed() => forward(scene),
        _ => prepare(scene),
    }
}

/// What comes before the point of no return.
fn prepare(scene: &Scene<'_>) -> Decision {
    let job = scene.job;
    if let Some(cancel) = &job.cancel {
        let error = failure(Code::Canceled, format!("canceled by {}", cancel.requested_by), "");
        return scene.give_up(JobState::Canceled, error);
    }
    if scene.overdue() {
        let error =
            failure(Code::DeadlineExceeded, "the job's deadline passed", "give it more time with --timeout");
        return scene.give_up(JobState::Failed, error);
    }
    let plan = if let JobSpec::Restore(params) = &job.spec {
        let Some(step) = scene.last(JobKind::Plan) else {
            // The primary's pooler also sees the WAL that is not archived yet.
            let primary = scene.leader.map(|leader| &leader.cell).filter(|cell| scene.alive.contains(cell));
            let cell = primary.unwrap_or(&job.cell);
            return Decision::Begin(vec![scene.step(JobSpec::Plan(params.clone()), cell)]);
        };
        match (step.state, step.result.as_ref().and_then(|outcome| outcome.plan())) {
            (JobState::Succeeded, Some(plan)) => Some(plan),
            (state, _) if !state.is_terminal() => return Decision::Wait,
            _ => {
                // Refused before anything was done: the plan's own words say it best.
                let error = step.error.clone().unwrap_or_else(|| error_of(step));
                return scene.give_up(JobState::Failed, error);
            }
        }
    } else {
        None
    };
    if scene.incarnation.fence != Some(job.id) {
        return Decision::Write(Incarnation { fence: Some(job.id), ..scene.incarnation.clone() });
    }
    if scene.last(JobKind::Fence).is_none() {
        return Decision::Begin(scene.alive.iter().map(|cell| scene.step(JobSpec::Fence, cell)).collect());
    }
    if scene.of_kind(JobKind::Fence).any(|step| !step.state.is_terminal()) {
        return Decision::Wait;
    }
    let must = |cell: &CellName| *cell == job.cell || scene.leader.is_some_and(|leader| leader.cell == *cell);
    if let Some(step) = scene
        .of_kind(JobKind::Fence)
        .find(|step| step.state != JobState::Succeeded && must(&step.record.cell))
    {
        return scene.give_up(JobState::Failed, error_of(step));
    }
    match scene.last(JobKind::Recover) {
        None => Decision::Begin(vec![recover_step(scene, plan)]),
        Some(step) if !step.state.is_terminal() => Decision::Wait,
        Some(step) if step.state == JobState::Succeeded && scene.recovery().is_some() => {
            Decision::Write(next_incarnation(scene))
        }
        Some(step) => scene.give_up(JobState::Failed, error_of(step)),
    }
}

fn recover_step(scene: &Scene<'_>, plan: Option<&crate::records::restore::RestorePlan>) -> JobRecord {
    let fenced = scene.of_kind(JobKind::Fence).filter_map(|step| step.result.as_ref()?.fence());
    let stopped = fenced.filter(|fence| fence.was_primary).max_by_key(|fence| fence.timeline);
    let current = scene.leader.map_or(crate::types::lsn::Timeline::new(1), |leader| leader.term);
    let timeline = plan.map_or(current, |plan| plan.timeline);
    let params = RecoverParams {
        set: plan.map(|plan| plan.backup.clone()),
        kept: if plan.is_some() { None } else { scene.job.spec.subject() },
        target: plan.map_or(Target::Latest {}, |plan| plan.resolved.clone()),
        timeline,
        last_segment: stopped
            .filter(|fence| fence.timeline == timeline && !fence.last_segment.is_empty())
            .map(|fence| fence.last_segment.clone()),
        incarnation: scene.incarnation.number + 1,
        in_place: scene.in_place(),
    };
    scene.step(JobSpec::Recover(params), &scene.job.cell)
}

fn next_incarnation(scene: &Scene<'_>) -> Incarnation {
    let cell = &scene.job.cell;
    // A primary that was stopped cleanly has every acknowledged row. Without it the chosen cell's own old data is the
    // best there is, and if its disk is empty another member's.
    let whole = |cell: &CellName| {
        scene.of_kind(JobKind::Fence).any(|step| {
            let fence = step.result.as_ref().and_then(|outcome| outcome.fence());
            step.record.cell == *cell
                && step.state == JobState::Succeeded
                && fence.is_some_and(|fence| fence.whole)
        })
    };
    let old_primary = scene.leader.map(|leader| &leader.cell);
    let kept = old_primary.into_iter().chain([cell]).chain(scene.members).find(|cell| whole(cell));
    let keeps = scene.job.kind() == JobKind::Restore && !scene.in_place();
    Incarnation {
        number: scene.incarnation.number + 1,
        cell: Some(cell.clone()),
        job: Some(scene.job.id),
        fence: None,
        kept_in: kept.filter(|_| keeps).cloned(),
    }
}

/// What comes after it.
fn forward(scene: &Scene<'_>) -> Decision {
    let job = scene.job;
    if let Some(cancel) = &job.cancel {
        return scene.abandon(&cancel.requested_by);
    }
    match scene.last(JobKind::Swap) {
        Some(step) if step.state == JobState::Succeeded => {}
        Some(step) if !step.state.is_terminal() => return Decision::Wait,
        Some(step) if scene.overdue() => return scene.restored_but(error_of(step)),
        Some(step) if step.end_time.is_some_and(|end| scene.now.duration_since(end) < RETRY) => {
            return Decision::Wait;
        }
        // A cell that is away does it by itself when it returns; asking it again and again would only fill the history.
        Some(_) if !scene.alive.contains(&job.cell) => return Decision::Wait,
        _ => return Decision::Begin(vec![scene.step(JobSpec::Swap, &job.cell)]),
    }
    let begun = scene.cells_with(JobKind::Rebuild);
    let others: Vec<JobRecord> = scene
        .of_kind(JobKind::Fence)
        .filter(|step| step.state == JobState::Succeeded && step.record.cell != job.cell)
        .map(|step| &step.record.cell)
        .filter(|cell| !begun.contains(cell) && scene.members.contains(cell))
        .map(|cell| {
            let keep = job.kind() == JobKind::Restore && !scene.in_place();
            let params = RebuildParams { keep_for: keep.then_some(job.id), put_back: job.spec.subject() };
            scene.step(JobSpec::Rebuild(params), cell)
        })
        .collect();
    if !others.is_empty() {
        return Decision::Begin(others);
    }
    if scene.of_kind(JobKind::Rebuild).any(|step| !step.state.is_terminal()) {
        return Decision::Wait;
    }
    if let Some(decision) = first_backup(scene) {
        return decision;
    }
    if let JobSpec::Rollback(restore) = job.spec {
        let done = scene.cells_with(JobKind::Discard);
        let left: Vec<JobRecord> = scene
            .alive
            .iter()
            .filter(|cell| !done.contains(cell))
            .map(|cell| scene.step(JobSpec::Discard(restore), cell))
            .collect();
        if !left.is_empty() {
            return Decision::Begin(left);
        }
        if scene.of_kind(JobKind::Discard).any(|step| !step.state.is_terminal()) {
            return Decision::Wait;
        }
    }
    Decision::Close { state: JobState::Succeeded, error: None, result: scene.result(), incarnation: None }
}

/// From a standby if one was rebuilt, then once more from the primary.
fn first_backup(scene: &Scene<'_>) -> Option<Decision> {
    let attempts = scene.of_kind(JobKind::Backup).count();
    let last = scene.last(JobKind::Backup);
    match last {
        Some(step) if step.state == JobState::Succeeded => return None,
        Some(step) if !step.state.is_terminal() => return Some(Decision::Wait),
        Some(step) if attempts >= 2 || scene.overdue() => {
            let mut error = error_of(step);
            error.message = format!("its first backup failed: {}", error.message);
            "take one with `cellar backup`: until then a restore begins from before"
                .clone_into(&mut error.hint);
            return Some(scene.restored_but(error));
        }
        _ => {}
    }
    let mut standbys: Vec<&CellName> = scene
        .of_kind(JobKind::Rebuild)
        .filter(|step| step.state == JobState::Succeeded)
        .map(|step| &step.record.cell)
        .collect();
    standbys.sort();
    let primary = &scene.job.cell;
    let source = standbys.first().copied().filter(|_| attempts == 0).unwrap_or(primary);
    let params = BackupParams {
        backup_type: BackupType::Incr,
        allow_primary: source == primary,
        max_lag_bytes: DEFAULT_MAX_LAG,
    };
    Some(Decision::Begin(vec![scene.step(JobSpec::Backup(params), source)]))
}

fn confirm(scene: &Scene<'_>, restore: JobId) -> Decision {
    // First of all nobody may roll back to what is being deleted.
    if scene.incarnation.job == Some(restore) && scene.incarnation.kept_in.is_some() {
        return Decision::Write(Incarnation { kept_in: None, ..scene.incarnation.clone() });
    }
    let done = scene.cells_with(JobKind::Discard);
    let left: Vec<JobRecord> = scene
        .alive
        .iter()
        .filter(|cell| !done.contains(cell))
        .map(|cell| scene.step(JobSpec::Discard(restore), cell))
        .collect();
    if !left.is_empty() {
        return Decision::Begin(left);
    }
    if scene.of_kind(JobKind::Discard).any(|step| !step.state.is_terminal()) {
        return Decision::Wait;
    }
    let failed = scene.of_kind(JobKind::Discard).find(|step| step.state != JobState::Succeeded);
    let away: Vec<&str> = scene
        .members
        .iter()
        .filter(|cell| !scene.succeeded_in(JobKind::Discard, cell))
        .map(CellName::as_str)
        .collect();
    let close = |state, error| Decision::Close { state, error, result: None, incarnation: None };
    let again = "confirm it again when they are back; until then they keep the old data";
    match failed {
        Some(step) => close(JobState::Failed, Some(JobError { hint: again.to_owned(), ..error_of(step) })),
        None if away.is_empty() => close(JobState::Succeeded, None),
        None => {
            let error = failure(
                Code::CellDown,
                format!("the old data is deleted, but not in {}", away.join(", ")),
                again,
            );
            close(JobState::Failed, Some(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::restore::{FenceResult, RecoveryResult, RestoreParams, RestorePlan};
    use crate::types::lsn::{Lsn, Timeline};
    use proptest::prelude::*;

    fn cell(name: &str) -> CellName {
        name.parse().unwrap()
    }

    /// etcd and the poolers, as far as a driven job sees them.
    struct World {
        job: JobRecord,
        steps: Vec<Job>,
        incarnation: Incarnation,
        leader: Leader,
        alive: Vec<CellName>,
        members: Vec<CellName>,
        closed: Option<(JobState, Option<JobError>, Option<JobOutcome>)>,
        now: Timestamp,
    }

    impl World {
        fn new(kind: JobKind, in_place: bool) -> Self {
            let members: Vec<CellName> = ["zone1", "zone2", "zone3"].iter().map(|name| cell(name)).collect();
            let subject = JobId::new(Uuid::from_u128(5));
            let mut incarnation = Incarnation::default();
            if kind != JobKind::Restore {
                incarnation = Incarnation {
                    number: 2,
                    cell: Some(cell("zone2")),
                    job: Some(subject),
                    fence: None,
                    kept_in: Some(cell("zone1")),
                };
            }
            let spec = match kind {
                JobKind::Rollback => JobSpec::Rollback(subject),
                JobKind::Confirm => JobSpec::Confirm(subject),
                _ => JobSpec::Restore(RestoreParams {
                    target: Target::Latest {},
                    timeline: None,
                    in_place,
                    onto: Some(cell("zone2")),
                }),
            };
            let job = JobRecord::new(
                JobId::new(Uuid::from_u128(9)),
                spec,
                "app".parse().unwrap(),
                if kind == JobKind::Restore { cell("zone2") } else { cell("zone1") },
                "me",
                Timestamp::UNIX_EPOCH,
                Timestamp::from_second(100_000).unwrap(),
            );
            let leader =
                Leader { cell: cell("zone1"), term: Timeline::new(1), system_identifier: None, lsn: None };
            Self {
                job,
                steps: vec![],
                incarnation,
                leader,
                alive: members.clone(),
                members,
                closed: None,
                now: Timestamp::UNIX_EPOCH,
            }
        }

        fn decide(&self) -> Decision {
            drive(&Scene {
                job: &self.job,
                steps: &self.steps,
                incarnation: &self.incarnation,
                leader: Some(&self.leader),
                alive: &self.alive,
                members: &self.members,
                now: self.now,
            })
        }

        /// One round of the leading multiadmin.
        fn round(&mut self) {
            self.now += SignedDuration::from_secs(1);
            if self.closed.is_some() {
                return;
            }
            match self.decide() {
                Decision::Wait => {}
                Decision::Begin(records) => {
                    for record in records {
                        assert!(
                            self.steps.iter().all(|step| step.record.id != record.id),
                            "a step is begun once"
                        );
                        self.steps.push(crate::decide::outcome::join(&record, None, false, None));
                    }
                }
                Decision::Cancel(ids) => {
                    for step in self.steps.iter_mut().filter(|step| ids.contains(&step.record.id)) {
                        step.state = JobState::Canceled;
                    }
                }
                Decision::Write(incarnation) => self.write(incarnation),
                Decision::Close { state, error, result, incarnation } => {
                    if let Some(incarnation) = incarnation {
                        self.write(incarnation);
                    }
                    self.closed = Some((state, error, result));
                }
            }
        }

        fn write(&mut self, new: Incarnation) {
            if new.number != self.incarnation.number {
                assert_eq!(new.number, self.incarnation.number + 1);
                let recovered = self
                    .steps
                    .iter()
                    .any(|step| step.record.kind() == JobKind::Recover && step.state == JobState::Succeeded);
                assert!(recovered, "no new incarnation without a recovery");
                assert_eq!(self.incarnation.fence, Some(self.job.id), "no new incarnation without a fence");
            }
            self.incarnation = new;
        }

        /// Some pooler ends its step.
        fn end(&mut self, which: usize, well: bool) {
            let open: Vec<usize> =
                (0..self.steps.len()).filter(|at| !self.steps[*at].state.is_terminal()).collect();
            let Some(at) = open.get(which % open.len().max(1)).copied() else { return };
            let now = self.now;
            let leader = self.leader.cell.clone();
            let step = &mut self.steps[at];
            step.end_time = Some(now);
            if !well {
                step.state = JobState::Failed;
                step.error = Some(failure(Code::PgbackrestFailed, "no", ""));
                return;
            }
            step.state = JobState::Succeeded;
            step.result = match step.record.kind() {
                JobKind::Plan => Some(JobOutcome::Plan(plan())),
                JobKind::Fence => Some(JobOutcome::Fence(FenceResult {
                    was_primary: step.record.cell == leader,
                    whole: true,
                    timeline: Timeline::new(1),
                    last_segment: "000000010000000000000007".into(),
                })),
                JobKind::Recover => Some(JobOutcome::Recovery(RecoveryResult {
                    timeline: Timeline::new(2),
                    from_timeline: Timeline::new(1),
                    lsn: Lsn::new(1),
                    last_commit: None,
                    stopped: "end".into(),
                    size_bytes: 1,
                    restore_millis: 1,
                    recovery_millis: 1,
                })),
                _ => None,
            };
        }

        fn run(&mut self, mut well: impl FnMut(JobKind, &str) -> bool) {
            for _ in 0..200 {
                self.round();
                let verdicts: Vec<bool> = self
                    .steps
                    .iter()
                    .filter(|step| !step.state.is_terminal())
                    .map(|step| well(step.record.kind(), step.record.cell.as_str()))
                    .collect();
                for well in verdicts {
                    self.end(0, well);
                }
                if self.closed.is_some() {
                    return;
                }
            }
            panic!("it never ends: {:?}", self.decide());
        }

        fn kinds(&self) -> Vec<&'static str> {
            let mut kinds: Vec<&'static str> =
                self.steps.iter().map(|step| step.record.kind().as_str()).collect();
            kinds.dedup();
            kinds
        }
    }

    fn restored(result: Option<JobOutcome>) -> RestoreResult {
        result.unwrap().restore().unwrap().clone()
    }

    fn plan() -> RestorePlan {
        RestorePlan {
            target: Target::Latest {},
            resolved: Target::Latest {},
            found: String::new(),
            timeline: Timeline::new(1),
            backup: "20260301-101500F".parse().unwrap(),
            why: String::new(),
            wal_start: String::new(),
            wal_stop: String::new(),
            wal_segments: 1,
            size_bytes: 1,
            estimated_seconds: 0,
            windows: vec![],
            cells: vec![],
            warnings: vec![],
        }
    }

    #[test]
    fn a_restore_goes_its_way() {
        let mut world = World::new(JobKind::Restore, false);
        world.run(|_, _| true);
        assert_eq!(world.kinds(), ["plan", "fence", "recover", "swap", "rebuild", "backup"]);
        let (state, error, result) = world.closed.unwrap();
        assert_eq!((state, error), (JobState::Succeeded, None));
        let restore = restored(result);
        assert_eq!((restore.incarnation, restore.left_out.len(), restore.kept), (2, 0, true));
        assert_eq!(world.incarnation.kept_in, Some(cell("zone1")), "the old primary has every row");
        let recover = world
            .steps
            .iter()
            .find_map(
                |step| if let JobSpec::Recover(params) = &step.record.spec { Some(params) } else { None },
            )
            .unwrap();
        assert_eq!(recover.last_segment.as_deref(), Some("000000010000000000000007"));
        let backup = world.steps.iter().find(|step| step.record.kind() == JobKind::Backup).unwrap();
        assert_eq!(backup.record.cell, cell("zone1"), "a standby that was rebuilt");
    }

    #[test]
    fn before_the_point_of_no_return_every_failure_leaves_the_database_as_it_was() {
        for kind in [JobKind::Plan, JobKind::Fence, JobKind::Recover] {
            let mut world = World::new(JobKind::Restore, false);
            world.run(|step, _| step != kind);
            let (state, error, _) = world.closed.unwrap();
            assert_eq!(state, JobState::Failed);
            assert!(error.unwrap().message.ends_with("the database is as it was before"));
            assert_eq!(world.incarnation, Incarnation::default(), "no fence is left, and no new incarnation");
        }
    }

    #[test]
    fn after_it_the_swap_is_tried_until_it_succeeds() {
        let mut world = World::new(JobKind::Restore, false);
        let mut failures = 3;
        world.run(|step, _| {
            if step == JobKind::Swap && failures > 0 {
                failures -= 1;
                return false;
            }
            true
        });
        assert_eq!(world.closed.unwrap().0, JobState::Succeeded);
        assert_eq!(world.steps.iter().filter(|step| step.record.kind() == JobKind::Swap).count(), 4);
    }

    #[test]
    fn a_cell_that_cannot_be_rebuilt_is_left_out() {
        let mut world = World::new(JobKind::Restore, false);
        world.run(|step, cell| !(step == JobKind::Rebuild && cell == "zone1"));
        let (state, _, result) = world.closed.unwrap();
        assert_eq!(state, JobState::Succeeded);
        assert_eq!(restored(result).left_out, [cell("zone1")]);
    }

    #[test]
    fn a_dead_primary_leaves_the_chosen_cells_old_data_to_roll_back_to() {
        let mut world = World::new(JobKind::Restore, false);
        world.alive = vec![cell("zone2"), cell("zone3")];
        world.run(|_, _| true);
        assert_eq!(world.closed.as_ref().unwrap().0, JobState::Succeeded);
        assert_eq!(world.incarnation.kept_in, Some(cell("zone2")));
        assert_eq!(restored(world.closed.unwrap().2).left_out, [cell("zone1")]);
    }

    #[test]
    fn an_empty_disk_keeps_nothing_to_roll_back_to() {
        let mut world = World::new(JobKind::Restore, false);
        for _ in 0..200 {
            world.round();
            let fenced = world.steps.iter_mut().filter_map(|step| {
                let of_primary = step.record.kind() == JobKind::Fence && step.record.cell == cell("zone1");
                match &mut step.result {
                    Some(JobOutcome::Fence(fence)) if of_primary => Some(fence),
                    _ => None,
                }
            });
            fenced.for_each(|fence| fence.whole = false);
            for _ in 0..3 {
                world.end(0, true);
            }
        }
        assert_eq!(world.closed.unwrap().0, JobState::Succeeded);
        assert_eq!(world.incarnation.kept_in, Some(cell("zone2")));
    }

    #[test]
    fn in_place_keeps_nothing() {
        let mut world = World::new(JobKind::Restore, true);
        world.run(|_, _| true);
        assert_eq!(world.incarnation.kept_in, None);
        assert!(
            world
                .steps
                .iter()
                .all(|step| !matches!(&step.record.spec, JobSpec::Rebuild(p) if p.keep_for.is_some()))
        );
    }

    #[test]
    fn a_first_backup_that_fails_twice_is_said() {
        let mut world = World::new(JobKind::Restore, false);
        world.run(|step, _| step != JobKind::Backup);
        let (state, error, result) = world.closed.unwrap();
        assert_eq!(state, JobState::Failed);
        assert!(error.unwrap().message.contains("is restored"));
        assert!(matches!(result, Some(JobOutcome::Restore(_))));
        assert_eq!(world.steps.iter().filter(|step| step.record.kind() == JobKind::Backup).count(), 2);
    }

    #[test]
    fn a_rollback_and_a_confirmation_leave_nothing_to_go_back_to() {
        let mut world = World::new(JobKind::Rollback, false);
        world.run(|_, _| true);
        assert_eq!(world.kinds(), ["fence", "recover", "swap", "rebuild", "backup", "discard"]);
        assert_eq!((world.incarnation.number, world.incarnation.kept_in), (3, None));
        let mut world = World::new(JobKind::Confirm, false);
        world.run(|_, _| true);
        assert_eq!((world.incarnation.number, &world.incarnation.kept_in), (2, &None));
        assert_eq!(world.kinds(), ["discard"]);
    }

    #[test]
    fn a_cancel_brings_back_the_old_before_the_point_of_no_return_and_leaves_the_new_after_it() {
        let cancel = Some(crate::records::job::CancelRequest {
            requested_by: "you".into(),
            time: Timestamp::UNIX_EPOCH,
        });
        let mut world = World::new(JobKind::Restore, false);
        for _ in 0..4 {
            world.round();
            world.end(0, true);
        }
        world.job.cancel.clone_from(&cancel);
        world.run(|_, _| true);
        assert_eq!(world.closed.unwrap().0, JobState::Canceled);
        assert_eq!(world.incarnation, Incarnation::default());
        // The chosen cell has died for good: the job must not wait for it until its deadline.
        let mut world = World::new(JobKind::Restore, false);
        while world.steps.iter().all(|step| step.record.kind() != JobKind::Swap) {
            world.round();
            if world.steps.iter().all(|step| step.record.kind() != JobKind::Swap) {
                world.end(0, true);
            }
        }
        world.job.cancel = cancel;
        world.run(|_, _| true);
        let (state, error, result) = world.closed.unwrap();
        assert_eq!(state, JobState::Canceled);
        assert!(error.unwrap().message.contains("is the restored one"));
        assert!(restored(result).kept, "it can still be rolled back");
    }

    proptest! {
        /// Whatever fails and whenever, the job ends, and the database is as before or restored.
        #[test]
        fn as_before_or_restored(
            acts in proptest::collection::vec((0usize..6, any::<bool>()), 1..60),
            rollback in any::<bool>(),
            cancel_at in 0usize..80,
        ) {
            let kind = if rollback { JobKind::Rollback } else { JobKind::Restore };
            let mut world = World::new(kind, false);
            let before = world.incarnation.clone();
            for (at, (which, well)) in acts.into_iter().enumerate() {
                if at == cancel_at {
                    world.job.cancel = Some(crate::records::job::CancelRequest { requested_by: "you".into(), time: world.now });
                }
                world.round();
                world.end(which, well);
            }
            world.run(|_, _| true);
            let (state, error, result) = world.closed.clone().unwrap();
            prop_assert_eq!(world.incarnation.fence, None);
            if world.incarnation.number == before.number {
                prop_assert_eq!(&world.incarnation, &before);
                prop_assert!(state != JobState::Succeeded);
                prop_assert!(error.unwrap().message.contains("as it was before"));
            } else {
                prop_assert_eq!(world.incarnation.job, Some(world.job.id));
                prop_assert!(matches!(result, Some(JobOutcome::Restore(_))));
            }
            prop_assert!(world.steps.iter().all(|step| step.state.is_terminal()));
        }
    }
}
