//! The first checkpoint of a primary that was promoted.
//!
//! PostgreSQL asks for one itself and spreads it over minutes. Until it has ended, `pg_control` has the old timeline, no backup
//! can be taken, and a former primary cannot be rewound.

use std::time::{Duration, Instant};

use cellar_postgres::{Endpoint, InstanceFacts, execute};
use tokio::task::JoinSet;

/// How long one may take before it is asked for again.
const TIMEOUT: Duration = Duration::from_secs(600);

/// How long after a failure it is asked for again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Asks for it, once at a time; what is asked for ends with this.
#[derive(Default)]
pub(crate) struct FirstCheckpoint {
    /// Each ends with whether there was one.
    asked: JoinSet<bool>,
    /// Not before this, after a failure.
    again: Option<Instant>,
}

impl FirstCheckpoint {
    /// Asks the primary for a checkpoint if it has ended none since its promotion.
    pub(crate) fn look(&mut self, facts: &InstanceFacts, endpoint: &Endpoint) {
        if self.asked.try_join_next().is_some_and(|ended| !ended.unwrap_or_default()) {
            self.again = Some(Instant::now() + AGAIN_AFTER);
        }
        let is_due = self.again.is_none_or(|again| Instant::now() >= again);
        if !facts.awaits_first_checkpoint() || !self.asked.is_empty() || !is_due {
            return;
        }
        let endpoint = endpoint.clone();
        let _ = self.asked.spawn_local(async move {
            let ended = execute(&endpoint, "CHECKPOINT", TIMEOUT).await;
            match &ended {
                Ok(()) => tracing::info!("the first checkpoint since the promotion has ended"),
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint since the promotion: backups wait for it");
                }
            }
            ended.is_ok()
        });
    }
}
