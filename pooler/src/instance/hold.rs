//! Exclusive use of the instance by one job.

use crate::agent::Agent;

/// While it exists the supervisor leaves the instance alone. When it is dropped the supervisor looks again at once.
pub(crate) struct Hold<'a>(&'a Agent);

impl<'a> Hold<'a> {
    /// Takes the instance away from the supervisor. A round of the supervisor that is under way is not stopped.
    pub(crate) fn take(agent: &'a Agent) -> Self {
        agent.held.set(true);
        Self(agent)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.held.set(false);
        self.0.nudge.notify_one();
    }
}
