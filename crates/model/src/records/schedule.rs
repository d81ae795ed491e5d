//! Schedules: work that multiadmin asks for by itself, at times of a calendar.
//!
//! What is due follows from the record and the clock alone ([`Schedule::turn`]), and the job of a due time has an id that
//! follows from both: whoever leads, and however often it is decided, a due time has one job at most.

use std::fmt;

use cronexpr::{Crontab, ParseOptions, parse_crontab_with};
use jiff::tz::{Disambiguation, TimeZone};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::records::job::JobError;
use crate::records::job_id::{JobId, RequestId};
use crate::records::restore::DrillParams;
use crate::records::spec::{BackupParams, JobKind};
use crate::types::json;
use crate::types::name::{CellName, DatabaseName, ScheduleName};

/// How long after its time a run may still begin. What could not begin by then is missed: a backup of the night that
/// begins at noon, when everybody works, is worse than none.
pub const START_WITHIN: SignedDuration = SignedDuration::from_hours(1);

/// How the names of runs' requests begin. Nobody else may use such a name, and take a run's place with it.
pub const SCHEDULE_REQUESTS: &str = "schedule/";

/// Cells that one schedule may name.
pub const MOST_CELLS: usize = 16;

/// Longest text of a calendar's fields.
const LONGEST: usize = 200;

/// Beyond this nobody's calendar goes; sums of times stay far from where they would overflow (year 9999).
const LAST: i64 = 200_000_000_000;

/// Times of a calendar: the five fields of crontab(5), read in a time zone.
///
/// Each local time comes once: where clocks go forward, the time that is left out comes as much later (02:30 at 03:30);
/// where they go back, the time that is there twice counts when it is there first.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct Calendar {
    fields: Fields,
    /// Of local times, taken for UTC.
    times: Crontab,
    zone: TimeZone,
}

/// A calendar as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    cron: String,
    #[serde(default)]
    time_zone: String,
}

/// Why a text is not a calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CalendarError {
    /// The five fields.
    #[error("{text:?} is not five fields of crontab(5) (minute, hour, day, month, weekday): {reason}")]
    Cron {
        /// What was given.
        text: String,
        /// Why.
        reason: String,
    },
    /// The zone.
    #[error("{0:?} is not a time zone such as UTC or Europe/Berlin")]
    TimeZone(String),
    /// There is no such day.
    #[error("{0:?} never comes")]
    Never(String),
}

impl Calendar {
    /// Reads five fields, in a zone of the IANA database; none is UTC.
    ///
    /// # Errors
    /// When it is no calendar, or one whose times never come.
    pub fn new(cron: &str, time_zone: &str) -> Result<Self, CalendarError> {
        let shown = |text: &str| text.chars().take(80).collect::<String>();
        let bad = |reason: String| CalendarError::Cron { text: shown(cron), reason };
        let words: Vec<&str> = cron.split_ascii_whitespace().collect();
        if words.len() != 5 {
            return Err(bad(format!("five are needed, and it has {}", words.len())));
        }
        let cron = words.join(" ");
        if cron.len() > LONGEST || !cron.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(bad("it is too long, or has characters of no use here".to_owned()));
        }
        let times = parse_crontab_with(&format!("{cron} UTC"), ParseOptions::default())
            .map_err(|error| bad(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
        let name = if time_zone.is_empty() { "UTC" } else { time_zone };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        let zone = Some(name)
            .filter(|name| name.len() <= LONGEST && name.bytes().all(is_name))
            .and_then(|name| TimeZone::get(name).ok())
            .ok_or_else(|| CalendarError::TimeZone(shown(name)))?;
        // The canonical spelling, as the database has it.
        let time_zone = zone.iana_name().unwrap_or("UTC").to_owned();
        let calendar = Self { fields: Fields { cron, time_zone }, times, zone };
        match calendar.next(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(calendar),
            None => Err(CalendarError::Never(calendar.fields.cron)),
        }
    }

    /// The five fields.
    #[must_use]
    pub fn cron(&self) -> &str {
        &self.fields.cron
    }

    /// The time zone's name.
    #[must_use]
    pub fn time_zone(&self) -> &str {
        &self.fields.time_zone
    }

    /// The first time after `after`; none when there is none for four years.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        if !(0..LAST).contains(&after.as_second()) {
            return None;
        }
        let mut local =
            after.to_zoned(self.zone.clone()).datetime().to_zoned(TimeZone::UTC).ok()?.timestamp();
        // In the hour that is there twice, local times of its first pass are in the past: at most one hour of minutes.
        for _ in 0..=24 * 60 {
            local = self.times.find_next(local).ok()?.timestamp();
            let there = local.to_zoned(TimeZone::UTC).datetime();
            let time = self.zone.to_ambiguous_zoned(there).disambiguate(Disambiguation::Compatible).ok()?;
            if time.timestamp() > after {
                return Some(time.timestamp());
            }
        }
        None
    }
}

