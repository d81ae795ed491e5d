//! The first checkpoint of a primary that was promoted.
//!
//! PostgreSQL asks for one itself and spreads it over minutes. Until it has ended, `pg_control` has the old timeline, no backup
//! can be taken, and a former primary cannot be rewound.

use std::time::Duration;

use cellar_postgres::{Endpoint, InstanceFacts, execute};
use tokio::task::JoinSet;

/// How long one may take before it is asked for again.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Asks for it, once at a time; what is asked for ends with this.
#[derive(Default)]
pub(crate) struct FirstCheckpoint {
    asked: JoinSet<()>,
}

impl FirstCheckpoint {
    /// Asks the primary for a checkpoint if it has ended none since its promotion.
    pub(crate) fn look(&mut self, facts: &InstanceFacts, endpoint: &Endpoint) {
        let _ = self.asked.try_join_next();
        if !facts.awaits_first_checkpoint() || !self.asked.is_empty() {
            return;
        }
        let endpoint = endpoint.clone();
        let _ = self.asked.spawn_local(async move {
            match execute(&endpoint, "CHECKPOINT", TIMEOUT).await {
                Ok(()) => tracing::info!("the first checkpoint since the promotion has ended"),
                Err(error) => {
                    tracing::warn!(%error, "no checkpoint since the promotion: backups wait for it");
                }
            }
        });
    }
}
