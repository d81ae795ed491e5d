//! Wall time, ids and jitter: what a process takes from outside and a simulation decides.
//!
//! Everything that decides by these asks here. A simulation runs on one thread and sets a [`Source`] before it lets
//! a process go on; anywhere else there is none, and the operating system's is used.

use std::cell::RefCell;
use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

/// Where time and randomness come from.
pub trait Source {
    /// Wall time since the Unix epoch, as this process's host shows it.
    fn unix_time(&self) -> Duration;
    /// Time since this process's host was started.
    fn uptime(&self) -> Duration;
    /// 128 random bits.
    fn random(&self) -> u128;
}

thread_local! {
    static SOURCE: RefCell<Option<Box<dyn Source>>> = const { RefCell::new(None) };
}

/// Replaces the source of this thread; `None` is the operating system's.
pub fn set_source(source: Option<Box<dyn Source>>) {
    SOURCE.with_borrow_mut(|present| *present = source);
}

fn with<T>(simulated: impl FnOnce(&dyn Source) -> T, real: impl FnOnce() -> T) -> T {
    SOURCE.with_borrow(|source| match source {
        Some(source) => simulated(source.as_ref()),
        None => real(),
    })
}

/// Wall time. For people and calendars; order and ages are told by revisions and monotonic clocks.
#[must_use]
pub fn now() -> Timestamp {
    let at = |since: Duration| {
        i64::try_from(since.as_nanos())
            .ok()
            .and_then(|nanos| Timestamp::from_nanosecond(i128::from(nanos)).ok())
            .unwrap_or(Timestamp::MAX)
    };
    with(|source| at(source.unix_time()), Timestamp::now)
}

/// Time since this host was started, also while it was suspended; in hundredths of a second. Other processes of the
/// host read the same clock, as the first number of `/proc/uptime`.
///
/// It is read there and not from `CLOCK_BOOTTIME`: a container may show another value there, and then shows it to every
/// process. Where the file cannot be read, it is as if the host had been up for ever: every deadline has passed.
#[must_use]
pub fn uptime() -> Duration {
    let real = || {
        let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let seconds = text.split_whitespace().next().and_then(|first| first.parse().ok());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(Duration::MAX)
    };
    with(|source| source.uptime(), real)
}

/// A new id that sorts by time: a UUID version 7 (RFC 9562).
#[must_use]
pub fn new_id() -> Uuid {
    with(
        |source| {
            let millis = u64::try_from(source.unix_time().as_millis()).unwrap_or(u64::MAX);
            let mut random = [0; 10];
            random.copy_from_slice(&source.random().to_be_bytes()[..10]);
            uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
        },
        Uuid::now_v7,
    )
}

/// Between half of `pause` and all of it, so that processes that failed together do not try again together.
#[must_use]
pub fn jitter(pause: Duration) -> Duration {
    // The random part of a version 7 UUID saves a dependency.
    let random = with(|source| source.random().to_be_bytes()[15], || Uuid::now_v7().as_bytes()[15]);
    pause / 2 + pause / 2 * u32::from(random) / 255
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed;

    impl Source for Fixed {
        fn unix_time(&self) -> Duration {
            Duration::from_millis(1_700_000_000_123)
        }
        fn uptime(&self) -> Duration {
            Duration::from_secs(5)
        }
        fn random(&self) -> u128 {
            7
        }
    }

    #[test]
    fn a_source_decides_time_ids_and_jitter_until_it_is_taken_away() {
        set_source(Some(Box::new(Fixed)));
        assert_eq!(now().as_millisecond(), 1_700_000_000_123);
        assert_eq!((new_id(), new_id().get_version_num()), (new_id(), 7));
        assert_eq!(jitter(Duration::from_secs(1)), jitter(Duration::from_secs(1)));
        assert_eq!(uptime(), Duration::from_secs(5));
        set_source(None);
        assert_ne!(new_id(), new_id());
        assert!(now().as_millisecond() > 1_700_000_000_123);
    }

    #[test]
    fn uptime_goes_on_and_is_that_of_the_host() {
        let (first, second) = (uptime(), uptime());
        assert!(
            second >= first && first > Duration::ZERO && second < Duration::from_secs(100 * 365 * 86_400)
        );
    }

    #[test]
    fn jitter_stays_in_its_bounds() {
        for _ in 0..100 {
            let pause = Duration::from_millis(900);
            let got = jitter(pause);
            assert!(got <= pause && got >= pause / 2);
        }
    }
}
