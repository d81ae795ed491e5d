//! Following the recovery of a private copy to its target, and promoting it there.
//!
//! Recovery pauses at its target and waits at the end of the WAL. So what was reached is checked before anything is
//! decided.

use std::time::{Duration, Instant};

use cellar_model::{
    Code, JobError, Lsn, Progress, Refusal, Segment, SegmentSize, Target, Timeline, parse_timestamp,
};
use cellar_postgres::{PostmasterState, RecoveryTarget, RequiredSettings, promote, query, running};
use jiff::Timestamp;

use crate::instance::superuser::{REMEDY, is_refusal};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::movement::{Movement, Startup, StartupTitle};
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::jobs::restore::wal_end::{Least, WalEnd};
use crate::repository::tool_failure::{last_lines, read_log};

/// How often a recovery is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How often a promotion is looked at. It takes a tenth of a second, and the database is down meanwhile.
const PROMOTION_INTERVAL: Duration = Duration::from_millis(20);

/// How long the first start may block. Recovery goes on behind it.
const START_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// How long recovery may wait for WAL that should be there. Our settings let PostgreSQL ask again every second.
const WAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long recovery may show no movement at all. To fetch one segment from a slow store takes less.
const STANDSTILL_TIMEOUT: Duration = Duration::from_secs(600);

/// How often a copy is started: once more for each change of settings that it meets. Each costs a restart on the real
/// primary, too.
const MAX_STARTS: u32 = 20;

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
    /// What it must come to besides.
    pub(crate) least: Option<Least>,
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

/// Since when a recovery waits for WAL at one position.
struct Stall {
    lsn: Lsn,
    since: Instant,
    /// How often the same position was seen while PostgreSQL waited for WAL.
    looks: u32,
}

impl Stall {
    fn none_yet() -> Self {
        Self { lsn: Lsn::new(0), since: Instant::now(), looks: 0 }
    }

    fn update(&mut self, state: &ReplayState) {
        // Between two waits PostgreSQL asks for the segment again. That is no progress.
        if state.lsn > self.lsn || self.looks == 0 && !state.waits_for_wal {
            *self = Self { lsn: state.lsn, since: Instant::now(), looks: 0 };
        } else if state.waits_for_wal {
            self.looks += 1;
        }
    }
}

/// For how long a copy that cannot be read yet has waited for one segment that nobody is fetching.
struct Awaited {
    segment: String,
    waited: Duration,
    looked: Instant,
}

impl Awaited {
    /// The wait after another look. The title of the startup process names the segment on each of the timelines that
    /// it may be on in turn, so only its number counts; and it names none for a moment. It also names the segment that is
    /// being fetched, which takes as long as it takes: `STANDSTILL_TIMEOUT` bounds that.
    fn update(before: Option<Self>, startup: &Startup, now: Instant) -> Option<Self> {
        match &startup.title {
            StartupTitle::Waiting(segment) => match before {
                Some(before) if before.segment.get(8..) == segment.get(8..) => {
                    let since =
                        if startup.fetches { Duration::ZERO } else { now.duration_since(before.looked) };
                    Some(Self { waited: before.waited + since, looked: now, ..before })
                }
                _ => Some(Self { segment: segment.clone(), waited: Duration::ZERO, looked: now }),
            },
            StartupTitle::Recovering(_) => None,
            StartupTitle::Other => before,
        }
    }
}

/// What to do after one look at a recovery.
#[derive(Debug, PartialEq, Eq)]
enum ReplayStep {
    /// Look again.
    Continue,
    /// It is where it should be, for this reason.
    Reached(String),
    /// All WAL was replayed, and the target was not met.
    TargetUnreachable,
    /// WAL that should be there has not come.
    WalMissing,
}

