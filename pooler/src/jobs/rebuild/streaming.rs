//! Waiting until a standby streams from the recorded primary.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Code, DatabaseName, Expected, JobError, Pooler, Refusal, Role, check_standby_source};
use cellar_postgres::{InstanceFacts, PostmasterState, Probe, running};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::movement::{Movement, Startup};
use crate::peers::{PrimaryLook, look_at_primary};
use tokio::time::Instant;

/// How often the standby is asked at first.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is asked when that takes long: a replay of hours is not asked fifty times a second.
const LAST_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long one WAL receiver must stream, by its primary's word, too, where the primary may still show the receiver before
/// it. A receiver calls itself streaming before its primary has let it stream; one that may not, for instance because its
/// replication slot does not exist, ends within milliseconds.
const STREAMING_TIME: Duration = Duration::from_millis(100);

/// How often the primary is asked whether it has noticed the end of the old instance.
const FAREWELL_INTERVAL: Duration = Duration::from_millis(200);

/// Whom a primary that shows this cell as streaming may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jobs) enum Shown {
    /// The new instance: since the old one has ended, the primary has been seen without this cell.
    New,
    /// Perhaps the old instance, of whose end the primary may not know yet.
    Either,
}

impl Shown {
    /// How long a WAL receiver must stream by both words to count.
    fn streaming_time(self) -> Duration {
        match self {
            Self::New => Duration::ZERO,
            Self::Either => STREAMING_TIME,
        }
    }
}

/// While this cell's instance is stopped: waits until the primary does not show it as streaming any more. What it shows
/// from then on is the new instance. Without an answer of the primary it does not return.
pub(super) async fn wait_until_gone(agent: &Agent) {
    loop {
        let primary = agent.leader().and_then(|leader| Some((agent.card_of(&leader.cell)?, leader)));
        if let Some((card, leader)) = primary
            && let Ok(look) = look_at_primary(agent, &card, &leader).await
            && !look.standbys.contains(&agent.cell.to_string())
        {
            return;
        }
        tokio::time::sleep(FAREWELL_INTERVAL).await;
    }
}

/// Waits until this cell's standby streams from the recorded primary.
///
/// # Errors
/// When it does not and has not come any further for `patience`, when no primary is recorded, or when the job must end
/// early.
pub(in crate::jobs) async fn wait_until_streaming(
    context: &JobContext<'_>,
    shown: Shown,
    patience: Duration,
) -> Result<(), JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    let begun = Instant::now();
    let mut movement = Movement::none_yet();
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    // The WAL receiver that streams, and since when.
    let mut streaming: Option<(i32, Instant)> = None;
    loop {
        let postmaster = running(Path::new(&card.data_directory)).ok().flatten();
        let mut replayed = None;
        let looked = if postmaster.as_ref().is_some_and(|it| it.state == PostmasterState::Starting) {
            // It would refuse the question, with a process of its own and a line in its log.
            Err("its PostgreSQL takes no connections yet".to_owned())
        } else {
            match probe.facts().await.inspect(|facts| replayed = facts.replay_lsn) {
                Ok(facts) => match check_streams(agent, &card, &facts).await? {
                    Ok(()) => Ok(receiver_of(&facts)),
                    Err(refusal) => Err(refusal.message),
                },
                Err(error) => Err(error.to_string()),
            }
        };
        let (receiver, why_not) = match looked {
            Ok(receiver) => (receiver, String::new()),
            Err(why_not) => (None, why_not),
        };
        streaming = match (receiver, streaming) {
            (Some(pid), Some((before, since))) if pid == before => Some((pid, since)),
            (found, _) => found.map(|pid| (pid, Instant::now())),
        };
        // The receiver was seen before the primary was asked. It must have outlived the answer.
        if let Some((pid, since)) = streaming
            && since.elapsed() >= shown.streaming_time()
            && probe.facts().await.is_ok_and(|facts| receiver_of(&facts) == Some(pid))
        {
            return Ok(());
        }
        context.check_interrupted()?;
        let startup = postmaster.map_or_else(Startup::unseen, |postmaster| Startup::of(postmaster.pid));
        if movement.look(replayed, &startup, std::time::Instant::now()) > patience {
            return Err(stands_still(patience, &database.name, &why_not).into());
        }
        tokio::time::sleep(poll_interval(begun.elapsed())).await;
    }
}

