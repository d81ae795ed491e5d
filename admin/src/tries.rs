//! The tries of a guarded write: it is decided on what is known, committed if that still holds, and otherwise decided again.

use cellar_model::{Key, Refusal};
use cellar_topology::{StoreError, Transaction, TxnOutcome};

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::refusal::{self, Setback};

/// Tries of a write before the caller is asked to come back. Each that fails means that another request has changed the same
/// records, or that etcd did not answer.
const MAX_TRIES: u32 = 64;

/// How much longer to wait after a conflict where the view is to show what caused it, in steps of
/// [`Deadline::pause_after_conflict`].
const VIEW_STEPS: u32 = 5;

/// The tries of one write.
#[derive(Debug)]
pub(crate) struct Tries {
    what: String,
    deadline: Deadline,
    begun: u32,
    last: Setback,
}

impl Tries {
    /// None yet. `what` is changed, for messages.
    pub(crate) fn of(what: impl Into<String>, deadline: Deadline) -> Self {
        Self { what: what.into(), deadline, begun: 0, last: Setback::Overtaken }
    }

    /// Begins the next one; how many were before it.
    ///
    /// # Errors
    /// When there were too many, or the time is up: why the last one failed.
    pub(crate) fn begin(&mut self) -> Result<u32, Refusal> {
        let before = self.begun;
        if before >= MAX_TRIES || before > 0 && self.deadline.has_passed() {
            return Err(refusal::given_up(&self.what, &self.last));
        }
        self.begun += 1;
        Ok(before)
    }
}

impl Admin {
    /// Commits one try, and waits until the view shows it. False when it is to be decided again: something else changed the
    /// records first, or the answer was lost and the next try finds what came of it.
    ///
    /// `decided_on` is a key that the write changes, with its revision in the view that was decided on; none where etcd
    /// itself is read for each try.
    ///
    /// # Errors
    /// When etcd refuses, or does not answer until the time is up.
    pub(crate) async fn commit(
        &self,
        tries: &mut Tries,
        transaction: Transaction<'_>,
        decided_on: Option<(&Key, i64)>,
    ) -> Result<bool, Refusal> {
        let deadline = tries.deadline;
        let before = tries.begun.saturating_sub(1);
        match deadline.call(transaction.commit()).await {
            Ok(TxnOutcome::Committed(_)) => {
                if let Some((key, revision)) = decided_on {
                    self.wait_until_seen(deadline, |view| view.revision(key) != revision).await;
                }
                return Ok(true);
            }
            Ok(TxnOutcome::Conflict) => {
                let is_seen = match decided_on {
                    Some((key, revision)) => {
                        deadline.pause_after_conflict(before + VIEW_STEPS).await;
                        self.view().revision(key) != revision
                    }
                    None => {
                        deadline.pause_after_conflict(before).await;
                        true
                    }
                };
                tries.last = Setback::of_conflict(is_seen);
            }
            Err(StoreError::Retryable(why)) if !deadline.has_passed() => {
                deadline.pause(before).await;
                tries.last = Setback::Unanswered(why);
            }
            Err(error) => return Err(refusal::of_store(error)),
        }
        Ok(false)
    }
}