fn decide(goal: &ReplayGoal, state: &ReplayState, stall: &Stall) -> ReplayStep {
    let target = &goal.target;
    if state.paused {
        return ReplayStep::Reached(format!("{target} was reached"));
    }
    // Seen twice at the same position: PostgreSQL has replayed what it had, asked for more, and there was none.
    if stall.looks < 2 || !state.waits_for_wal {
        return ReplayStep::Continue;
    }
    let at_end = goal.end.is_none_or(|end| end.is_reached(state.lsn, goal.size))
        && goal.least.as_ref().is_none_or(|least| state.lsn >= least.lsn);
    match target {
        Target::Latest {} if at_end => ReplayStep::Reached("all WAL was replayed".to_owned()),
        Target::Time(_) if at_end => ReplayStep::Reached(format!(
            "all WAL was replayed: nothing was committed between the end and {target}"
        )),
        _ if at_end && goal.end.is_some() => ReplayStep::TargetUnreachable,
        _ if stall.since.elapsed() > WAL_TIMEOUT => ReplayStep::WalMissing,
        _ => ReplayStep::Continue,
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

/// How a recovery that was followed ended.
enum Followed {
    /// It is where it should be.
    There(Reached),
    /// The WAL demands greater settings than the copy was started with.
    NeedsMore,
}

impl PrivateInstance<'_> {
    /// Starts the copy and follows its recovery to the target, or to the end of the WAL.
    pub(crate) async fn replay(
        &self,
        context: &mut JobContext<'_>,
        goal: &ReplayGoal,
    ) -> Result<Reached, JobFailure> {
        let begun = Instant::now();
        for _ in 0..MAX_STARTS {
            let target = recovery_target(&goal.target);
            let followed =
                match self.start_recovery(target, goal.timeline, goal.archive_mode, START_TIMEOUT).await {
                    Ok(replays) => self.follow(context, goal, &replays).await,
                    Err(error) => Err(error.into()),
                };
            match followed {
                Ok(Followed::There(reached)) => return Ok(reached),
                Ok(Followed::NeedsMore) => {
                    tracing::info!(after = ?begun.elapsed(), "the WAL demands greater settings; the copy starts again");
                    context.unless_interrupted(self.stop()).await??;
                }
                Err(error) => return Err(error),
            }
        }
        Err(self
            .failed("recovering", &format!("the WAL raises settings more than {MAX_STARTS} times"))
            .into())
    }

    /// Starts the copy as a primary with this `archive_command`, and follows it until it has replayed its own WAL.
    pub(crate) async fn finish(
        &self,
        context: &JobContext<'_>,
        archive_command: &str,
    ) -> Result<(), JobFailure> {
        self.start(archive_command, START_TIMEOUT).await?;
        let mut movement = Movement::none_yet();
        loop {
            let postmaster = match running(&self.data) {
                Ok(Some(postmaster)) => postmaster,
                Ok(None) => return Err(self.died().into()),
                Err(error) => return Err(self.failed("looking at the data", &error).into()),
            };
            if postmaster.state == PostmasterState::Ready {
                return Ok(());
            }
            if movement.look_once_begun(None, &Startup::of(postmaster.pid), Instant::now())
                > STANDSTILL_TIMEOUT
            {
                return Err(self.stands_still().into());
            }
            context.pause(POLL_INTERVAL).await?;
        }
    }

    /// The job's error for a recovery that does not move.
    fn stands_still(&self) -> JobError {
        let minutes = STANDSTILL_TIMEOUT.as_secs() / 60;
        let message =
            format!("nothing has moved for {minutes} min: fetching WAL hangs, or the copy is frozen");
        self.failed("recovering", &message)
    }

    async fn follow(
        &self,
        context: &mut JobContext<'_>,
        goal: &ReplayGoal,
        replays: &RequiredSettings,
    ) -> Result<Followed, JobFailure> {
        let mut first_readable = None;
        let mut awaited: Option<Awaited> = None;
        let mut stall = Stall::none_yet();
        let mut movement = Movement::none_yet();
        loop {
            context.check_interrupted()?;
            let postmaster = match running(&self.data) {
                Ok(Some(postmaster)) => postmaster,
                Ok(None) if self.needs_more_than(replays).await => return Ok(Followed::NeedsMore),
                Ok(None) => return Err(self.died().into()),
                Err(error) => return Err(self.failed("looking at the copy", &error).into()),
            };
            let state = match postmaster.state {
                PostmasterState::Ready => match self.replay_state().await {
                    Ok(state) => state,
                    Err(error) if is_refusal(&error) => return Err(self.refused(&error).into()),
                    Err(_) => None,
                },
                // A query before it is ready would be refused, and every refusal is a line in its log.
                _ => None,
            };
            let startup = Startup::of(postmaster.pid);
            let lsn = state.as_ref().map(|state| state.lsn);
            if movement.look_once_begun(lsn, &startup, Instant::now()) > STANDSTILL_TIMEOUT {
                return Err(self.stands_still().into());
            }
            let phase = if state.is_some() { "recovering" } else { "recovering to a consistent state" };
            context.periodic_progress(Progress { phase: phase.to_owned(), ..Progress::default() }).await;
            let Some(state) = state else {
                awaited = Awaited::update(awaited, &startup, Instant::now());
                if let Some(Awaited { segment, waited, .. }) = &awaited
                    && *waited > WAL_TIMEOUT
                {
                    let never_opened = if first_readable.is_none() { self.never_opened() } else { None };
                    return Err(never_opened.unwrap_or_else(|| self.wal_missing(segment)).into());
                }
                tokio::time::sleep(POLL_INTERVAL).await;
                continue;
            };
            if !state.in_recovery {
                // PostgreSQL does not pause at a target where nobody could connect to tell it to go on.
                let never_opened = if first_readable.is_none() { self.never_opened() } else { None };
                let ended = || self.failed("recovering", &"the copy ended its recovery by itself");
                return Err(never_opened.unwrap_or_else(ended).into());
            }
            let readable = *first_readable.get_or_insert_with(Instant::now);
            // A recovery also pauses when it meets settings that are too small, wherever its target is.
            if state.paused && self.needs_more_than(replays).await {
                return Ok(Followed::NeedsMore);
            }
            stall.update(&state);
            match decide(goal, &state, &stall) {
                ReplayStep::Continue => tokio::time::sleep(POLL_INTERVAL).await,
                ReplayStep::Reached(stopped) => {
                    let (lsn, last_commit, paused) = (state.lsn, state.last_commit, state.paused);
                    let reached = Reached { lsn, last_commit, stopped, readable, paused };
                    return Ok(Followed::There(reached));
                }
                ReplayStep::TargetUnreachable => {
                    let message = format!("the WAL ends at {}, before {}", state.lsn, goal.target);
                    return Err(Refusal::new(Code::TargetUnreachable, message)
                        .hint("plan again: `cellar restore --plan`")
                        .into());
                }
                ReplayStep::WalMissing => {
                    let number = goal.size.number_of(state.lsn);
                    let segment = Segment { timeline: goal.timeline, number };
                    let error = self.wal_missing(&goal.size.file_name(segment));
                    let least = goal.least.as_ref().filter(|least| state.lsn < least.lsn);
                    return Err(least.map_or(error.clone(), |least| least.explain(error)).into());
                }
            }
        }
    }

    async fn replay_state(&self) -> Result<Option<ReplayState>, cellar_postgres::PostgresError> {
        let rows = query(&self.endpoint(), REPLAY_STATE_QUERY, QUERY_TIMEOUT).await?;
        Ok(ReplayState::read(&rows))
    }

    /// The job's error for a copy that lets nobody look at it.
    fn refused(&self, error: &cellar_postgres::PostgresError) -> JobError {
        let error = self.failed("looking at the copy, which is as the database was", error);
        JobError {
            hint: format!("{REMEDY}; then take a new backup, or restore to a target after the change"),
            ..error
        }
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
                Ok(_) | Err(_) => tokio::time::sleep(PROMOTION_INTERVAL).await,
            }
        }
        let waited = format!("it still recovers after {} s", PROMOTION_TIMEOUT.as_secs());
        Err(self.failed("promoting the copy", &waited))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(lsn: Lsn, paused: bool) -> ReplayState {
        ReplayState { in_recovery: true, paused, waits_for_wal: true, lsn, last_commit: None }
    }

    fn goal(target: Target, end: Option<WalEnd>) -> ReplayGoal {
        let size = SegmentSize::default();
        ReplayGoal { target, timeline: Timeline::new(1), end, least: None, size, archive_mode: false }
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
        assert!(matches!(decide(&latest, &state(at, true), &stall), ReplayStep::Reached(_)));
        for looks in 0..3 {
            stall.update(&state(at, false));
            assert_eq!(stall.looks, looks);
            let reached = matches!(decide(&latest, &state(at, false), &stall), ReplayStep::Reached(_));
            assert_eq!(reached, looks == 2);
        }
        let beyond = goal(Target::Lsn(Lsn::new(u64::MAX)), Some(WalEnd::Within(3)));
        assert_eq!(decide(&beyond, &state(at, false), &stall), ReplayStep::TargetUnreachable);
        let unarchived = goal(Target::Latest {}, Some(WalEnd::Within(4)));
        assert_eq!(decide(&unarchived, &state(at, false), &stall), ReplayStep::Continue);
    }

    #[test]
    fn asking_for_a_segment_again_does_not_begin_the_wait_again() {
        let size = SegmentSize::default();
        let at = Lsn::new(size.start_of(3).bytes() + 40);
        let unarchived = goal(Target::Latest {}, Some(WalEnd::Within(4)));
        let asks = ReplayState { waits_for_wal: false, ..state(at, false) };
        let mut stall = Stall::none_yet();
        for look in [&state(at, false), &state(at, false), &asks, &state(at, false)] {
            stall.update(look);
        }
        assert_eq!(decide(&unarchived, &state(at, false), &stall), ReplayStep::Continue);
        stall.since -= WAL_TIMEOUT + Duration::from_secs(1);
        stall.update(&asks);
        assert_eq!(decide(&unarchived, &asks, &stall), ReplayStep::Continue, "it may come now");
        stall.update(&state(at, false));
        assert_eq!(decide(&unarchived, &state(at, false), &stall), ReplayStep::WalMissing);
    }

    #[test]
    fn wait_before_consistency_is_for_a_segment_of_any_timeline_that_nobody_is_fetching() {
        let said = |title, fetches| Startup { title, fetches, ..Startup::unseen() };
        let waiting = |name: &str, fetches| said(StartupTitle::Waiting(name.to_owned()), fetches);
        let begun = Instant::now();
        let mut awaited = None;
        for (second, look) in [
            (0, waiting("000000020000000000000005", false)),
            (10, waiting("000000010000000000000005", false)),
            (10, said(StartupTitle::Other, false)),
            (90, waiting("000000010000000000000005", true)),
            (100, waiting("000000020000000000000005", false)),
        ] {
            awaited = Awaited::update(awaited, &look, begun + Duration::from_secs(second));
        }
        let awaited = awaited.unwrap();
        assert_eq!(awaited.waited, Duration::from_secs(20));
        let later = begun + Duration::from_secs(101);
        let next = Awaited::update(Some(awaited), &waiting("000000020000000000000006", false), later);
        let next = next.unwrap();
        assert!(next.waited.is_zero() && next.segment.ends_with('6'));
        let recovering = said(StartupTitle::Recovering("6".to_owned()), false);
        assert!(Awaited::update(Some(next), &recovering, later).is_none());
    }
}
