//! Waiting until a standby streams from the recorded primary.

use std::time::Duration;

use cellar_model::{Code, Expected, Pooler, Refusal, Role, check_standby_source};
use cellar_postgres::{InstanceFacts, Probe};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::rebuild::failed;
use crate::peers::primary_position;

/// How often the standby is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(40);

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
    let deadline = tokio::time::Instant::now() + timeout;
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    loop {
        let why_not = match probe.facts().await {
            Ok(facts) => match check_streams(agent, &card, &facts).await? {
                Ok(()) if facts.role == Role::Standby => return Ok(()),
                Ok(()) => String::new(),
                Err(refusal) => refusal.message,
            },
            Err(error) => error.to_string(),
        };
        context.check_interrupted()?;
        if tokio::time::Instant::now() > deadline {
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
