//! What the instance answers now, for other poolers and for multiadmin.

use std::path::Path;

use cellar_api::v1::{LiveStatus, Role};
use cellar_model::{Code, Refusal, kept_from};
use cellar_postgres::{InstanceFacts, Probe};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::data_layout::obstacles;
use crate::disk::free_bytes;
use crate::repository::reader::segment_size;
use crate::services::server_files;
use crate::wal_files::segments;

/// Asks the instance.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn live(agent: &Agent) -> Result<LiveStatus, Refusal> {
    let down = |message: String| Refusal::new(Code::CellDown, message).about("cell", &agent.cell);
    let (card, _) = agent.assignment()?;
    let mut probe = Probe::new(agent.endpoint(&card), PROBE_TIMEOUT);
    // Whoever asks may be about to read the instance through pgBackRest's server.
    let (facts, ()) = tokio::join!(probe.facts(), server_files::until_current(agent));
    let facts = facts.map_err(|error| down(error.to_string()))?;
    let free_bytes = free_bytes(Path::new(&card.data_directory));
    let restore_obstacles = obstacles(Path::new(&card.data_directory)).into_iter().map(Into::into).collect();
    let wal_kept_from = wal_kept_from(agent, Path::new(&card.data_directory), &facts).await;
    Ok(LiveStatus { free_bytes, restore_obstacles, wal_kept_from, ..live_status(&facts) })
}

/// From which segment on a primary has all that it wrote; none for a standby.
async fn wal_kept_from(agent: &Agent, data: &Path, facts: &InstanceFacts) -> Option<u64> {
    let written = facts.write_lsn.filter(|_| facts.role == cellar_model::Role::Primary)?;
    let size = segment_size(agent, data).await?;
    kept_from(&segments(data, size).ok()?, size.number_of(written))
}

fn live_status(facts: &InstanceFacts) -> LiveStatus {
    let observed = facts.to_observed();
    let standby = facts.role == cellar_model::Role::Standby;
    LiveStatus {
        receive_lsn: facts.receive_lsn.map(|lsn| lsn.to_string()),
        replay_lsn: facts.replay_lsn.map(|lsn| lsn.to_string()),
        write_lsn: facts.write_lsn.map(|lsn| lsn.to_string()),
        lag_bytes: if standby {
            observed.primary_lsn.map(|primary| primary.bytes_ahead_of(observed.replay_lsn))
        } else {
            None
        },
        streaming_standbys: facts.streaming_to.clone(),
        system_identifier: Some(facts.system_identifier.to_string()),
        timeline: Some(facts.timeline.get()),
        role: match facts.role {
            cellar_model::Role::Primary => Role::Primary,
            cellar_model::Role::Standby => Role::Standby,
            cellar_model::Role::Unknown => Role::Unknown,
        }
        .into(),
        data_directory: facts.data_directory.clone(),
        free_bytes: 0,
        restore_obstacles: Vec::new(),
        wal_kept_from: None,
        awaits_first_checkpoint: facts.awaits_first_checkpoint(),
    }
}
