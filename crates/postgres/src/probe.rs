//! Asking an instance what it is, again and again, over one connection.

use std::time::Duration;

use tokio::time::timeout;

use crate::facts::QUERY;
use crate::session::Session;
use crate::{Endpoint, InstanceFacts, PostgresError};

/// Asks one instance. Keeps its connection and makes a new one when it broke.
pub struct Probe {
    endpoint: Endpoint,
    timeout: Duration,
    session: Option<Session>,
}

impl Probe {
    /// A probe that has not connected yet. `timeout` is how long one question may take, connecting included.
    #[must_use]
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Self {
        Self { endpoint, timeout, session: None }
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

    /// What the instance says of itself now.
    ///
    /// # Errors
    /// [`PostgresError::NoAnswer`] when it said nothing in time, as a frozen one does: that is no news of its
    /// role. [`PostgresError::NotRunning`] and [`PostgresError::NotReady`] when nobody is there, or not yet.
    pub async fn facts(&mut self) -> Result<InstanceFacts, PostgresError> {
        // Whatever goes wrong, the next question starts with a new connection: the session is only put back after an answer.
        let kept = self.session.take();
        let work = async {
            if let Some(session) = kept
                && let Ok(facts) = self.ask(&session).await
            {
                return Ok((session, facts));
            }
            // It had no connection, or the server behind it has been restarted.
            let session = self.endpoint.connect(self.timeout).await?;
            let facts = self.ask(&session).await?;
            Ok((session, facts))
        };
        let answer = timeout(self.timeout, work).await;
        let (session, facts) = answer.unwrap_or_else(|_| Err(self.endpoint.no_answer(self.timeout)))?;
        self.session = Some(session);
        Ok(facts)
    }
}