/// How long to wait before the next look of a wait that has lasted so long: a small part of it.
fn poll_interval(waited: Duration) -> Duration {
    (waited / 20).clamp(FIRST_POLL_INTERVAL, LAST_POLL_INTERVAL)
}

/// The WAL receiver of a standby that streams.
fn receiver_of(facts: &InstanceFacts) -> Option<i32> {
    let receiver = facts.wal_receiver.as_ref().filter(|_| facts.role == Role::Standby)?;
    facts.streaming_from().map(|_| receiver.pid)
}

/// The standby is whole, whatever it waits for.
fn stands_still(patience: Duration, database: &DatabaseName, why_not: &str) -> JobError {
    let waits = if why_not.is_empty() { "it does not stream" } else { why_not };
    Refusal::new(
        Code::PostgresFailed,
        format!(
            "the standby of {database} is whole, and for {} s it has come no further: {waits}",
            patience.as_secs()
        ),
    )
    .hint("it goes on by itself as soon as it can, and needs no other rebuild: `cellar status` shows when it streams, and the cell's log/postgres.log what it waits for. Only when that log says that a \"requested WAL segment has already been removed\" it waits for what is nowhere: then take a full backup of the primary, and rebuild again")
    .into()
}

/// Whether the standby streams from the recorded primary, and from a position that the primary has reached.
///
/// Streaming alone proves too little: PostgreSQL also calls it streaming when a standby has gone past the point where
/// the primary was promoted, and waits for WAL that never comes.
async fn check_streams(
    agent: &Agent,
    card: &Pooler,
    facts: &InstanceFacts,
) -> Result<Result<(), Refusal>, Refusal> {
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let Some(primary) = agent.card_of(&leader.cell) else {
        let message = format!("the recorded primary {} is not in the topology", leader.cell);
        return Ok(Err(Refusal::new(Code::NoPrimary, message)));
    };
    let mut observed = facts.to_observed();
    let expected = Expected {
        cell: &agent.cell,
        data_directory: &card.data_directory,
        system_identifier: leader.system_identifier.unwrap_or(observed.system_identifier),
        timeline: leader.term,
        primary: &leader.cell,
        primary_address: (primary.host.as_str(), primary.postgres_port),
        max_lag_bytes: u64::MAX,
        other_primaries: &[],
    };
    // While the standby itself denies it, the primary need not be asked.
    if let Err(refusal) = check_standby_source(&expected, &observed) {
        return Ok(Err(refusal));
    }
    Ok(match look_at_primary(agent, &primary, &leader).await {
        // A receiver that is not let in calls itself streaming for a moment, too.
        Ok(look) if !look.standbys.contains(&agent.cell.to_string()) => {
            let message = format!("the primary in {} does not send to {}", leader.cell, agent.cell);
            Err(Refusal::new(Code::WrongPrimary, message))
        }
        Ok(PrimaryLook { position, .. }) => {
            observed.primary_lsn = Some(position);
            check_standby_source(&expected, &observed)
        }
        Err(refusal) => Err(refusal),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_is_asked_often_at_first_and_less_often_when_it_takes_long() {
        assert_eq!(poll_interval(Duration::ZERO), FIRST_POLL_INTERVAL);
        assert_eq!(poll_interval(Duration::from_secs(1)), Duration::from_millis(50));
        assert_eq!(poll_interval(Duration::from_secs(3600)), LAST_POLL_INTERVAL);
    }
}
