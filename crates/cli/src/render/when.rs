//! Points in time, read from `--to-time` and `--since`.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

use crate::render::units;

/// Where the digits of a date and a time of day are. jiff alone accepts more: years with signs, hours alone.
const SHAPE: &str = "dddd-dd-dd dd:dd:dd";

const FORMS: &str = "write it as 2026-03-01T10:15:00Z, 2026-03-01T10:15:00.123456+02:00 or '2026-03-01 10:15:00', \
                     with or without a fraction and an offset (+02, +02:00, UTC); without offset it is UTC";

/// Reads a time to the microsecond, the precision of PostgreSQL's commits; what is finer is cut off.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    read(text.trim()).ok_or_else(|| format!("{text:?} is not a time: {FORMS}"))
}

/// Reads a time, or how long before `now` it was (`90s`, `2h`, `1d`).
pub(crate) fn parse_past(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let past = units::parse_duration(text).ok().and_then(|span| now.checked_sub(span).ok());
    past.map_or_else(
        || parse_time(text).map_err(|error| format!("{error}; or give how long ago: 90s, 5m, 2h, 1d")),
        Ok,
    )
}

fn read(text: &str) -> Option<Timestamp> {
    let (clock, rest) = text.split_at_checked(SHAPE.len())?;
    let fits = |(found, wanted): (char, char)| match wanted {
        'd' => found.is_ascii_digit(),
        ' ' => matches!(found, ' ' | 'T' | 't'),
        _ => found == wanted,
    };
    if clock.len() != clock.chars().count() || !clock.chars().zip(SHAPE.chars()).all(fits) {
        return None;
    }
    // jiff reads a leap second as the second before it, which is another target.
    if clock.ends_with(":60") {
        return None;
    }
    let time: DateTime = clock.parse().ok()?;
    let (micros, zone) = fraction(rest)?;
    let time = time.with().subsec_nanosecond(micros * 1000).build().ok()?;
    offset(zone.trim_start_matches(' '))?.to_timestamp(time).ok()
}

/// The microseconds of a fraction, if there is one, and what comes behind it.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if digits.is_empty() {
        return None;
    }
    let micros: String = digits.chars().chain("000000".chars()).take(6).collect();
    Some((micros.parse().ok()?, rest))
}

fn offset(zone: &str) -> Option<Offset> {
    if zone.is_empty() || zone.eq_ignore_ascii_case("Z") || zone.eq_ignore_ascii_case("UTC") {
        return Some(Offset::UTC);
    }
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, "00"),
        4 => digits.split_at_checked(2)?,
        _ => digits.split_once(':')?,
    };
    let number = |part: &str, limit: i32| {
        let plain = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i32>().ok().filter(|number| plain && *number < limit)
    };
    Offset::from_seconds(sign * (number(hours, 24)? * 3600 + number(minutes, 60)? * 60)).ok()
}

