//! When a schedule is due: cron times in a time zone.

use cronexpr::{Crontab, ParseOptions, parse_crontab_with};
use jiff::tz::{Disambiguation, TimeZone};
use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Longest text of a calendar's fields.
const LONGEST: usize = 200;

/// The last second that a calendar is asked for (in the year 8307): sums of times stay far from where they would
/// overflow (in the year 9999).
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
    #[error(
        "{text:?} is no calendar of crontab(5) (five fields: minute, hour, day, month, weekday): {reason}"
    )]
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

/// What is wrong, of an error that shows the expression and points at the place in it.
fn reason(error: &str) -> String {
    let last = error.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    last.trim_start_matches([' ', '^']).to_owned()
}

/// Whether the name is one of a file beside the IANA database's zones, which each host may have otherwise or not at all.
fn is_local_file(zone: &str) -> bool {
    let zone = zone.to_ascii_lowercase();
    let beside = ["posixrules", "localtime", "factory"].contains(&zone.as_str());
    beside || zone.starts_with("posix/") || zone.starts_with("right/")
}

impl Calendar {
    /// Reads five fields, in a zone of the IANA database; none is UTC.
    ///
    /// # Errors
    /// When it is no calendar, or one whose times never come.
    pub fn new(cron: &str, time_zone: &str) -> Result<Self, CalendarError> {
        if is_local_file(time_zone) {
            return Err(CalendarError::TimeZone(time_zone.chars().take(80).collect()));
        }
        Self::recorded(cron, time_zone)
    }

    /// As [`Calendar::new`], also in a zone that an earlier version took.
    fn recorded(cron: &str, time_zone: &str) -> Result<Self, CalendarError> {
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
            .map_err(|error| bad(reason(&error.to_string())))?;
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
        // A local time that clocks pass over comes later, by as much as they are put forward; so what comes after `after`
        // may stand before it on the clock.
        local = local.saturating_sub(MAX_SHIFT).ok()?;
        // These, and those of the first pass of an hour that is there twice, may be in the past: some hours of minutes.
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

/// The most by which clocks are put forward in a year. Where whole days are passed over, as in Samoa in 2011, the runs of
/// that day are lost.
const MAX_SHIFT: SignedDuration = SignedDuration::from_hours(3);

impl TryFrom<Fields> for Calendar {
    type Error = CalendarError;
    fn try_from(fields: Fields) -> Result<Self, CalendarError> {
        Self::recorded(&fields.cron, &fields.time_zone)
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
