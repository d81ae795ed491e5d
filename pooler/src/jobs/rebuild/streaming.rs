//! Waiting until a standby streams from the recorded primary.

use std::time::Duration;

use cellar_model::{Code, Expected, Pooler, Refusal, Role, check_standby_source};
use cellar_postgres::{InstanceFacts, Probe};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::rebuild::failed;
use crate::peers::primary_position;
use tokio::time::Instant;

/// How often the standby is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

/// How long one WAL receiver must stream. PostgreSQL calls it streaming before its primary has let it stream; one that
/// may not, for instance because its replication slot does not exist, ends within milliseconds, and the next one comes
/// after `wal_retrieve_retry_interval` (1 s).
const STREAMING_TIME: Duration = Duration::from_millis(600);

/// Waits until this cell's standby streams from the recorded primary.
///
/// # Errors
/// When it does not within `timeout`, when no primary is recorded, or when the job must end early.
pub(super) async fn wait_until_streaming(
    context: &JobContext<'_>,
    timeout: Duration,
) -> Result<(), JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    let deadline = Instant::now() + timeout;
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    // The WAL receiver that streams, and since when.
    let mut streaming: Option<(i32, Instant)> = None;
    loop {
        let looked = match probe.facts().await {
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
        if Instant::now() > deadline {
            let seconds = timeout.as_secs();
            let waited = format!("waiting {seconds} s for the new standby of {} to stream", database.name);
            return Err(failed(&waited, &why_not).into());
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
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
        Ok(position) => {
            observed.primary_lsn = Some(position);
            check_standby_source(&expected, &observed)
        }
        Err(refusal) => Err(refusal),
    })
}