/// The target as it was read, in UTC, so that a wrong time zone is seen before the restore.
pub(crate) fn resolved_time(time: Timestamp, now: Timestamp) -> String {
    let distance = match now.duration_since(time) {
        past if !past.is_negative() => format!("{} ago", units::duration(past.unsigned_abs())),
        future => format!("in {}", units::duration(future.unsigned_abs())),
    };
    format!("target: {} (UTC; {distance})", cellar_model::timestamp_text(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(of: &str) -> Option<String> {
        parse_time(of).ok().map(cellar_model::timestamp_text)
    }

    #[test]
    fn accepted_forms_are_read() {
        for (form, time) in [
            ("2026-03-01T10:15:00Z", "2026-03-01T10:15:00Z"),
            ("2026-03-01t10:15:00z", "2026-03-01T10:15:00Z"),
            ("2026-03-01T10:15:00", "2026-03-01T10:15:00Z"),
            ("2026-03-01T10:15:00.1Z", "2026-03-01T10:15:00.100Z"),
            ("2026-03-01T10:15:00.123456Z", "2026-03-01T10:15:00.123456Z"),
            ("2026-03-01T10:15:00.123456999999Z", "2026-03-01T10:15:00.123456Z"),
            ("2026-03-01T10:15:00+02:00", "2026-03-01T08:15:00Z"),
            ("2026-03-01T10:15:00.000001-05:30", "2026-03-01T15:45:00.000001Z"),
            ("2026-03-01T10:15:00-00:00", "2026-03-01T10:15:00Z"),
            ("2026-03-01 10:15:00", "2026-03-01T10:15:00Z"),
            ("2026-03-01 10:15:00.123456", "2026-03-01T10:15:00.123456Z"),
            ("2026-03-01 10:15:00.5+02", "2026-03-01T08:15:00.500Z"),
            ("2026-03-01 10:15:00+02", "2026-03-01T08:15:00Z"),
            ("2026-03-01 10:15:00+0200", "2026-03-01T08:15:00Z"),
            ("2026-03-01 10:15:00 +02:00", "2026-03-01T08:15:00Z"),
            ("2026-03-01 10:15:00 UTC", "2026-03-01T10:15:00Z"),
            ("2026-03-01 10:15:00.25 utc", "2026-03-01T10:15:00.250Z"),
            (" 2026-03-01 10:15:00 ", "2026-03-01T10:15:00Z"),
            ("2028-02-29 00:30:00+01", "2028-02-28T23:30:00Z"),
        ] {
            assert_eq!(text(form).as_deref(), Some(time), "{form}");
        }
    }

    #[test]
    fn other_forms_are_refused_naming_the_accepted_ones() {
        for bad in [
            "",
            "now",
            "yesterday",
            "2026-03-01",
            "2026-03-01 10:15",
            "10:15:00",
            "1772360100",
            "2026-3-1 10:15:00",
            "2026-02-30 10:15:00",
            "2026-03-01 24:00:00",
            "2026-03-01 10:15:60",
            "2026-03-01 10:15:61",
            "2026-03-01 10:15:00.",
            "2026-03-01 10:15:00,5",
            "2026-03-01_10:15:00",
            "2026-03-01  10:15:00",
            "2026-03-01 10:15:00 CET",
            "2026-03-01 10:15:00 Europe/Berlin",
            "2026-03-01 10:15:00+2",
            "2026-03-01 10:15:00+25",
            "2026-03-01 10:15:00+02:60",
            "2026-03-01 10:15:00+02:0",
            "2026-03-01 10:15:00++2:00",
            "2026-03-01 10:15:00+02:00:00",
            "2026-03-01 10:15:00Z+02",
            "+026-03-01 10:15:00",
            "9999-12-31 23:59:59",
            "２026-03-01 10:15:00",
        ] {
            let error = parse_time(bad).unwrap_err();
            assert!(error.contains("2026-03-01T10:15:00Z") && error.contains("+02:00"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_time_in_the_past_may_be_given_as_a_duration() {
        let now = parse_time("2026-03-02T10:00:00Z").unwrap();
        let text = |of: &str| parse_past(of, now).map(cellar_model::timestamp_text);
        assert_eq!(text("1d").as_deref(), Ok("2026-03-01T10:00:00Z"));
        assert_eq!(text("1h30m").as_deref(), Ok("2026-03-02T08:30:00Z"));
        assert_eq!(text("2026-03-01 10:15:00").as_deref(), Ok("2026-03-01T10:15:00Z"));
        for bad in ["", "yesterday", "-1h", "1 d"] {
            let error = text(bad).unwrap_err();
            assert!(error.contains("2026-03-01T10:15:00Z") && error.contains("2h"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_resolved_time_is_in_utc_with_its_distance() {
        let at = |text: &str| parse_time(text).unwrap();
        let time = at("2026-03-01 11:15:00.25+01");
        assert_eq!(
            resolved_time(time, at("2026-03-01 10:19:12.25")),
            "target: 2026-03-01T10:15:00.250Z (UTC; 4 min 12 s ago)"
        );
        assert_eq!(
            resolved_time(time, at("2026-03-01 09:15:00.25")),
            "target: 2026-03-01T10:15:00.250Z (UTC; in 1 h 0 min)"
        );
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,40}") {
            let _ = parse_time(&text);
        }

        #[test]
        fn parsing_never_panics_on_what_is_nearly_a_time(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?.{0,8}") {
            let _ = parse_time(&text);
        }

        #[test]
        fn printed_times_are_read(micros in -60_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let time = Timestamp::from_microsecond(micros).unwrap();
            prop_assert_eq!(parse_time(&cellar_model::timestamp_text(time)), Ok(time));
        }

        #[test]
        fn the_offset_is_subtracted(hours in 0_i64..24, minutes in 0_i64..60) {
            let east = parse_time(&format!("2026-03-01T10:15:00+{hours:02}:{minutes:02}")).unwrap();
            let west = parse_time(&format!("2026-03-01 10:15:00-{hours:02}{minutes:02}")).unwrap();
            prop_assert_eq!(west.as_second() - east.as_second(), 2 * (hours * 3600 + minutes * 60));
        }
    }
}