impl TryFrom<Fields> for Calendar {
    type Error = CalendarError;
    fn try_from(fields: Fields) -> Result<Self, CalendarError> {
        Self::new(&fields.cron, &fields.time_zone)
    }
}

impl From<Calendar> for Fields {
    fn from(calendar: Calendar) -> Self {
        calendar.fields
    }
}

impl PartialEq for Calendar {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Eq for Calendar {}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields.fmt(f)
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.fields.cron, self.fields.time_zone)
    }
}

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
pub enum Turn {
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
    /// Of several times that have passed the newest counts: whoever was away for a day does not back up twenty times.
    #[must_use]
    pub fn turn(&self, now: Timestamp) -> Turn {
        if self.paused {
            return Turn::Rest;
        }
        let recent = now.saturating_sub(START_WITHIN).unwrap_or(Timestamp::MIN);
        let mut due = None;
        let mut after = self.settled.max(recent);
        while let Some(next) = self.calendar.next(after).filter(|next| *next <= now) {
            due = Some(next);
            after = next;
        }
        match (due, self.calendar.next(self.settled)) {
            (Some(due), _) => Turn::Begin(due),
            (None, Some(missed)) if missed <= now => Turn::Missed(missed),
            _ => Turn::Rest,
        }
    }

    /// The next time after `now`; none while it is paused.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.paused { None } else { self.calendar.next(now.max(self.settled)) }
    }

    /// The name of the request for a due time's run.
    #[must_use]
    pub fn request_id(&self, due: Timestamp) -> Option<RequestId> {
        format!("{SCHEDULE_REQUESTS}{}/{}", self.name, crate::types::json::timestamp_text(due)).parse().ok()
    }

    /// Who asks for its runs.
    #[must_use]
    pub fn requester(&self) -> String {
        format!("schedule {}, set by {}", self.name, self.set_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn calendar(cron: &str, zone: &str) -> Calendar {
        Calendar::new(cron, zone).unwrap()
    }

    fn times(calendar: &Calendar, after: &str, count: usize) -> Vec<String> {
        let mut after = time(after);
        let mut found = Vec::new();
        for _ in 0..count {
            after = calendar.next(after).unwrap();
            found.push(after.to_string());
        }
        found
    }

    fn schedule(cron: &str, settled: &str) -> Schedule {
        Schedule {
            database: "app".parse().unwrap(),
            name: "nightly".parse().unwrap(),
            calendar: calendar(cron, "UTC"),
            work: ScheduledWork::Verify {},
            paused: false,
            set_by: "me".into(),
            settled: time(settled),
            last: None,
            newest_job: None,
        }
    }

    #[test]
    fn times_are_those_of_crontab() {
        let nightly = calendar("30 1 * * *", "");
        assert_eq!(
            times(&nightly, "2026-03-01T01:30:00Z", 2),
            ["2026-03-02T01:30:00Z", "2026-03-03T01:30:00Z"]
        );
        let sundays = calendar("0 3 * * SUN", "UTC");
        assert_eq!(times(&sundays, "2026-03-03T00:00:00Z", 1), ["2026-03-08T03:00:00Z"]);
        let quarters = calendar("*/15  *  * * *", "UTC");
        assert_eq!(quarters.to_string(), "*/15 * * * * UTC");
        assert_eq!(
            times(&quarters, "2026-03-03T00:14:59.5Z", 2),
            ["2026-03-03T00:15:00Z", "2026-03-03T00:30:00Z"]
        );
        let leap = calendar("0 0 29 2 *", "UTC");
        assert_eq!(times(&leap, "2026-03-03T00:00:00Z", 1), ["2028-02-29T00:00:00Z"]);
    }

    #[test]
    fn each_local_time_comes_once() {
        // Clocks in Berlin go from 02:00 to 03:00 on 2026-03-29 at 01:00 UTC, and back on 2026-10-25 at 01:00 UTC.
        let half_past_two = calendar("30 2 * * *", "Europe/Berlin");
        assert_eq!(
            times(&half_past_two, "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z"]
        );
        assert_eq!(
            times(&half_past_two, "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]
        );
        let halves = calendar("*/30 * * * *", "Europe/Berlin");
        assert_eq!(
            times(&halves, "2026-10-25T00:00:00Z", 2),
            ["2026-10-25T00:30:00Z", "2026-10-25T02:00:00Z"],
            "not again in the hour that is there twice"
        );
        assert_eq!(
            times(&halves, "2026-03-29T00:00:00Z", 3),
            ["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"]
        );
    }

    #[test]
    fn what_is_no_calendar_is_refused() {
        for bad in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "a b c d e",
            "* * * * * UTC",
            "@daily",
            "* * * * \u{7f}",
            "* * * * é",
            "-1 * * * *",
            "*/0 * * * *",
        ] {
            assert!(matches!(Calendar::new(bad, "UTC"), Err(CalendarError::Cron { .. })), "{bad}");
        }
        assert!(Calendar::new(&format!("{} * * * *", "1,".repeat(200)), "UTC").is_err());
        for bad in ["Mars/Olympus", " ", "UTC\n", "../etc/passwd", "/etc/passwd", "."] {
            assert!(matches!(Calendar::new("* * * * *", bad), Err(CalendarError::TimeZone(_))), "{bad}");
        }
        assert_eq!(Calendar::new("0 0 30 2 *", ""), Err(CalendarError::Never("0 0 30 2 *".into())));
        let odd: Result<Calendar, _> = serde_json::from_str(r#"{"cron": "* * *"}"#);
        assert!(odd.is_err());
    }

    #[test]
    fn a_run_begins_at_its_time_and_not_long_after() {
        let nightly = schedule("30 1 * * *", "2026-03-01T12:00:00Z");
        let due = time("2026-03-02T01:30:00Z");
        for (now, turn) in [
            ("2026-03-01T11:00:00Z", Turn::Rest),
            ("2026-03-02T01:29:59Z", Turn::Rest),
            ("2026-03-02T01:30:00Z", Turn::Begin(due)),
            ("2026-03-02T02:29:59Z", Turn::Begin(due)),
            ("2026-03-02T02:30:01Z", Turn::Missed(due)),
            ("2026-03-09T01:00:00Z", Turn::Missed(due)),
            ("2026-03-09T01:31:00Z", Turn::Begin(time("2026-03-09T01:30:00Z"))),
        ] {
            assert_eq!(nightly.turn(time(now)), turn, "{now}");
        }
        let settled = Schedule { settled: due, ..nightly.clone() };
        assert_eq!(settled.turn(time("2026-03-02T02:00:00Z")), Turn::Rest);
        assert_eq!(settled.next(time("2026-03-02T02:00:00Z")), Some(time("2026-03-03T01:30:00Z")));
        let paused = Schedule { paused: true, ..nightly };
        assert_eq!(paused.turn(due), Turn::Rest);
        assert_eq!(paused.next(due), None);
    }

    #[test]
    fn of_many_times_that_passed_the_newest_counts() {
        let often = schedule("*/10 * * * *", "2026-03-01T12:00:00Z");
        assert_eq!(often.turn(time("2026-03-01T12:39:00Z")), Turn::Begin(time("2026-03-01T12:30:00Z")));
        assert_eq!(often.turn(time("2026-03-05T12:39:00Z")), Turn::Begin(time("2026-03-05T12:30:00Z")));
    }

    #[test]
    fn a_due_time_has_one_request() {
        let nightly = schedule("30 1 * * *", "2026-03-01T12:00:00Z");
        let id = nightly.request_id(time("2026-03-02T01:30:00Z")).unwrap();
        assert_eq!(id.to_string(), "schedule/nightly/2026-03-02T01:30:00Z");
        let long = Schedule { name: "n".repeat(63).parse().unwrap(), ..nightly };
        assert!(long.request_id(time("2026-03-02T01:30:00Z")).is_some());
    }

    proptest! {
        #[test]
        fn no_record_of_any_time_panics(settled in any::<i64>(), now in any::<i64>(), cron in "[*/0-9,LW# -]{5,30}") {
            let text = format!("{} * * *", cron.trim());
            let calendar = Calendar::new(&text, "Europe/Berlin").unwrap_or_else(|_| calendar("0 0 1 1 *", "UTC"));
            let at = |n: i64| Timestamp::from_second(n % 253_402_000_000).unwrap();
            let subject = Schedule { calendar, settled: at(settled), ..schedule("* * * * *", "2026-03-01T12:00:00Z") };
            match subject.turn(at(now)) {
                Turn::Begin(due) => prop_assert!(due <= at(now) && due > subject.settled),
                Turn::Missed(due) => prop_assert!(due <= at(now) && due > subject.settled),
                Turn::Rest => {}
            }
        }

        #[test]
        fn the_next_time_is_later_and_none_lies_between(after in 1_700_000_000_i64..1_900_000_000, minute in 0..60, hour in 0..24) {
            let daily = calendar(&format!("{minute} {hour} * * *"), "America/New_York");
            let after = Timestamp::from_second(after).unwrap();
            let next = daily.next(after).unwrap();
            let span = next.as_second() - after.as_second();
            prop_assert!((1..=25 * 3600 + 1).contains(&span), "{}", span);
        }
    }
}
