//! Whether a running job must end early, and why.

use cellar_model::JobId;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::agent::Agent;

/// Why a running job must end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// Somebody canceled it.
    Canceled,
    /// Its deadline has passed.
    DeadlinePassed,
    /// This process was told to stop.
    Stopping,
    /// multiadmin has closed the job.
    Closed,
}

/// Everything that can interrupt one running job.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    id: JobId,
    deadline: Timestamp,
    stop: watch::Receiver<bool>,
}

impl Control {
    /// The control of the job `id`. `stop` becomes true when this process is told to stop.
    pub(crate) fn new(id: JobId, deadline: Timestamp, stop: watch::Receiver<bool>) -> Self {
        Self { id, deadline, stop }
    }

    /// Why the job must end early; none while it may go on.
    pub(crate) fn interruption(&self, agent: &Agent) -> Option<Interruption> {
        let view = agent.mirror.view();
        let record = view.jobs.get(&self.id);
        if record.is_some_and(|record| record.closure.is_some()) {
            return Some(Interruption::Closed);
        }
        if record.is_some_and(|record| record.cancel.is_some()) {
            return Some(Interruption::Canceled);
        }
        if cellar_system::clock::now() > self.deadline {
            return Some(Interruption::DeadlinePassed);
        }
        (*self.stop.borrow()).then_some(Interruption::Stopping)
    }
}
