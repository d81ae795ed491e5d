//! Schedules: work that multiadmin asks for by itself, at times of a calendar.
//!
//! What is due follows from the record and the clock alone ([`Schedule::turn`]), and the job of a due time has an id that
//! follows from both: whichever multiadmin leads, and however often it decides, a due time has one job at most.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::records::backup::BackupParams;
use crate::records::calendar::Calendar;
use crate::records::drill::DrillParams;
use crate::records::job::id::{JobId, RequestId};
use crate::records::job::run::JobError;
use crate::records::job::spec::JobKind;
use crate::types::json;
use crate::types::json::timestamp_text;
use crate::types::name::{CellName, DatabaseName, ScheduleName};

/// How long after its time a run may still begin. What could not begin by then is missed: a backup that is due at night
/// must not begin at noon, when the load is highest.
pub const MAX_START_DELAY: SignedDuration = SignedDuration::from_hours(1);

/// How the request ids of runs begin. Callers may not use such an id, which would take the place of a run.
pub const SCHEDULE_REQUESTS: &str = "schedule/";

/// What the name of a schedule as the one who asked for a job begins with.
const REQUESTER: &str = "schedule ";

/// Cells that one schedule may name.
pub const MAX_SCHEDULED_CELLS: usize = 16;

/// A backup that a schedule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledBackup {
    /// The cells that may be copied, the wanted one first: the first that can be backed up when the time comes is, and
    /// the proof holds for that very cell.
    pub cells: Vec<CellName>,
    /// How.
    #[serde(flatten)]
    pub params: BackupParams,
}

/// A drill that a schedule asks for, of the backup that is the newest then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledDrill {
    /// The cell that has room for the copy; a standby when not given.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cell: Option<CellName>,
    /// How.
    #[serde(flatten)]
    pub params: DrillParams,
}

/// What a schedule asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScheduledWork {
    /// A backup.
    #[serde(rename = "backup")]
    Backup(ScheduledBackup),
    /// Taking away what the retention does not keep.
    #[serde(rename = "expire")]
    Expire {},
    /// Reading the whole repo.
    #[serde(rename = "verify")]
    Verify {},
    /// Seeing that WAL arrives.
    #[serde(rename = "check")]
    Check {},
    /// Proving that the newest backup can be restored.
    #[serde(rename = "drill")]
    Drill(ScheduledDrill),
}

impl ScheduledWork {
    /// The kind of the jobs that it asks for.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Backup(_) => JobKind::Backup,
            Self::Expire {} => JobKind::Expire,
            Self::Verify {} => JobKind::Verify,
            Self::Check {} => JobKind::Check,
            Self::Drill(_) => JobKind::Drill,
        }
    }
}

/// How the last due time went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledRun {
    /// The time of the calendar.
    #[serde(with = "json::time")]
    pub due: Timestamp,
    /// The job that was recorded for it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<JobId>,
    /// Why there is none, yet or at all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<JobError>,
}

/// A schedule: `schedules/<db>/<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// Its database.
    pub database: DatabaseName,
    /// Its name.
    pub name: ScheduleName,
    /// When.
    pub calendar: Calendar,
    /// What.
    pub work: ScheduledWork,
    /// Whether nothing runs for now.
    #[serde(default)]
    pub paused: bool,
    /// Who set it last.
    pub set_by: String,
    /// Due times up to this one are done with.
    #[serde(with = "json::time")]
    pub settled: Timestamp,
    /// How the last one went.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<ScheduledRun>,
    /// The job that was begun last, for this due time or an earlier one. None begins beside it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub newest_job: Option<JobId>,
}

/// What a schedule wants at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScheduleAction {
    /// Nothing.
    Rest,
    /// The run of this time is to begin.
    Begin(Timestamp),
    /// This time is over, and nothing began.
    Missed(Timestamp),
}

impl Schedule {
    /// What is to be done now.
    ///
    /// Of several times that have passed the newest counts: after a day without a multiadmin there is one backup, not
    /// twenty.
    #[must_use]
    pub fn turn(&self, now: Timestamp) -> ScheduleAction {
        if self.paused {
            return ScheduleAction::Rest;
        }
        let recent = now.saturating_sub(MAX_START_DELAY).unwrap_or(Timestamp::MIN);
        let settled = self.settled_by(now);
        let mut due = None;
        let mut after = settled.max(recent);
        while let Some(next) = self.calendar.next(after).filter(|next| *next <= now) {
            due = Some(next);
            after = next;
        }
        match (due, self.calendar.next(settled)) {
            (Some(due), _) => ScheduleAction::Begin(due),
            (None, Some(missed)) if missed <= now => ScheduleAction::Missed(missed),
            _ => ScheduleAction::Rest,
        }
    }

    /// The next time after `now`; none while it is paused.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.paused { None } else { self.calendar.next(now.max(self.settled_by(now))) }
    }

    /// Up to when all is settled. A time that is far ahead was written while the clock of a leader was wrong, and would
    /// keep the schedule from running until then. What has run already is known by its job.
    fn settled_by(&self, now: Timestamp) -> Timestamp {
        let ahead = now.saturating_add(MAX_START_DELAY).unwrap_or(Timestamp::MAX);
        if self.settled > ahead { now.saturating_sub(MAX_START_DELAY).unwrap_or(now) } else { self.settled }
    }

    /// The name of the request for a due time's run.
    #[must_use]
    pub fn request_id(&self, due: Timestamp) -> Option<RequestId> {
        format!("{SCHEDULE_REQUESTS}{}/{}", self.name, timestamp_text(due)).parse().ok()
    }

    /// Who asks for its runs.
    #[must_use]
    pub fn requester(&self) -> String {
        format!("{REQUESTER}{}, set by {}", self.name, self.set_by)
    }

    /// Whether a job that this one asked for is a schedule's. A person's name is that of a certificate, a URI.
    #[must_use]
    pub fn is_requester(requested_by: &str) -> bool {
        requested_by.starts_with(REQUESTER)
    }
}

#[cfg(test)]
mod tests;
