//! The instance, for one job alone.

use crate::agent::Agent;

/// While it is there the supervisor keeps its hands off the instance; afterwards it looks again at once.
pub(crate) struct Hold<'a>(&'a Agent);

impl<'a> Hold<'a> {
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
