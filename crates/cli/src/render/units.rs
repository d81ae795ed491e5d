//! Sizes, durations and times: read from flags, and written for people.
//!
//! They are written by functions of our own: the crates for sizes write one byte less than 1 GiB as `1024.0 MiB`, and
//! jiff's friendly printer writes `1min 15secs` or `1m 15s`.

use std::time::Duration;

use cellar_api::wkt::Timestamp;
use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;
use parse_size::UnitSystem;

/// The longest duration that is read: ten years. More is a typing error, and deadlines must be representable.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 86_400);

/// Reads a size: bytes, or with a unit. Units with a B alone are decimal (`10MB`); all others are binary (`64MiB`,
/// `1.5G`), as for pgBackRest and PostgreSQL.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let is_decimal = text.ends_with(['b', 'B']);
    let units = if is_decimal { UnitSystem::Decimal } else { UnitSystem::Binary };
    parse_size::Config::new()
        .with_unit_system(units)
        .parse_size(text)
        .map_err(|_| format!("{text:?} is not a size such as 1048576, 64MiB or 1GiB"))
}

/// Reads a duration: `90s`, `5m`, `2h`, `1d`, or several of them from the longest to the shortest (`1h30m`). A number
/// alone is seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    read_duration(text.trim()).ok_or_else(|| format!("{text:?} is not a duration such as 90s, 5m or 1h30m"))
}

fn read_duration(text: &str) -> Option<Duration> {
    let span = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().ok()?)
    } else {
        // jiff also reads `1h 30m ago`; a flag's value is one word.
        let is_word = !text.contains(char::is_whitespace);
        let span = is_word.then(|| SpanParser::new().parse_span(text).ok()).flatten()?;
        span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()?
    };
    // Requests carry whole seconds.
    (span.subsec_nanos() == 0 && !span.is_zero() && span <= MAX_DURATION).then_some(span)
}

/// A size with a binary unit and one decimal.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in its two largest units.
pub(crate) fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// The duration between two times of a record, when both are there and in order.
fn between(from: Option<&Timestamp>, to: Option<&Timestamp>) -> Option<Duration> {
    let from = jiff::Timestamp::try_from(*from?).ok()?;
    let to = jiff::Timestamp::try_from(*to?).ok()?;
    to.duration_since(from).try_into().ok()
}

/// The duration between two times of a record; empty when it is not known.
pub(crate) fn took(from: Option<&Timestamp>, to: Option<&Timestamp>) -> String {
    between(from, to).map(duration).unwrap_or_default()
}

/// A time in UTC to the second, as in logs; empty when there is none.
pub(crate) fn time(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::try_from(*at).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

/// A time in UTC to the minute, for columns; empty when there is none.
pub(crate) fn minute(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::try_from(*at).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d %H:%MZ").to_string())
}

/// A time in UTC with the fraction of its second; empty when there is none.
pub(crate) fn exact(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::try_from(*at).ok());
    at.map_or_else(String::new, cellar_model::timestamp_text)
}

/// A number of milliseconds as a duration.
pub(crate) fn millis(millis: u64) -> String {
    duration(Duration::from_millis(millis))
}

/// The day of a time; empty when there is none.
pub(crate) fn day(at: Option<&Timestamp>) -> String {
    let at = at.and_then(|at| jiff::Timestamp::try_from(*at).ok());
    at.map_or_else(String::new, |at| at.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("64MiB", 64 << 20),
            ("64mib", 64 << 20),
            ("1g", 1 << 30),
            ("2T", 2 << 40),
            ("1.5 KiB", 1536),
            ("1.5k", 1536),
            ("10MB", 10_000_000),
            ("10kb", 10_000),
            ("12b", 12),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "x", "-1", "1.2.3", "1XB", "99999999999TiB", "1e99", "MiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [
            ("90", 90),
            ("90s", 90),
            ("5m", 300),
            ("5min", 300),
            ("1h30m", 5400),
            ("1h30m15s", 5415),
            ("1d", 86_400),
            ("1d2h", 93_600),
            (" 2h ", 7200),
            ("0d5m", 300),
            ("3660d", 3660 * 86_400),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in [
            "",
            "0",
            "0s",
            "5 m",
            "-1s",
            "5x",
            "m",
            "99999999999999999999s",
            "9999999d",
            "99999999999999999999",
            "3661d",
            "500ms",
            "1mo",
            "1y",
            "5m ago",
            "-5m",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_without_unit_is_seconds_only_if_it_stands_alone() {
        assert_eq!(parse_duration("30"), Ok(Duration::from_secs(30)));
        for bad in ["1h30", "5m10", "1d12", "30 1h", "1 30"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_and_durations_are_written_for_people() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size((1 << 30) - 1), "1.0 GiB");
        assert_eq!(size(u64::MAX), "16384.0 PiB");
        assert_eq!(duration(Duration::from_millis(3420)), "3.4 s");
        assert_eq!(duration(Duration::from_secs(75)), "1 min 15 s");
        assert_eq!(duration(Duration::from_secs(100_000)), "1 d 3 h");
    }
}
