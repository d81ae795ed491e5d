//! What a driven job looks at before it decides, and what it can decide.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::records::incarnation::{Incarnation, possible_primaries};
use crate::records::job::id::JobId;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::{Job, JobRecord};
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::pooler::Leader;
use crate::types::code::Code;
use crate::types::name::CellName;

/// How many steps one decision begins or cancels. They are one transaction, and etcd takes 128 operations in it.
pub(super) const MAX_STEPS_AT_ONCE: usize = 100;

/// Everything that a decision looks at.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The driven job.
    pub job: &'a JobRecord,
    /// Its steps so far.
    pub steps: &'a [Job],
    /// The database's incarnation; the default one when there is no record.
    pub incarnation: &'a Incarnation,
    /// The highest incarnation that any cell that reports has data of. It may be above the recorded one: of a restore that
    /// was given up, or when etcd has lost its data.
    pub highest_mark: u32,
    /// The recorded primary.
    pub leader: Option<&'a Leader>,
    /// The cells whose pooler reports.
    pub alive: &'a [CellName],
    /// Whether a standby says that it streams from the recorded primary: then that one runs.
    pub primary_is_followed: bool,
    /// All cells of the database.
    pub members: &'a [CellName],
    /// For how long the leading multiadmin has seen each step ended, by its own monotonic clock: the times in the
    /// records are of other hosts' clocks. A step that is not here ended just now.
    pub ended_for: &'a BTreeMap<JobId, Duration>,
    /// For how long the leading multiadmin has seen the job open, by its own monotonic clock.
    pub waited: Duration,
    /// Now, by this leader's wall clock: for stamps only.
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
        /// What it produced.
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
    /// The number of the next incarnation: one that no data has.
    pub(super) fn next_number(&self) -> u32 {
        self.incarnation.number.max(self.highest_mark) + 1
    }

    /// The cells that may have the primary.
    pub(super) fn primaries(&self) -> impl Iterator<Item = &CellName> {
        possible_primaries(Some(self.incarnation), self.leader)
    }

    /// The steps of a kind.
    pub(super) fn of_kind(&self, kind: JobKind) -> impl Iterator<Item = &Job> {
        self.steps.iter().filter(move |step| step.record.kind() == kind)
    }

    /// The newest step of a kind.
    pub(super) fn last(&self, kind: JobKind) -> Option<&Job> {
        self.of_kind(kind).max_by_key(|step| (step.record.create_time, step.record.id))
    }

    /// For how long a step has been seen ended.
    pub(super) fn ended_for(&self, step: &Job) -> Duration {
        self.ended_for.get(&step.record.id).copied().unwrap_or_default()
    }

    /// Whether a step of that kind is under way.
    pub(super) fn is_under_way(&self, kind: JobKind) -> bool {
        self.of_kind(kind).any(|step| !step.state.is_terminal())
    }

    /// Whether a step of that kind succeeded in a cell.
    pub(super) fn succeeded_in(&self, kind: JobKind, cell: &CellName) -> bool {
        self.of_kind(kind).any(|step| step.record.cell == *cell && step.state == JobState::Succeeded)
    }

    /// A new step of the job. It is created later than all others, whatever the clock of this leader says: the order of
    /// the steps is that of their creation.
    pub(super) fn step(&self, spec: JobSpec, cell: &CellName) -> JobRecord {
        let kind = spec.kind();
        let newest = self.steps.iter().map(|step| step.record.create_time).max();
        let next = newest.and_then(|newest| newest.checked_add(SignedDuration::from_millis(1)).ok());
        let create_time = next.map_or(self.now, |next| next.max(self.now));
        let attempt = self.of_kind(kind).filter(|step| step.record.cell == *cell).count();
        let step = JobRecord::new(
            step_id(self.job.id, kind, cell, attempt),
            spec,
            self.job.database.clone(),
            cell.clone(),
            self.job.requested_by.clone(),
            create_time,
            create_time.saturating_add(self.time_left()).unwrap_or(create_time),
        );
        JobRecord { parent: Some(self.job.id), failed_drills: self.job.failed_drills.clone(), ..step }
    }

    /// One step in each of these cells that has had none of its kind, at most [`MAX_STEPS_AT_ONCE`]; nothing when all
    /// have.
    pub(super) fn begin_in<'c>(
        &self,
        spec: &JobSpec,
        cells: impl Iterator<Item = &'c CellName>,
    ) -> Option<Decision> {
        let begun: Vec<&CellName> = self.of_kind(spec.kind()).map(|step| &step.record.cell).collect();
        let missing = cells.filter(|cell| !begun.contains(cell)).take(MAX_STEPS_AT_ONCE);
        let steps: Vec<JobRecord> = missing.map(|cell| self.step(spec.clone(), cell)).collect();
        (!steps.is_empty()).then_some(Decision::Begin(steps))
    }

    /// Deletes what a restore kept, in every cell that lives; nothing when that has ended everywhere.
    pub(super) fn discard(&self, restore: JobId) -> Option<Decision> {
        self.begin_in(&JobSpec::Discard(restore), self.alive.iter())
            .or_else(|| self.is_under_way(JobKind::Discard).then_some(Decision::Wait))
    }

    /// Ends the steps that are under way, some at a time; nothing when none is.
    pub(super) fn end_steps(&self) -> Option<Decision> {
        let running: Vec<&Job> = self.steps.iter().filter(|step| !step.state.is_terminal()).collect();
        let to_cancel: Vec<JobId> = running
            .iter()
            .filter(|step| step.record.cancel.is_none())
            .map(|step| step.record.id)
            .take(MAX_STEPS_AT_ONCE)
            .collect();
        match (running.is_empty(), to_cancel.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Decision::Wait),
            (false, false) => Some(Decision::Cancel(to_cancel)),
        }
    }

    fn time_left(&self) -> Duration {
        self.job.time_limit().saturating_sub(self.waited)
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.time_left().is_zero()
    }
}

pub(super) fn failure(code: Code, message: impl Into<String>, hint: &str) -> JobError {
    JobError { code, message: message.into(), hint: hint.to_owned(), tool_output: String::new() }
}

/// Why a step failed, with the step's kind and cell before it.
pub(super) fn error_of(step: &Job) -> JobError {
    let (kind, cell) = (step.record.kind(), &step.record.cell);
    match &step.error {
        Some(error) => {
            JobError { message: format!("{kind} of cell {cell}: {}", error.message), ..error.clone() }
        }
        None => failure(Code::Internal, format!("{kind} of cell {cell} failed without an error"), ""),
    }
}
