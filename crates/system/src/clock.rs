//! Wall time, ids and jitter: what a process takes from outside and a simulation decides.
//!
//! Everything that decides by these asks here. A simulation runs on one thread and sets a [`Source`] before it lets
//! a process go on; anywhere else there is none, and the operating system's is used.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use jiff::Timestamp;
use nix::time::ClockId;
use uuid::Uuid;

/// How long the distance between `/proc/uptime` and the kernel's own clock is taken for what it was. Reading the file takes
/// four system calls, and asking the clock none.
const READING_LIFETIME: Duration = Duration::from_secs(1);

/// A reading of the file that took longer is not gone by later: it is not known when the file said that.
const LONGEST_READING: Duration = Duration::from_millis(10);

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
    static READING: Cell<Option<Reading>> = const { Cell::new(None) };
}

/// What `/proc/uptime` said.
#[derive(Debug, Clone, Copy)]
struct Reading {
    uptime: Duration,
    /// `CLOCK_BOOTTIME` when the file had been read.
    boot_time: Duration,
}

impl Reading {
    /// The uptime when `CLOCK_BOOTTIME` is `boot_time`; none when it must be read again.
    ///
    /// In hundredths of a second, as the file has it: it is never ahead of what the file says, so reading that does not set
    /// time back.
    fn at(self, boot_time: Duration) -> Option<Duration> {
        let since = boot_time.checked_sub(self.boot_time).filter(|since| *since < READING_LIFETIME)?;
        let uptime = self.uptime.checked_add(since)?;
        Some(uptime.saturating_sub(Duration::from_nanos(u64::from(uptime.subsec_nanos() % 10_000_000))))
    }
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
/// process. That clock only tells how long ago that was, up to a second, also while the host was suspended. Where the file
/// cannot be read, it is as if the host had been up for ever: every deadline has passed.
#[must_use]
pub fn uptime() -> Duration {
    with(|source| source.uptime(), real_uptime)
}

fn real_uptime() -> Duration {
    let begun = boot_time();
    if let Some(uptime) = begun.and_then(|now| READING.get()?.at(now)) {
        return uptime;
    }
    let uptime = read_uptime();
    let reading = begun.zip(boot_time()).zip(uptime).and_then(|((begun, boot_time), uptime)| {
        let is_exact = boot_time.saturating_sub(begun) <= LONGEST_READING;
        is_exact.then_some(Reading { uptime, boot_time })
    });
    READING.set(reading);
    uptime.unwrap_or(Duration::MAX)
}

fn read_uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// Time since the kernel began, also while it was suspended.
fn boot_time() -> Option<Duration> {
    ClockId::CLOCK_BOOTTIME.now().ok().map(Duration::from)
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
    fn reading_of_the_uptime_is_gone_by_for_a_second_and_never_ahead_of_the_file() {
        let milliseconds = Duration::from_millis;
        let reading = Reading { uptime: milliseconds(70_120), boot_time: milliseconds(500_009) };
        assert_eq!(reading.at(milliseconds(500_009)), Some(milliseconds(70_120)));
        assert_eq!(reading.at(milliseconds(500_028)), Some(milliseconds(70_130)), "whole hundredths");
        assert_eq!(reading.at(milliseconds(501_008)), Some(milliseconds(71_110)));
        assert_eq!(reading.at(milliseconds(501_009)), None, "it is a second old, or the host was suspended");
        assert_eq!(reading.at(milliseconds(500_008)), None, "the clock was set back");
        let begun = uptime();
        while uptime() < begun + READING_LIFETIME + milliseconds(100) {
            let (before, ours, after) = (read_uptime().unwrap(), uptime(), read_uptime().unwrap());
            assert!(before <= ours + 2 * LONGEST_READING && ours <= after, "{before:?} {ours:?} {after:?}");
            assert!(uptime() >= ours, "it never goes back");
        }
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
