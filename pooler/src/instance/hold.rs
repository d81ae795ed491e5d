//! Exclusive use of the instance by one job.

use std::time::Duration;

use cellar_model::{Code, Refusal};

use crate::agent::Agent;

/// How long a round of the supervisor that is under way may take to end. Its longest steps are the shutdown of a primary
/// with its checkpoint (11 min), a copy of the primary, and a restore from the repository, which ends early.
const ROUND_TIMEOUT: Duration = Duration::from_secs(720);

/// While it exists the supervisor leaves the instance alone. When it is dropped the supervisor looks again at once.
pub(crate) struct Hold<'a>(&'a Agent);

impl<'a> Hold<'a> {
    /// Takes the instance away from the supervisor, once the round that is under way has ended.
    ///
    /// # Errors
    /// When that round does not end in time.
    pub(crate) async fn take(agent: &'a Agent) -> Result<Self, Refusal> {
        // Made first: dropped early, it gives the instance back.
        let hold = Self(agent);
        if agent.instance_lock.hold(ROUND_TIMEOUT).await {
            return Ok(hold);
        }
        let message = format!(
            "the multipooler of {} is still bringing its instance up after {} s, and a job must not work beside that",
            agent.cell,
            ROUND_TIMEOUT.as_secs()
        );
        Err(Refusal::new(Code::Internal, message)
            .hint("look at `cellar status` and the cell's log/multipooler.log, then ask again")
            .about("cell", &agent.cell))
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.instance_lock.release();
        self.0.nudge.notify_one();
    }
}
