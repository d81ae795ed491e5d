//! Whether a running job must end early, and why.

use cellar_model::{Code, JobError, JobId};
use cellar_system::clock;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::jobs::claim::Ending;
use crate::member::Member;

/// Why a running job must end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Somebody canceled it.
    Canceled,
    /// Its deadline has passed.
    Deadline,
    /// This process was told to stop.
    Stopping,
    /// multiadmin has closed the job.
    Closed,
}

/// Everything that can interrupt one running job.
#[derive(Debug, Clone)]
pub struct Control {
    id: JobId,
    deadline: Timestamp,
    stop: watch::Receiver<bool>,
}

impl Control {
    /// The control of the job `id`. `stop` becomes true when this process is told to stop.
    #[must_use]
    pub fn new(id: JobId, deadline: Timestamp, stop: watch::Receiver<bool>) -> Self {
        Self { id, deadline, stop }
    }

    /// Why the job must end early; none while it may go on.
    #[must_use]
    pub fn interrupted(&self, member: &Member) -> Option<Interruption> {
        let view = member.mirror.view();
        let record = view.jobs.get(&self.id);
        if record.is_some_and(|record| record.closure.is_some()) {
            return Some(Interruption::Closed);
        }
        if record.is_some_and(|record| record.cancel.is_some()) {
            return Some(Interruption::Canceled);
        }
        if clock::now() > self.deadline {
            return Some(Interruption::Deadline);
        }
        (*self.stop.borrow()).then_some(Interruption::Stopping)
    }
}

/// The ending of a job that was interrupted. `effect` says what that means for its work.
#[must_use]
pub fn interrupted_ending(why: Interruption, effect: &str) -> Ending {
    let error = |code, reason: &str, hint: &str| JobError {
        code,
        message: format!("{reason}; {effect}"),
        hint: hint.to_owned(),
        tool_output: String::new(),
    };
    match why {
        Interruption::Canceled => Ending::Canceled(error(Code::Canceled, "canceled as asked", "")),
        Interruption::Closed => Ending::Canceled(error(Code::Canceled, "closed by multiadmin", "")),
        Interruption::Deadline => Ending::Failed(error(
            Code::DeadlineExceeded,
            "the job's deadline passed",
            "give it more time with --timeout",
        )),
        Interruption::Stopping => Ending::Failed(error(
            Code::PoolerRestarted,
            "the multipooler was told to stop",
            "ask again when it is back",
        )),
    }
}
