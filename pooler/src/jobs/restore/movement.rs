//! Whether a server that recovers still moves.
//!
//! Its position is not enough: it cannot be asked before it is consistent, and one record may take an hour to replay, such
//! as the creation of a database that copies a large one file by file.

use std::time::{Duration, Instant};

use cellar_model::Lsn;
use cellar_system::Process;

/// What a startup process has to write between two looks for that to be a movement, in bytes: much more than its messages.
const WRITTEN_BYTES: u64 = 1 << 20;

/// What a server's startup process does, from its process title: `startup recovering 0000…` or `startup waiting for
/// 0000…`. The title is all that can be seen before the server accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartupTitle {
    /// It waits for this segment.
    Waiting(String),
    /// It replays this segment.
    Recovering(String),
    /// Neither is said.
    Other,
}

impl StartupTitle {
    fn of(title: &str) -> Option<Self> {
        if let Some((_, segment)) = title.split_once("startup waiting for ") {
            return Some(Self::Waiting(segment.trim().to_owned()));
        }
        let (_, segment) = title.split_once("startup recovering ")?;
        Some(Self::Recovering(segment.trim().to_owned()))
    }
}

/// One look at a server's startup process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Startup {
    /// What it does.
    pub(crate) title: StartupTitle,
    /// The number of the process.
    pub(super) pid: i32,
    /// What it has written by itself, in bytes: what it has fetched is written by others.
    pub(super) written: u64,
    /// Whether it has started another program: the one that fetches WAL.
    pub(crate) fetches: bool,
}

impl Startup {
    /// Looks at the startup process of this postmaster.
    pub(crate) fn of(postmaster: i32) -> Self {
        let children = Process::find(postmaster).map(|process| process.children()).unwrap_or_default();
        let said = children.iter().find_map(|child| {
            let title = StartupTitle::of(child.arguments().first()?)?;
            let fetches = !child.children().is_empty();
            Some(Self { title, pid: child.pid, written: child.own_bytes_written(), fetches })
        });
        said.unwrap_or_else(Self::unseen)
    }

    /// Nothing is known of it.
    pub(crate) fn unseen() -> Self {
        Self { title: StartupTitle::Other, pid: 0, written: 0, fetches: false }
    }
}

/// How far a recovery has come, and since when it has come no further.
#[derive(Debug)]
pub(crate) struct Movement {
    lsn: Option<Lsn>,
    /// The newest segment that was replayed or waited for, without its timeline: a server that waits asks for it on each
    /// timeline that it may be on in turn.
    segment: String,
    /// Who had written how much when the last movement was seen.
    written: (i32, u64),
    since: Instant,
}

impl Movement {
    /// Nothing was seen yet.
    pub(crate) fn none_yet() -> Self {
        Self { lsn: None, segment: String::new(), written: (0, 0), since: Instant::now() }
    }

    /// Takes another look into account. Returns for how long nothing has moved.
    pub(crate) fn look(&mut self, lsn: Option<Lsn>, startup: &Startup, now: Instant) -> Duration {
        let named = match &startup.title {
            StartupTitle::Waiting(segment) | StartupTitle::Recovering(segment) => {
                segment.get(8..).unwrap_or(segment)
            }
            StartupTitle::Other => "",
        };
        let is_newest = named >= self.segment.as_str();
        // One that waits writes nothing of the database, and one that begins again is not further than it was.
        let replays = is_newest && matches!(startup.title, StartupTitle::Recovering(_));
        let (pid, written) = self.written;
        let writes = replays && pid == startup.pid && startup.written >= written + WRITTEN_BYTES;
        if lsn > self.lsn || named > self.segment.as_str() || writes {
            self.since = now;
        }
        if writes || pid != startup.pid {
            self.written = (startup.pid, startup.written);
        }
        self.lsn = self.lsn.max(lsn);
        if is_newest {
            named.clone_into(&mut self.segment);
        }
        now.duration_since(self.since)
    }

