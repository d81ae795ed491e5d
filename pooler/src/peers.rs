//! Asking another cell's pooler: for the present state of its instance, or for something else.

use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_api::v1::{GetLiveStatusRequest, LiveStatus};
use cellar_model::{Code, Leader, Lsn, Pooler, Refusal};
use tonic::transport::Channel;

use crate::agent::Agent;

/// How long another pooler may take. It answers in milliseconds, or after the timeout of its own probe (3 s).
const LIVE_STATUS_TIMEOUT: Duration = Duration::from_secs(4);

/// Why there is no connection to another cell's pooler.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct NoConnection {
    reason: String,
    /// Nobody listens there.
    pub(crate) is_refused: bool,
}

/// Whether a connection failed because nobody listens there.
fn is_refused(error: &tonic::transport::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    std::iter::from_fn(|| {
        let this = cause?;
        cause = this.source();
        Some(this)
    })
    .filter_map(|error| error.downcast_ref::<std::io::Error>())
    .any(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// A connection to another cell's pooler, for calls that last: nothing but the caller ends them.
///
/// # Errors
/// Why there is none.
pub(crate) async fn connect(
    agent: &Agent,
    card: &Pooler,
) -> Result<MultiPoolerClient<Channel>, NoConnection> {
    let no_connection = |reason: String| NoConnection { reason, is_refused: false };
    let client = agent.client.borrow().clone();
    let address = format!("{}:{}", card.host, card.grpc_port);
    let endpoint = client.domain_name(card.host.as_str()).endpoint(&address, None);
    let endpoint = endpoint.map_err(|error| no_connection(error.to_string()))?;
    match tokio::time::timeout(LIVE_STATUS_TIMEOUT, endpoint.connect()).await {
        Ok(Ok(channel)) => Ok(MultiPoolerClient::new(channel)),
        Ok(Err(error)) => Err(NoConnection { reason: error.to_string(), is_refused: is_refused(&error) }),
        Err(_) => Err(no_connection("it took too long".to_owned())),
    }
}

/// What the instance of another cell's pooler answers now.
pub(crate) async fn live_status(agent: &Agent, card: &Pooler) -> Result<LiveStatus, Refusal> {
    let no_answer = |why: &dyn std::fmt::Display| {
        Refusal::new(Code::NoPrimary, format!("the pooler of cell {} does not answer: {why}", card.cell))
            .hint("look at `cellar status`")
            .about("cell", &card.cell)
    };
    let client = agent.client.borrow().clone();
    let address = format!("{}:{}", card.host, card.grpc_port);
    let endpoint = client
        .domain_name(card.host.as_str())
        .endpoint(&address, Some(LIVE_STATUS_TIMEOUT))
        .map_err(|error| no_answer(&error))?;
    let ask = async {
        let channel = endpoint.connect().await.map_err(|error| no_answer(&error))?;
        let answer = MultiPoolerClient::new(channel).get_live_status(GetLiveStatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| no_answer(&status.message()))
    };
    tokio::time::timeout(LIVE_STATUS_TIMEOUT, ask)
        .await
        .unwrap_or_else(|_| Err(no_answer(&"it took too long")))
}

/// The number of the first WAL segment from which on the recorded primary has all that it wrote; none when its pooler does
/// not tell.
///
/// # Errors
/// When it does not answer, or is not the primary on the recorded timeline any more.
pub(crate) async fn wal_kept_by_primary(
    agent: &Agent,
    card: &Pooler,
    leader: &Leader,
) -> Result<Option<u64>, Refusal> {
    let live = live_status(agent, card).await?;
    if live.role() == cellar_api::v1::Role::Primary && live.timeline == Some(leader.term.get()) {
        return Ok(live.wal_kept_from);
    }
    Err(not_primary_any_more(leader))
}

fn not_primary_any_more(leader: &Leader) -> Refusal {
    Refusal::new(
        Code::NoPrimary,
        format!(
            "the instance of cell {} is not the primary on timeline {} any more",
            leader.cell, leader.term
        ),
    )
    .hint("the roles are changing: look at `cellar status` and ask again")
    .about("cell", &leader.cell)
}

/// What the instance of the recorded primary answers.
#[derive(Debug)]
pub(crate) struct PrimaryLook {
    /// Where it writes.
    pub(crate) position: Lsn,
    /// Whom it lets stream, by their cells.
    pub(crate) standbys: Vec<String>,
    /// It was promoted, and has not ended a checkpoint since.
    pub(crate) awaits_first_checkpoint: bool,
}

/// Asks the recorded primary's own instance.
///
/// # Errors
/// When it does not answer, or is not the primary on the recorded timeline any more.
pub(crate) async fn look_at_primary(
    agent: &Agent,
    card: &Pooler,
    leader: &Leader,
) -> Result<PrimaryLook, Refusal> {
    let live = live_status(agent, card).await?;
    let same = live.role() == cellar_api::v1::Role::Primary && live.timeline == Some(leader.term.get());
    let position = live.write_lsn.as_deref().and_then(|text| text.parse().ok());
    position
        .filter(|_| same)
        .map(|position| PrimaryLook {
            position,
            standbys: live.streaming_standbys,
            awaits_first_checkpoint: live.awaits_first_checkpoint,
        })
        .ok_or_else(|| not_primary_any_more(leader))
}
