//! Checking, before a backup begins, that this cell's instance is the one to back up.

use std::time::Duration;

use cellar_model::{
    BackupParams, BackupSource, CellName, Code, Expected, Pooler, RECONNECT_TIMEOUT, Refusal, Role,
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

/// Checks the source, and repeats that for up to [`RECONNECT_TIMEOUT`] while a primary that has just started again is being
/// found by its standbys.
///
/// # Errors
/// When the instance must not be backed up, or the job must end early.
pub(super) async fn wait_for_source(
    context: &JobContext<'_>,
    card: &Pooler,
    params: &BackupParams,
) -> Result<BackupOrigin, JobFailure> {
    let begun = tokio::time::Instant::now();
    loop {
        let refusal = match check_source(context.agent, card, params).await {
            Ok(origin) => return Ok(origin),
            Err(refusal) => refusal,
        };
        let may_pass_soon = matches!(refusal.code, Code::NoPrimary | Code::WrongPrimary);
        if !may_pass_soon || begun.elapsed() >= RECONNECT_TIMEOUT {
            return Err(refusal.into());
        }
        tracing::debug!(%refusal, "checking the source again");
        context.pause(RETRY_INTERVAL).await?;
    }
}

/// Asks the live instance for its identity, and whether it is what the topology says.
async fn check_source(agent: &Agent, card: &Pooler, params: &BackupParams) -> Result<BackupOrigin, Refusal> {
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
    } else {
        // The primary is asked after the standby, so that a healthy standby can only be behind it.
        observed.primary_lsn = Some(peers::primary_position(agent, &primary, &leader).await?);
        check_standby_source(&expected, &observed)?;
        check_not_silent(&facts)?;
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
