//! Whether a running job must end early, and why.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{Code, JobError, JobId, JobRecord, WORK_TIMEOUT};
use cellar_system::clock;
use tokio::sync::watch;

use crate::jobs::claim::Ending;
use crate::jobs::claim_lease::ClaimLease;
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
    /// The claim could not be renewed for so long that multiadmin may give the job's place to another.
    ClaimLost,
}

/// Everything that can interrupt one running job.
#[derive(Debug, Clone)]
pub struct Control {
    id: JobId,
    /// When its time is over, by [`clock::uptime`].
    ends_at: Duration,
    /// The lease of the claim, if the job must end without it: jobs that only read may go on.
    claim: Option<Rc<ClaimLease>>,
    stop: watch::Receiver<bool>,
}

impl Control {
    /// The control of a job that begins now, after it has `waited`, and whose claim is bound to `claim`. `stop` becomes
    /// true when this process is told to stop.
    #[must_use]
    pub fn new(
        record: &JobRecord,
        claim: Rc<ClaimLease>,
        stop: watch::Receiver<bool>,
        waited: Duration,
    ) -> Self {
        let excludes_others = record.kind().takes_lock() || record.parent.is_some();
        let claim = excludes_others.then_some(claim);
        let ends_at = clock::uptime().saturating_add(record.time_limit().saturating_sub(waited));
        Self { id: record.id, ends_at, claim, stop }
    }

    /// When the job's work must have ended unless its claim is renewed, by [`clock::uptime`]; none when it may go on
    /// without a claim.
    #[must_use]
    pub fn work_until(&self, member: &Member) -> Option<Duration> {
        self.claim.as_ref().map(|claim| claim.work_until(member))
    }

    /// Why the job must end early; none while it may go on.
    #[must_use]
    pub fn interrupted(&self, member: &Member) -> Option<Interruption> {
        let view = member.mirror.view();
        let record = view.jobs.get(&self.id);
        let closed = view.ended.get(&self.id).is_some_and(|ended| ended.closed);
        if closed || record.is_some_and(|record| record.closure.is_some()) {
            return Some(Interruption::Closed);
        }
        if record.is_some_and(|record| record.cancel.is_some()) {
            return Some(Interruption::Canceled);
        }
        if self.work_until(member).is_some_and(|until| clock::uptime() >= until) {
            return Some(Interruption::ClaimLost);
        }
        if clock::uptime() >= self.ends_at {
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
        Interruption::ClaimLost => Ending::Failed(error(
            Code::Unavailable,
            &format!(
                "this multipooler could not renew its claim of the job in etcd for {} s, so the job was ended",
                WORK_TIMEOUT.as_secs()
            ),
            "look at etcd and at this cell's connection to it (`cellar doctor`), then ask again",
        )),
        Interruption::Stopping => Ending::Failed(error(
            Code::PoolerRestarted,
            "the multipooler was told to stop",
            "ask again when it is back",
        )),
    }
}
