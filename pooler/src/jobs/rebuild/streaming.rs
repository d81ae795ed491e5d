//! Waiting until a standby streams from the recorded primary.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Code, DatabaseName, Expected, JobError, Pooler, Refusal, Role, check_standby_source};
use cellar_postgres::{InstanceFacts, Probe, running};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::movement::{Movement, Startup};
use crate::peers::primary_position;
use tokio::time::Instant;

/// How often the standby is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

/// How long one WAL receiver must stream, by its primary's word, too. A receiver calls itself streaming before its primary
/// has let it stream; one that may not, for instance because its replication slot does not exist, ends within
/// milliseconds, while the primary may still show the receiver before it.
const STREAMING_TIME: Duration = Duration::from_millis(100);

/// Waits until this cell's standby streams from the recorded primary.
///
/// # Errors
/// When it does not and has not come any further for `patience`, when no primary is recorded, or when the job must end
/// early.
pub(super) async fn wait_until_streaming(
    context: &JobContext<'_>,
    patience: Duration,
) -> Result<(), JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    let mut movement = Movement::none_yet();
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    // The WAL receiver that streams, and since when.
    let mut streaming: Option<(i32, Instant)> = None;
    loop {
        let mut replayed = None;
        let looked = match probe.facts().await.inspect(|facts| replayed = facts.replay_lsn) {
            Ok(facts) => match check_streams(agent, &card, &facts).await? {
                Ok(()) => Ok(facts.wal_receiver.filter(|_| facts.role == Role::Standby)),
                Err(refusal) => Err(refusal.message),
            },
            Err(error) => Err(error.to_string()),
        };
        let (receiver, why_not) = match looked {
            Ok(receiver) => (receiver.map(|receiver| receiver.pid), String::new()),
            Err(why_not) => (None, why_not),
        };
        streaming = match (receiver, streaming) {
            (Some(pid), Some((before, since))) if pid == before => Some((pid, since)),
            (found, _) => found.map(|pid| (pid, Instant::now())),
        };
        if streaming.is_some_and(|(_, since)| since.elapsed() >= STREAMING_TIME) {
            return Ok(());
        }
        context.check_interrupted()?;
        let startup = running(Path::new(&card.data_directory)).ok().flatten();
        let startup = startup.map_or_else(Startup::unseen, |postmaster| Startup::of(postmaster.pid));
        if movement.look(replayed, &startup, std::time::Instant::now()) > patience {
            return Err(stands_still(patience, &database.name, &why_not).into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The standby is whole, whatever it waits for.
fn stands_still(patience: Duration, database: &DatabaseName, why_not: &str) -> JobError {
    let waits = if why_not.is_empty() { "it does not stream" } else { why_not };
    Refusal::new(
        Code::PostgresFailed,
        format!(
            "the new standby of {database} is whole, and for {} s it has come no further: {waits}",
            patience.as_secs()
        ),
    )
    .hint("it goes on by itself as soon as it can, and needs no other rebuild: `cellar status` shows when it streams, and the cell's log/postgres.log what it waits for")
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
    Ok(match primary_position(agent, &primary, &leader).await {
        // A receiver that is not let in calls itself streaming for a moment, too.
        Ok((_, standbys)) if !standbys.contains(&agent.cell.to_string()) => {
            let message = format!("the primary in {} does not send to {}", leader.cell, agent.cell);
            Err(Refusal::new(Code::WrongPrimary, message))
        }
        Ok((position, _)) => {
            observed.primary_lsn = Some(position);
            check_standby_source(&expected, &observed)
        }
        Err(refusal) => Err(refusal),
    })
}
