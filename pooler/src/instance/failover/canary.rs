//! A commit a second that waits for the quorum: so a stuck quorum is seen, and standbys hear from an idle primary.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::availability;
use cellar_postgres::PostgresError;
use cellar_system::clock;
use tokio::task::JoinHandle;

/// The time between two of them.
const INTERVAL: Duration = Duration::from_secs(1);

/// How soon after an error the next attempt is.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// When the last one was committed, and since when one is under way, by [`clock::uptime`].
#[derive(Debug, Default)]
struct Times {
    committed: Cell<Option<Duration>>,
    /// When the commit that was acknowledged last was begun.
    begun_of_committed: Cell<Option<Duration>>,
    under_way: Cell<Option<Duration>>,
}

/// The canary of one term. It ends with this.
#[derive(Debug)]
pub struct Canary {
    times: Rc<Times>,
    started: Duration,
    task: JoinHandle<()>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Canary {
    /// Begins to commit, by `commit`: it commits once, and calls what it is given when the commit itself begins.
    pub fn start<C>(mut commit: C) -> Self
    where
        C: AsyncFnMut(&dyn Fn()) -> Result<(), PostgresError> + 'static,
    {
        let times = Rc::new(Times::default());
        let shared = Rc::clone(&times);
        let task = tokio::task::spawn_local(async move {
            loop {
                shared.under_way.set(shared.under_way.get().or_else(|| Some(clock::uptime())));
                match commit(&|| shared.under_way.set(Some(clock::uptime()))).await {
                    Ok(()) => {
                        shared.committed.set(Some(clock::uptime()));
                        shared.begun_of_committed.set(shared.under_way.take());
                        tokio::time::sleep(INTERVAL).await;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no commit of the canary");
                        tokio::time::sleep(RETRY_INTERVAL).await;
                    }
                }
            }
        });
        Self { times, started: clock::uptime(), task }
    }

    /// How it is. `waits` says that PostgreSQL has flushed its commit and waits for standbys.
    pub(crate) fn state(&self, waits: bool) -> availability::Canary {
        let now = clock::uptime();
        let under_way = self.times.under_way.get().map(|since| now.saturating_sub(since));
        let committed = self.times.committed.get().map(|at| now.saturating_sub(at));
        match (committed, under_way) {
            (Some(age), None) => availability::Canary::Committed { age },
            // One that has only begun says nothing yet.
            (Some(age), Some(since)) if since < INTERVAL => availability::Canary::Committed { age },
            (_, since) => {
                let since = since.unwrap_or_else(|| now.saturating_sub(self.started));
                if waits {
                    availability::Canary::AwaitsQuorum { since }
                } else {
                    availability::Canary::Hung { since }
                }
            }
        }
    }

    /// How long ago a commit last had its quorum.
    pub(crate) fn quorum_age(&self) -> Duration {
        clock::uptime().saturating_sub(self.times.committed.get().unwrap_or(self.started))
    }

    /// Whether a commit that was begun after `time` has had its quorum.
    pub(crate) fn committed_since(&self, time: Duration) -> bool {
        self.times.begun_of_committed.get().is_some_and(|begun| begun > time)
    }
}
