//! Checking, before a backup begins, that this cell's instance is the one to back up.

use std::time::Duration;

use cellar_model::{
    BackupParams, BackupSource, CellName, Code, Expected, InstanceState, Pooler, Refusal, Role,
    check_primary_source, check_standby_source,
};
use cellar_postgres::{InstanceFacts, Probe};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::peers;
use crate::repository::backup_proof::BackupOrigin;

/// How often a check that may soon pass is repeated.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// How long a standby may have heard nothing from its primary. A primary sends something at least every 10 s (half of
/// `wal_sender_timeout`, for which our settings keep the default of 20 s); after three times that, what the standby
/// knows of the primary is outdated.
const MAX_PRIMARY_SILENCE: Duration = Duration::from_secs(30);

/// How long an instance may take to start. A job may have waited in the queue while its cell was down, and begins as soon
/// as the cell's pooler is back.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a standby that answers may take to stream from the primary: longer than [`cellar_model::RECONNECT_TIMEOUT`],
/// because one that has just started looks into the archive first.
const STREAMING_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the first checkpoint of a primary that was promoted may take: its multipooler asks for it at once, and a large
/// cache on a slow disk takes minutes.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a backup does not begin.
enum Obstacle {
    Refused(Refusal),
    /// pgBackRest would end with an error, because the primary's `pg_control` has the timeline of before its promotion.
    FirstCheckpoint(Refusal),
}

impl From<Refusal> for Obstacle {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

fn first_checkpoint(primary: &CellName) -> Obstacle {
    Obstacle::FirstCheckpoint(
        Refusal::new(
            Code::NoPrimary,
            format!("the primary in {primary} was promoted and has not ended its first checkpoint since"),
        )
        .hint(
            "no backup can be taken before; if it does not end by itself, run CHECKPOINT there and ask again",
        )
        .about("cell", primary),
    )
}

/// For how long a refusal is expected to pass by itself, from when it is counted; none for one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// From the beginning of the job.
    FromTheBeginning(Duration),
    /// From when the instance answered first.
    FromTheFirstAnswer(Duration),
}

fn patience(code: Code, state: InstanceState) -> Option<Patience> {
    match (code, state) {
        (
            Code::CellDown,
            InstanceState::Unknown | InstanceState::Starting | InstanceState::Down | InstanceState::Running,
        ) => Some(Patience::FromTheBeginning(START_TIMEOUT)),
        (Code::NoPrimary | Code::WrongPrimary, _) => Some(Patience::FromTheFirstAnswer(STREAMING_TIMEOUT)),
        _ => None,
    }
}

/// Checks the source, and repeats that while the instance is being started, or a primary that has just started again is
/// being found by its standbys.
///
/// # Errors
/// When the instance must not be backed up, or the job must end early.
pub(super) async fn wait_for_source(
    context: &mut JobContext<'_>,
    card: &Pooler,
    params: &BackupParams,
) -> Result<BackupOrigin, JobFailure> {
    let begun = tokio::time::Instant::now();
    let mut answered = None;
    loop {
        let (refusal, of_refusal, what) = match check_source(context.agent, card, params).await {
            Ok(origin) => return Ok(origin),
            Err(Obstacle::FirstCheckpoint(refusal)) => {
                let limit = Patience::FromTheBeginning(CHECKPOINT_TIMEOUT);
                (refusal, Some(limit), "the first checkpoint of the primary")
            }
            Err(Obstacle::Refused(refusal)) => {
                let state = context.agent.report.borrow().state;
                let what = if refusal.code == Code::CellDown { "its instance" } else { "it to stream" };
                let limit = patience(refusal.code, state);
                (refusal, limit, what)
            }
        };
        let (since, limit) = match of_refusal {
            Some(Patience::FromTheBeginning(limit)) => (begun, limit),
            Some(Patience::FromTheFirstAnswer(limit)) => {
                (*answered.get_or_insert_with(tokio::time::Instant::now), limit)
            }
            None => return Err(refusal.into()),
        };
        if since.elapsed() >= limit {
            return Err(refusal.into());
        }
        tracing::debug!(%refusal, "checking the source again");
        context.progress(&format!("waiting for {what}")).await;
        context.pause(RETRY_INTERVAL).await?;
    }
}

