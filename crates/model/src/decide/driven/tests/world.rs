//! etcd and the poolers, as far as a driven job sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::decide::driven::driver::drive;
use crate::decide::driven::scene::{Decision, Scene, failure};
use crate::decide::outcome::join;
use crate::records::incarnation::Incarnation;
use crate::records::job::id::JobId;
use crate::records::job::outcome::JobOutcome;
use crate::records::job::record::{DeadPrimary, Job, JobRecord};
use crate::records::job::run::{JobError, JobState};
use crate::records::job::spec::{JobKind, JobSpec};
use crate::records::pooler::Leader;
use crate::records::recovery::{FenceResult, RecoveryResult};
use crate::records::restore::{RestoreParams, RestorePlan, RestoreResult};
use crate::records::target::Target;
use crate::types::code::Code;
use crate::types::lsn::{Lsn, Timeline};
use crate::types::name::CellName;

pub(super) fn cell(name: &str) -> CellName {
    name.parse().unwrap()
}

/// etcd and the poolers, as far as a driven job sees them.
pub(super) struct World {
    pub(super) job: JobRecord,
    pub(super) steps: Vec<Job>,
    pub(super) incarnation: Incarnation,
    /// The highest incarnation that any data has.
    pub(super) highest_mark: u32,
    pub(super) leader: Leader,
    pub(super) alive: Vec<CellName>,
    pub(super) primary_is_followed: bool,
    pub(super) members: Vec<CellName>,
    pub(super) closed: Option<(JobState, Option<JobError>, Option<JobOutcome>)>,
    pub(super) ended_for: BTreeMap<JobId, Duration>,
    /// Since when the leader has seen the job; since it was asked for when none.
    pub(super) waited: Option<Duration>,
    pub(super) now: Timestamp,
    /// The most steps that one decision began.
    pub(super) most_at_once: usize,
}

impl World {
    pub(super) fn new(kind: JobKind, in_place: bool) -> Self {
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
                timeline: None,
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
                backup: None,
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
        let leader = Leader {
            cell: cell("zone1"),
            term: Timeline::new(1),
            system_identifier: None,
            lsn: None,
            leadership: None,
        };
        Self {
            job,
            steps: vec![],
            incarnation,
            highest_mark: 0,
            leader,
            alive: members.clone(),
            primary_is_followed: false,
            members,
            closed: None,
            ended_for: BTreeMap::new(),
            waited: None,
            now: Timestamp::UNIX_EPOCH,
            most_at_once: 0,
        }
    }

    pub(super) fn decide(&self) -> Decision {
        drive(&Scene {
            job: &self.job,
            steps: &self.steps,
            incarnation: &self.incarnation,
            highest_mark: self.highest_mark,
            leader: Some(&self.leader),
            alive: &self.alive,
            primary_is_followed: self.primary_is_followed,
            members: &self.members,
            ended_for: &self.ended_for,
            waited: self.waited.unwrap_or_else(|| {
                self.now.duration_since(self.job.create_time).try_into().unwrap_or_default()
            }),
            now: self.now,
        })
    }

    /// The primary in zone1 is silent.
    pub(super) fn silence_primary(&mut self) {
        self.alive = vec![cell("zone2"), cell("zone3")];
    }

    /// Somebody vouches for its death.
    pub(super) fn vouch(&mut self) {
        self.job.dead_primary = Some(DeadPrimary { cell: cell("zone1"), also: None, reported: false });
    }

    /// One round of the leading multiadmin.
    pub(super) fn round(&mut self) {
        self.now += SignedDuration::from_secs(1);
        for step in self.steps.iter().filter(|step| step.state.is_terminal()) {
            *self.ended_for.entry(step.record.id).or_default() += Duration::from_secs(1);
        }
        if self.closed.is_some() {
            return;
        }
        match self.decide() {
            Decision::Wait => {}
            Decision::Begin(records) => {
                self.most_at_once = self.most_at_once.max(records.len());
                for record in records {
                    assert!(
                        self.steps.iter().all(|step| step.record.id != record.id),
                        "a step is begun once"
                    );
                    self.steps.push(join(&record, None, false, None));
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
            let mut marks = self.steps.iter().filter_map(|step| match &step.record.spec {
                JobSpec::Recover(params) => Some(params.incarnation),
                _ => None,
            });
            assert_eq!(Some(new.number), marks.next_back(), "the number that the copy is marked with");
            assert!(new.number > self.incarnation.number);
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
    pub(super) fn end(&mut self, which: usize, well: bool) {
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
        if let JobSpec::Recover(params) = &step.record.spec {
            // Its cell reports the copy's mark from now on.
            self.highest_mark = self.highest_mark.max(params.incarnation);
        }
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

    pub(super) fn run(&mut self, mut well: impl FnMut(JobKind, &str) -> bool) {
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

    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let mut kinds: Vec<&'static str> =
            self.steps.iter().map(|step| step.record.kind().as_str()).collect();
        kinds.dedup();
        kinds
    }
}

pub(super) fn restored(result: Option<JobOutcome>) -> RestoreResult {
    result.unwrap().restore().unwrap().clone()
}

pub(super) fn plan() -> RestorePlan {
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
        more_windows: 0,
        windows: vec![],
        cells: vec![],
        warnings: vec![],
        silent_primary: None,
    }
}