    /// As [`Movement::look`], where what a server does before it begins to recover is no standstill: it has no position, and
    /// may take long to flush a large directory.
    pub(crate) fn look_once_begun(&mut self, lsn: Option<Lsn>, startup: &Startup, now: Instant) -> Duration {
        if lsn.is_none() && startup.title == StartupTitle::Other {
            self.since = now;
        }
        self.look(lsn, startup, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn startup(title: StartupTitle, pid: i32, written: u64) -> Startup {
        Startup { title, pid, written, fetches: false }
    }

    fn recovering(segment: &str, pid: i32, written: u64) -> Startup {
        startup(StartupTitle::Recovering(format!("00000001{segment}")), pid, written)
    }

    fn waiting(timeline: &str, segment: &str) -> Startup {
        startup(StartupTitle::Waiting(format!("{timeline}{segment}")), 7, 1 << 30)
    }

    #[test]
    fn title_of_a_startup_process_is_read() {
        let said = |title| StartupTitle::of(title);
        assert_eq!(
            said("postgres: demo/zone1 copy: startup recovering 01"),
            Some(StartupTitle::Recovering("01".to_owned()))
        );
        assert_eq!(said("postgres: startup waiting for 02 "), Some(StartupTitle::Waiting("02".to_owned())));
        assert_eq!(said("postgres: startup"), None);
    }

    #[test]
    fn movement_is_a_position_or_a_segment_that_was_never_seen() {
        let begun = Instant::now();
        let mut movement = Movement::none_yet();
        let mut still = |minutes: u32, lsn: Option<u64>, startup: &Startup| {
            movement.look_once_begun(lsn.map(Lsn::new), startup, begun + MINUTE * minutes).as_secs() / 60
        };
        let unseen = Startup::unseen();
        assert_eq!((still(30, None, &unseen), still(60, None, &unseen)), (0, 0), "not begun");
        assert_eq!(
            (still(61, None, &recovering("5", 7, 0)), still(70, None, &recovering("6", 7, 0))),
            (0, 0)
        );
        assert_eq!(still(75, None, &recovering("5", 8, 0)), 5, "it has crashed and begins again");
        assert_eq!(
            (still(81, Some(1), &recovering("6", 8, 0)), still(90, Some(2), &recovering("6", 8, 0))),
            (0, 0)
        );
        assert_eq!(still(100, Some(2), &recovering("6", 8, 0)), 10);
        assert_eq!(still(101, Some(1), &recovering("6", 8, 0)), 11);
        assert_eq!(still(102, Some(2), &waiting("00000001", "7")), 0);
        assert_eq!(still(103, Some(2), &waiting("00000002", "7")), 1, "the same on another timeline");
        assert_eq!(still(104, None, &unseen), 0, "it starts again");
    }

    #[test]
    fn one_record_that_takes_long_moves_as_long_as_it_writes() {
        let begun = Instant::now();
        let mut movement = Movement::none_yet();
        let mut still = |minutes: u32, startup: &Startup| {
            movement.look(Some(Lsn::new(1)), startup, begun + MINUTE * minutes).as_secs() / 60
        };
        assert_eq!(still(0, &recovering("5", 7, 0)), 0);
        assert_eq!(still(8, &recovering("5", 7, 3 << 20)), 0);
        assert_eq!(still(16, &recovering("5", 7, 6 << 20)), 0);
        assert_eq!(still(26, &recovering("5", 7, (6 << 20) + 2000)), 10, "messages only");
        assert_eq!(still(27, &recovering("5", 8, 9 << 20)), 11, "another process is not further");
        assert_eq!(still(28, &waiting("00000001", "5")), 12);
        assert_eq!(still(29, &waiting("00000001", "5")), 13, "one that waits");
        assert_eq!(still(30, &Startup::unseen()), 14, "nothing runs");
    }
}
