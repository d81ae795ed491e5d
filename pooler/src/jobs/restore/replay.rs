//! Following the recovery of a private copy to its target, and promoting it there.
//!
//! Recovery pauses at its target and waits at the end of the WAL. So what was reached is checked before anything is
//! decided.

use std::time::{Duration, Instant};

use cellar_model::{
    Code, JobError, Lsn, Progress, Refusal, Segment, SegmentSize, Target, Timeline, parse_timestamp,
};
use cellar_postgres::{PostmasterState, RecoverySettings, RecoveryTarget, promote, query, running};
use cellar_system::Process;
use jiff::Timestamp;

use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::repository::tool_failure::{last_lines, read_log};

/// How often a recovery is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long the first start may block. Recovery goes on behind it.
const START_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long recovery may wait for WAL that should be there. Our settings let PostgreSQL ask again every second.
const WAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a promotion may take; it ends with a checkpoint.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Where a recovery goes.
#[derive(Debug, Clone)]
pub(crate) struct ReplayGoal {
    /// Where it stops.
    pub(crate) target: Target,
    /// The timeline that it follows.
    pub(crate) timeline: Timeline,
    /// How far it must come when the target does not stop it; none when all WAL that there is suffices.
    pub(crate) end: Option<WalEnd>,
    /// The size of WAL segments.
    pub(crate) size: SegmentSize,
    /// Whether the copy keeps WAL to be archived once it is a member.
    pub(crate) archive_mode: bool,
}

/// What a recovery reached.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    /// The end of the last record that was replayed.
    pub(crate) lsn: Lsn,
    /// The time of the last commit that was replayed.
    pub(crate) last_commit: Option<Timestamp>,
    /// Why recovery stopped.
    pub(crate) stopped: String,
    /// When the copy could first be read.
    pub(crate) readable: Instant,
    /// Whether recovery is paused at its target, rather than waiting at the end of the WAL.
    pub(crate) paused: bool,
}

/// How far a recovery must come when no target stops it before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WalEnd {
    /// To the end of this segment: it was archived whole by a primary that was then stopped.
    Whole(u64),
    /// Into this segment, the newest that the archive has.
    Within(u64),
}

impl WalEnd {
    fn is_reached(self, at: Lsn, size: SegmentSize) -> bool {
        match self {
            Self::Whole(number) => at >= size.start_of(number + 1),
            Self::Within(number) => at > size.start_of(number),
        }
    }
}

/// What one look at a recovery shows.
struct ReplayState {
    in_recovery: bool,
    paused: bool,
    waits_for_wal: bool,
    lsn: Lsn,
    last_commit: Option<Timestamp>,
}

/// Reads a [`ReplayState`].
///
/// `pg_stat_activity` shows what the startup process waits for. `RecoveryRetrieveRetryInterval` is the wait between
/// two attempts to get WAL that is neither in the archive nor in `pg_wal` (PostgreSQL 13 and later). The functions
/// that raise an error outside of recovery stand in a branch that is not evaluated there.
const REPLAY_STATE_QUERY: &str = "SELECT s.recovers, CASE WHEN s.recovers THEN pg_get_wal_replay_pause_state() = 'paused' END, \
    coalesce((SELECT wait_event = 'RecoveryRetrieveRetryInterval' FROM pg_stat_activity WHERE backend_type = 'startup'), false), \
    pg_last_wal_replay_lsn()::text, \
    to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') \
    FROM (SELECT pg_is_in_recovery() AS recovers) s";

impl ReplayState {
    fn read(rows: &[Vec<Option<String>>]) -> Option<Self> {
        let [in_recovery, paused, waits, lsn, commit] = rows.first()?.as_slice() else { return None };
        let is_true = |value: &Option<String>| value.as_deref() == Some("t");
        Some(Self {
            in_recovery: is_true(in_recovery),
            paused: is_true(paused),
            waits_for_wal: is_true(waits),
            lsn: lsn.as_deref()?.parse().ok()?,
            last_commit: commit.as_deref().and_then(|text| parse_timestamp(text).ok()),
        })
    }
}

/// Since when a recovery has made no progress.
struct Stall {
    lsn: Lsn,
    since: Instant,
    /// How often in a row the same position was seen while PostgreSQL waited for WAL.
    looks: u32,
}

impl Stall {
    fn none_yet() -> Self {
        Self { lsn: Lsn::new(0), since: Instant::now(), looks: 0 }
    }

    fn update(&mut self, state: &ReplayState) {
        if state.lsn > self.lsn || !state.waits_for_wal {
            *self = Self { lsn: state.lsn, since: Instant::now(), looks: 0 };
        } else {
            self.looks += 1;
        }
    }
}

