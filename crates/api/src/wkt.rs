//! `google.protobuf.Timestamp` and `Duration` with their canonical JSON.
//!
//! The ready-made types (pbjson-types 0.9) write `+00:00` for UTC, where the
//! canonical JSON of proto3 has `Z`; what is in etcd and what the command line
//! prints would then differ.

use jiff::{SignedDuration, Timestamp as Instant};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _, ser::Error as _};

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds within the second, never negative.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// A span of time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct Duration {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds, of the same sign.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl TryFrom<Timestamp> for Instant {
    type Error = jiff::Error;
    fn try_from(time: Timestamp) -> Result<Self, jiff::Error> {
        Instant::new(time.seconds, time.nanos).and_then(cellar_model::storable)
    }
}

impl From<Instant> for Timestamp {
    fn from(time: Instant) -> Self {
        let nanos = time.as_nanosecond();
        let billion = 1_000_000_000;
        // Both fit by Instant's range (years -9999 to 9999).
        Self {
            seconds: i64::try_from(nanos.div_euclid(billion)).unwrap_or(i64::MAX),
            nanos: i32::try_from(nanos.rem_euclid(billion)).unwrap_or(0),
        }
    }
}

impl TryFrom<Duration> for std::time::Duration {
    type Error = jiff::Error;
    fn try_from(span: Duration) -> Result<Self, jiff::Error> {
        let seconds = u64::try_from(span.seconds)
            .map_err(|_| jiff::Error::from_args(format_args!("a negative duration")))?;
        let nanos = u32::try_from(span.nanos)
            .ok()
            .filter(|nanos| *nanos < 1_000_000_000)
            .ok_or_else(|| jiff::Error::from_args(format_args!("nanoseconds out of range")))?;
        Ok(Self::new(seconds, nanos))
    }
}

impl From<std::time::Duration> for Duration {
    fn from(span: std::time::Duration) -> Self {
        Self {
            seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(span.subsec_nanos()).unwrap_or(0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let time = Instant::try_from(*self).map_err(S::Error::custom)?;
        to.serialize_str(&cellar_model::timestamp_text(time))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        cellar_model::parse_timestamp(&text).map(Into::into).map_err(D::Error::custom)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // Whatever a caller sends is written into the audit trail before it is judged, and the sum may not overflow.
        let has_other_sign = self.seconds.signum() * i64::from(self.nanos.signum()) < 0;
        if self.nanos.unsigned_abs() >= 1_000_000_000 || has_other_sign {
            return Err(S::Error::custom("a duration out of range"));
        }
        let span = SignedDuration::new(self.seconds, self.nanos);
        let nanos = span.subsec_nanos().unsigned_abs();
        let sign = if span.is_negative() { "-" } else { "" };
        let seconds = span.as_secs().unsigned_abs();
        if nanos == 0 {
            to.serialize_str(&format!("{sign}{seconds}s"))
        } else {
            to.serialize_str(&format!("{sign}{seconds}.{nanos:09}s"))
        }
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let bad = || D::Error::custom(format!("{text:?} is not a duration such as 3.5s"));
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.as_str()),
        };
        let number = digits.strip_suffix('s').ok_or_else(bad)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let plain = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(fraction) || fraction.len() > 9 {
            return Err(bad());
        }
        let sign = if negative { -1 } else { 1 };
        let seconds: i64 = whole.parse().map_err(|_| bad())?;
        let nanos: i32 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
        Ok(Self { seconds: i64::from(sign) * seconds, nanos: sign * nanos })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_their_canonical_text() {
        for (text, seconds, nanos) in [("3s", 3, 0), ("0s", 0, 0), ("-1.500000000s", -1, -500_000_000)] {
            let span: Duration = serde_json::from_value(text.into()).unwrap();
            assert_eq!((span.seconds, span.nanos), (seconds, nanos));
            assert_eq!(serde_json::to_value(span).unwrap(), text);
        }
        for bad in ["", "s", "3", "1.0000000001s", "+1s", "--1s", "1.-5s"] {
            assert!(serde_json::from_value::<Duration>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds_positive() {
        let time: Timestamp = serde_json::from_value("1969-12-31T23:59:59.500Z".into()).unwrap();
        assert_eq!((time.seconds, time.nanos), (-1, 500_000_000));
        assert_eq!(serde_json::to_value(time).unwrap(), "1969-12-31T23:59:59.500Z");
    }

    #[test]
    fn duration_that_is_none_is_refused_and_does_not_end_the_caller() {
        for (seconds, nanos) in
            [(i64::MAX, 1_000_000_000), (i64::MIN, -1_000_000_000), (1, -1), (0, i32::MIN)]
        {
            assert!(serde_json::to_value(Duration { seconds, nanos }).is_err(), "{seconds} {nanos}");
        }
        assert!(serde_json::to_value(Duration { seconds: i64::MIN, nanos: -999_999_999 }).is_ok());
    }

    #[test]
    fn a_negative_timeout_is_refused() {
        assert!(std::time::Duration::try_from(Duration { seconds: -1, nanos: 0 }).is_err());
        assert!(std::time::Duration::try_from(Duration { seconds: 1, nanos: -1 }).is_err());
    }
}
