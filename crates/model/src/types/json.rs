//! The corners where canonical proto3 JSON differs from serde's defaults:
//! 64-bit integers are strings and timestamps are RFC 3339 in UTC.

use jiff::Timestamp;

/// A time as proto3 JSON writes it: UTC, with no, three or six fractional digits. Nanoseconds are cut off:
/// PostgreSQL counts in microseconds.
#[must_use]
pub fn timestamp_text(time: Timestamp) -> String {
    let micros = time.as_nanosecond().rem_euclid(1_000_000_000) / 1000;
    let seconds = time.strftime("%Y-%m-%dT%H:%M:%S");
    match (micros / 1000, micros % 1000) {
        (0, 0) => format!("{seconds}Z"),
        (millis, 0) => format!("{seconds}.{millis:03}Z"),
        _ => format!("{seconds}.{micros:06}Z"),
    }
}

/// The first second of the year 1, the earliest that `google.protobuf.Timestamp` has. RFC 3339 has no years before 0,
/// so a record with an earlier time could be written and never be read again.
const FIRST: i64 = -62_135_596_800;

/// A time, if the records can hold it.
///
/// # Errors
/// When it is before the year 1.
pub fn storable(time: Timestamp) -> Result<Timestamp, jiff::Error> {
    if time.as_second() < FIRST {
        return Err(jiff::Error::from_args(format_args!("a time before the year 1 cannot be recorded")));
    }
    Ok(time)
}

/// Reads an RFC 3339 time; a time without zone is refused.
///
/// # Errors
/// When the text is not a point in time, or one before the year 1.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, jiff::Error> {
    text.parse().and_then(storable)
}

/// Cuts a time to whole milliseconds, the precision in which records keep it.
#[must_use]
pub fn timestamp_ms(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// `#[serde(with)]` for a [`Timestamp`].
pub(crate) mod time {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &jiff::Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::timestamp_text(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<jiff::Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        super::parse_timestamp(&text).map_err(serde::de::Error::custom)
    }
}

/// `#[serde(with)]` for an optional [`Timestamp`].
pub(crate) mod opt_time {
    use serde::{Deserialize, Deserializer, Serializer};

    // The signature is serde's.
    #[expect(clippy::ref_option, reason = "serde's `with` passes a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(time: &Option<jiff::Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::time::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<jiff::Timestamp>, D::Error> {
        match Option::<String>::deserialize(from)? {
            Some(text) => super::parse_timestamp(&text).map(Some).map_err(serde::de::Error::custom),
            None => Ok(None),
        }
    }
}

/// `#[serde(skip_serializing_if)]` for a number that is left out when it is 0, as proto3 does.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// The same for a `u32`.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

/// `#[serde(with)]` for a `u64`, which proto3 JSON writes as a string and reads as either.
pub(crate) mod u64_text {
    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        match Either::deserialize(from)? {
            Either::Number(value) => Ok(value),
            Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_no_three_or_six_digits() {
        let time = parse_timestamp("2026-03-01T10:00:00.120Z").unwrap();
        assert_eq!(timestamp_text(time), "2026-03-01T10:00:00.120Z");
        let exact = parse_timestamp("2026-03-01T10:00:00.000456Z").unwrap();
        assert_eq!(timestamp_text(exact), "2026-03-01T10:00:00.000456Z");
        assert_eq!(
            timestamp_text(parse_timestamp("2026-03-01T12:00:00+02:00").unwrap()),
            "2026-03-01T10:00:00Z"
        );
        assert!(parse_timestamp("2026-03-01T10:00:00").is_err());
    }
}