/// Asks the live instance for its identity, and whether it is what the topology says.
async fn check_source(agent: &Agent, card: &Pooler, params: &BackupParams) -> Result<BackupOrigin, Obstacle> {
    let leader = agent.leader().ok_or_else(|| {
        Refusal::new(Code::NoPrimary, "no primary is recorded").hint("look at `cellar status`")
    })?;
    let identity = leader
        .system_identifier
        .ok_or_else(|| Refusal::new(Code::NoPrimary, "the database is still being created"))?;
    let primary = agent.card_of(&leader.cell).ok_or_else(|| {
        Refusal::new(Code::NoPrimary, format!("the recorded primary {} is not in the topology", leader.cell))
    })?;
    // A probe of its own, not what the supervisor saw a moment ago.
    let mut probe = Probe::new(agent.endpoint(card), PROBE_TIMEOUT);
    let facts = probe.facts().await.map_err(|error| {
        Refusal::new(Code::CellDown, format!("the instance of cell {} does not answer: {error}", agent.cell))
            .hint("look at `cellar status`")
    })?;
    let mut observed = facts.to_observed();
    let others: Vec<CellName> =
        agent.mirror.view().snapshot().other_primaries(&agent.database, Some(&leader.cell));
    let expected = Expected {
        cell: &agent.cell,
        data_directory: &card.data_directory,
        system_identifier: identity,
        timeline: leader.term,
        primary: &leader.cell,
        primary_address: (&primary.host, primary.postgres_port),
        max_lag_bytes: params.max_lag_bytes,
        other_primaries: &others,
    };
    let from_primary = params.allow_primary && observed.role == Role::Primary;
    if from_primary {
        check_primary_source(&expected, &observed)?;
        if facts.awaits_first_checkpoint() {
            return Err(first_checkpoint(&agent.cell));
        }
    } else {
        // The primary is asked after the standby, so that a healthy standby can only be behind it.
        let look = peers::look_at_primary(agent, &primary, &leader).await?;
        observed.primary_lsn = Some(look.position);
        check_standby_source(&expected, &observed)?;
        check_not_silent(&facts)?;
        if look.awaits_first_checkpoint {
            return Err(first_checkpoint(&leader.cell));
        }
    }
    Ok(BackupOrigin {
        claimed: BackupSource {
            cell: agent.cell.clone(),
            data_directory: observed.data_directory,
            system_identifier: observed.system_identifier,
            timeline: observed.timeline,
            replay_lsn: observed.replay_lsn,
            files_from_source: 0,
            files_from_primary: 0,
            verified: false,
        },
        primary: (!from_primary).then_some(primary),
    })
}

fn check_not_silent(facts: &InstanceFacts) -> Result<(), Refusal> {
    let age = facts.wal_receiver.as_ref().and_then(|receiver| receiver.last_message_age);
    match age {
        Some(age) if age > MAX_PRIMARY_SILENCE => Err(Refusal::new(
            Code::WrongPrimary,
            format!("the standby has heard nothing from its primary for {} s", age.as_secs()),
        )
        .hint("look at the primary and the network between the cells")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_waits_for_an_instance_that_starts_and_not_for_one_that_cannot() {
        for state in [InstanceState::Unknown, InstanceState::Starting, InstanceState::Down] {
            assert_eq!(patience(Code::CellDown, state), Some(Patience::FromTheBeginning(START_TIMEOUT)));
        }
        assert_eq!(patience(Code::CellDown, InstanceState::Broken), None);
        let streaming = Some(Patience::FromTheFirstAnswer(STREAMING_TIMEOUT));
        assert_eq!(patience(Code::WrongPrimary, InstanceState::Running), streaming);
        assert_eq!(patience(Code::TwoPrimaries, InstanceState::Running), None);
    }
}
