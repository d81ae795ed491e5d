//! Asking an instance what it is, again and again, over one connection.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::error::PostgresError;
use crate::facts::InstanceFacts;
use crate::facts::QUERY;
use crate::roles::{MONITOR_ROLE, SUPERUSER};
use crate::session::Endpoint;
use crate::session::Session;

/// How long the superuser stands in before the monitoring role is tried again. Each try that fails is a line in
/// PostgreSQL's log.
const STAND_IN: Duration = Duration::from_secs(10);

/// Asks one instance as [`MONITOR_ROLE`], over a connection that it keeps and makes again when it broke.
///
/// The superuser stands in while that role cannot ask: before it is made, on a standby or a restored backup that
/// does not have it yet, or when its rights or the connections were used up. What an instance is must be known
/// then too: the role can only be made on an instance that is known to be the primary.
pub struct Probe {
    endpoint: Endpoint,
    timeout: Duration,
    session: Option<Session>,
    /// Since when the superuser has stood in.
    stand_in: Option<Instant>,
}

/// Whether a superuser may be answered where the role was refused: the role is missing, may not log in or lacks a right;
/// the last connections are kept for superusers; or a trigger on login failed, which may do so with any error, and runs
/// in no session of a superuser of ours. An instance that takes no sessions refuses both.
fn is_of_role(error: &PostgresError) -> bool {
    matches!(error, PostgresError::Sql { .. })
}

impl Probe {
    /// A probe that has not connected yet. `timeout` is how long one question may take, connecting included.
    #[must_use]
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self { endpoint, timeout, session: None, stand_in: None }
    }

    /// Where it asks.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    async fn ask(&self, session: &Session) -> Result<InstanceFacts, PostgresError> {
        let rows = session
            .client
            .query_typed(QUERY, &[])
            .await
            .map_err(|error| self.endpoint.error(error, self.timeout))?;
        let [row] = rows.as_slice() else {
            return Err(PostgresError::UnexpectedAnswer(format!("number of rows: {}", rows.len())));
        };
        InstanceFacts::from_row(row)
    }

    async fn ask_as(&self, role: &str) -> Result<(Session, InstanceFacts), PostgresError> {
        let session = self.endpoint.connect(role, self.timeout).await?;
        let facts = self.ask(&session).await?;
        Ok((session, facts))
    }

    /// What the instance says of itself now.
    ///
    /// # Errors
    /// [`PostgresError::NoAnswer`] when it said nothing in time, as a frozen one does: that is no news of its
    /// role. [`PostgresError::NotRunning`] and [`PostgresError::NotReady`] when it does not run, or does not answer yet.
    pub async fn facts(&mut self) -> Result<InstanceFacts, PostgresError> {
        // Whatever goes wrong, the next question starts with a new connection: the session is only put back after an answer.
        let kept = self.session.take().filter(|_| self.stand_in.is_none_or(|at| at.elapsed() < STAND_IN));
        let work = async {
            if let Some(session) = kept
                && let Ok(facts) = self.ask(&session).await
            {
                return Ok((session, facts, self.stand_in));
            }
            // It had no connection, or the server behind it has been restarted.
            match self.ask_as(MONITOR_ROLE).await {
                Err(error) if is_of_role(&error) => {
                    tracing::debug!(%error, "the superuser stands in for {MONITOR_ROLE}");
                    let (session, facts) = self.ask_as(SUPERUSER).await?;
                    Ok((session, facts, Some(Instant::now())))
                }
                answer => answer.map(|(session, facts)| (session, facts, None)),
            }
        };
        let answer = timeout(self.timeout, work).await;
        let (session, facts, stand_in) =
            answer.unwrap_or_else(|_| Err(self.endpoint.no_answer(self.timeout)))?;
        (self.session, self.stand_in) = (Some(session), stand_in);
        Ok(facts)
    }
}
