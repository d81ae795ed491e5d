//! Giving a primary its roles and its stanza.
//!
//! The repository may be on another host, or on a file system that does not answer, and pgBackRest waits half a minute for
//! either. The rounds of the supervisor must not: meanwhile PostgreSQL would not be started again, the status would be that
//! of before, and jobs would wait. So a stanza that this cell knows of is looked for beside the rounds. Only one that may
//! have to be created is looked for within a round, once the host of the repository has answered: a job that finds
//! the instance running finds its stanza too.

use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_model::{Database, Pooler};
use cellar_postgres::{Endpoint, ensure_roles};
use cellar_system::LoopPulse;
use tokio::task::JoinSet;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::config_files::server_of;
use crate::listening::reach;
use crate::repository::stanza;
use crate::repository::tool_failure::hint_at_home;

/// How often it is tried until it succeeds. Each attempt starts pgBackRest.
const INTERVAL: Duration = Duration::from_secs(5);

/// How far a primary is.
#[derive(Default)]
pub(crate) struct Preparation {
    done: bool,
    /// A look for the stanza. It ends with this.
    looks: JoinSet<Result<(), String>>,
    /// Why it is not done, and when that is tried again.
    failed: Option<(String, Instant)>,
}

impl Preparation {
    /// Goes on with it. Why the primary is not prepared; none when it is, or that is not known yet. It is a primary all the
    /// same, and clients use it.
    pub(crate) async fn go_on(
        &mut self,
        agent: &Rc<Agent>,
        endpoint: &Endpoint,
        (card, database): (&Pooler, &Database),
        pulse: &LoopPulse,
    ) -> Option<&str> {
        let came =
            self.looks.try_join_next().map(|ended| ended.unwrap_or_else(|error| Err(error.to_string())));
        let is_due = self.failed.as_ref().is_none_or(|(_, again)| Instant::now() >= *again);
        let result = match came {
            Some(result) => Some(result),
            None if self.done || !self.looks.is_empty() || !is_due => None,
            None => self.attempt(agent, endpoint, (card, database), pulse).await,
        };
        match result {
            Some(Ok(())) => (self.done, self.failed) = (true, None),
            Some(Err(why)) => {
                tracing::warn!(why, "the primary is not prepared");
                self.failed = Some((why, Instant::now() + INTERVAL));
            }
            None => {}
        }
        self.failed.as_ref().map(|(why, _)| why.as_str())
    }

    /// Begins an attempt; its result, if it has ended already.
    async fn attempt(
        &mut self,
        agent: &Rc<Agent>,
        endpoint: &Endpoint,
        (card, database): (&Pooler, &Database),
        pulse: &LoopPulse,
    ) -> Option<Result<(), String>> {
        if let Err(error) = ensure_roles(endpoint, &agent.user.name, PROBE_TIMEOUT).await {
            return Some(Err(error.to_string()));
        }
        if !agent.layout.stanza_marker().exists() {
            // It may be created.
            pulse.excuse();
            return Some(look(agent, database, card).await);
        }
        let (agent, database, card) = (Rc::clone(agent), database.clone(), card.clone());
        self.looks.spawn_local(async move {
            let result = look(&agent, &database, &card).await;
            agent.nudge.notify_one();
            result
        });
        None
    }
}

/// Sees to the stanza, if the repository can be reached.
async fn look(agent: &Agent, database: &Database, card: &Pooler) -> Result<(), String> {
    if let Some((host, port)) = server_of(agent, database)
        && let Err(why) = reach(&host, port).await
    {
        let hint = hint_at_home(&database.repository, &agent.cell).unwrap_or_default();
        let server = match database.repository.reached_through(&agent.cell) {
            Some(home) => format!("pgBackRest's server in cell {home}"),
            None => format!("the store of the repository, {host}:{port},"),
        };
        return Err(format!("{server} does not answer: {why}; {hint}"));
    }
    stanza::ensure_first(agent, database, card).await.map_err(|error| error.to_string())
}