/// What to do after one look at a recovery.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Look again.
    Continue,
    /// It is where it should be, for this reason.
    Reached(String),
    /// All WAL was replayed, and the target was not met.
    TargetUnreachable,
    /// WAL that should be there has not come.
    WalMissing,
}

fn decide(goal: &ReplayGoal, state: &ReplayState, stall: &Stall) -> Verdict {
    let target = &goal.target;
    if state.paused {
        return Verdict::Reached(format!("{target} was reached"));
    }
    // Seen twice at the same position: PostgreSQL asked for WAL in between, and there was none.
    if stall.looks < 2 {
        return Verdict::Continue;
    }
    let at_end = goal.end.is_none_or(|end| end.is_reached(state.lsn, goal.size));
    match target {
        Target::Latest {} if at_end => Verdict::Reached("all WAL was replayed".to_owned()),
        Target::Time(_) if at_end => Verdict::Reached(format!(
            "all WAL was replayed: nothing was committed between the end and {target}"
        )),
        _ if at_end && goal.end.is_some() => Verdict::TargetUnreachable,
        _ if stall.since.elapsed() > WAL_TIMEOUT => Verdict::WalMissing,
        _ => Verdict::Continue,
    }
}

fn recovery_target(target: &Target) -> RecoveryTarget {
    match target {
        Target::Time(time) => RecoveryTarget::Time(time.strftime("%Y-%m-%d %H:%M:%S%.6f+00").to_string()),
        Target::Lsn(lsn) => RecoveryTarget::Lsn(*lsn),
        Target::Backup(_) => RecoveryTarget::Immediate,
        // The plan of a restore has resolved a name or a transaction to a position.
        Target::Latest {} | Target::Name(_) | Target::Xid(_) => RecoveryTarget::None,
    }
}

impl PrivateInstance<'_> {
    /// Starts the copy and follows its recovery to the target, or to the end of the WAL.
    pub(crate) async fn replay(
        &self,
        context: &mut JobContext<'_>,
        goal: &ReplayGoal,
    ) -> Result<Reached, JobFailure> {
        self.start_recovery(goal).await?;
        let mut first_readable = None;
        let mut awaited: Option<(String, Instant)> = None;
        let mut stall = Stall::none_yet();
        loop {
            context.check_interrupted()?;
            let postmaster = match running(&self.data) {
                Ok(Some(postmaster)) => postmaster,
                Ok(None) => return Err(self.died().into()),
                Err(error) => return Err(self.failed("looking at the copy", &error).into()),
            };
            let state = match postmaster.state {
                PostmasterState::Ready => self.replay_state().await.unwrap_or_default(),
                // A query before it is ready would be refused, and every refusal is a line in its log.
                _ => None,
            };
            let phase = if state.is_some() { "recovering" } else { "recovering to a consistent state" };
            context.periodic_progress(Progress { phase: phase.to_owned(), ..Progress::default() }).await;
            let Some(state) = state else {
                let segment = awaited_segment(postmaster.pid);
                if awaited.as_ref().map(|(segment, _)| segment) != segment.as_ref() {
                    awaited = segment.map(|segment| (segment, Instant::now()));
                }
                if let Some((segment, since)) = &awaited
                    && since.elapsed() > WAL_TIMEOUT
                {
                    return Err(self.wal_missing(segment).into());
                }
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            };
            let readable = *first_readable.get_or_insert_with(Instant::now);
            if !state.in_recovery {
                return Err(self.failed("recovering", &"the copy ended its recovery by itself").into());
            }
            if !state.paused {
                stall.update(&state);
            }
            match decide(goal, &state, &stall) {
                Verdict::Continue => tokio::time::sleep(POLL_INTERVAL).await,
                Verdict::Reached(stopped) => {
                    let (lsn, last_commit, paused) = (state.lsn, state.last_commit, state.paused);
                    return Ok(Reached { lsn, last_commit, stopped, readable, paused });
                }
                Verdict::TargetUnreachable => {
                    let message = format!("the WAL ends at {}, before {}", state.lsn, goal.target);
                    return Err(Refusal::new(Code::TargetUnreachable, message)
                        .hint("plan again: `cellar restore --plan`")
                        .into());
                }
                Verdict::WalMissing => {
                    let number = goal.size.number_of(state.lsn);
                    let segment = Segment { timeline: goal.timeline, number };
                    return Err(self.wal_missing(&goal.size.file_name(segment)).into());
                }
            }
        }
    }

    async fn start_recovery(&self, goal: &ReplayGoal) -> Result<(), JobError> {
        let settings = RecoverySettings { target: recovery_target(&goal.target), timeline: goal.timeline };
        // With this file PostgreSQL waits at the end of the WAL rather than promote itself.
        std::fs::write(self.data.join("standby.signal"), "")
            .map_err(|error| self.failed("preparing the recovery", &error))?;
        self.start_with(&self.config(Some(settings), goal.archive_mode), START_TIMEOUT).await
    }

    async fn replay_state(&self) -> Result<Option<ReplayState>, cellar_postgres::PostgresError> {
        let rows = query(&self.endpoint(), REPLAY_STATE_QUERY, QUERY_TIMEOUT).await?;
        Ok(ReplayState::read(&rows))
    }

    fn wal_missing(&self, segment: &str) -> JobError {
        let refusal = Refusal::new(
            Code::WalMissing,
            format!(
                "recovery waited {} s for WAL segment {segment}, which could not be fetched from the archive",
                WAL_TIMEOUT.as_secs()
            ),
        )
        .hint("see that the repo can be reached, and plan again (`cellar restore --plan`): it names what is missing");
        JobError { tool_output: last_lines(&read_log(&self.log)), ..refusal.into() }
    }

    /// Ends the recovery where it is and makes the copy writable, on a new timeline.
    pub(crate) async fn promote(&self, reached: &Reached) -> Result<(), JobError> {
        // Resuming a recovery that is paused at its target ends it at once. A promotion would be noticed up to a second
        // later.
        let resumed = reached.paused
            && query(&self.endpoint(), "SELECT pg_wal_replay_resume()", QUERY_TIMEOUT).await.is_ok();
        if !resumed {
            let promoted = promote(&self.tools, &self.data, PROMOTION_TIMEOUT).await;
            return promoted.map_err(|error| self.failed("promoting the copy", &error));
        }
        let deadline = Instant::now() + PROMOTION_TIMEOUT;
        while Instant::now() < deadline {
            match self.replay_state().await {
                Ok(Some(state)) if !state.in_recovery => return Ok(()),
                Err(_) if matches!(running(&self.data), Ok(None)) => return Err(self.died()),
                Ok(_) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
        let waited = format!("it still recovers after {} s", PROMOTION_TIMEOUT.as_secs());
        Err(self.failed("promoting the copy", &waited))
    }
}

/// The segment that a server's startup process waits for, from its process title: `startup waiting for 0000…`.
///
/// The title is all that can be seen before the server accepts connections.
fn awaited_segment(postmaster: i32) -> Option<String> {
    Process::find(postmaster)?.children().iter().find_map(|child| {
        let arguments = child.arguments();
        let (_, segment) = arguments.first()?.split_once("startup waiting for ")?;
        Some(segment.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lsn: Lsn, paused: bool) -> ReplayState {
        ReplayState { in_recovery: true, paused, waits_for_wal: true, lsn, last_commit: None }
    }

    fn goal(target: Target, end: Option<WalEnd>) -> ReplayGoal {
        let size = SegmentSize::default();
        ReplayGoal { target, timeline: Timeline::new(1), end, size, archive_mode: false }
    }

    #[test]
    fn wal_ends_after_a_whole_segment_or_anywhere_in_the_newest() {
        let size = SegmentSize::default();
        assert!(WalEnd::Whole(3).is_reached(size.start_of(4), size));
        assert!(!WalEnd::Whole(3).is_reached(Lsn::new(size.start_of(4).bytes() - 8), size));
        assert!(WalEnd::Within(3).is_reached(Lsn::new(size.start_of(3).bytes() + 40), size));
        assert!(!WalEnd::Within(3).is_reached(size.start_of(3), size));
    }

    #[test]
    fn replay_ends_at_a_pause_or_after_two_looks_at_the_end_of_the_wal() {
        let size = SegmentSize::default();
        let at = Lsn::new(size.start_of(3).bytes() + 40);
        let latest = goal(Target::Latest {}, Some(WalEnd::Within(3)));
        let mut stall = Stall::none_yet();
        assert!(matches!(decide(&latest, &state(at, true), &stall), Verdict::Reached(_)));
        for looks in 0..3 {
            stall.update(&state(at, false));
            assert_eq!(stall.looks, looks);
            let reached = matches!(decide(&latest, &state(at, false), &stall), Verdict::Reached(_));
            assert_eq!(reached, looks == 2);
        }
        let beyond = goal(Target::Lsn(Lsn::new(u64::MAX)), Some(WalEnd::Within(3)));
        assert_eq!(decide(&beyond, &state(at, false), &stall), Verdict::TargetUnreachable);
        let unarchived = goal(Target::Latest {}, Some(WalEnd::Within(4)));
        assert_eq!(decide(&unarchived, &state(at, false), &stall), Verdict::Continue);
    }
}
