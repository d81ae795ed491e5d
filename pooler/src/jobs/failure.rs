//! Why a job did not succeed.

use cellar_model::{JobError, JobOutcome, Refusal};

use crate::jobs::claim::Ending;
use crate::jobs::control::{Interruption, interrupted_ending};
use crate::repository::tool_failure::tool_error;

/// Why a job did not succeed.
#[derive(Debug)]
pub(crate) enum JobFailure {
    /// It had to end early.
    Interrupted {
        /// Why.
        why: Interruption,
        /// What that means for the work that was done: the second half of the message.
        effect: &'static str,
    },
    /// It failed.
    Failed(JobError),
}

impl From<JobError> for JobFailure {
    fn from(error: JobError) -> Self {
        Self::Failed(error)
    }
}

impl From<Refusal> for JobFailure {
    fn from(refusal: Refusal) -> Self {
        Self::Failed(refusal.into())
    }
}

impl From<cellar_pgbackrest::Error> for JobFailure {
    fn from(error: cellar_pgbackrest::Error) -> Self {
        Self::Failed(tool_error("running pgbackrest", &error))
    }
}

/// How a job with this result ends.
pub(crate) fn ending_of(result: Result<Option<JobOutcome>, JobFailure>) -> Ending {
    match result {
        Ok(outcome) => Ending::Succeeded(outcome),
        Err(JobFailure::Failed(error)) => Ending::Failed(error),
        Err(JobFailure::Interrupted { why, effect }) => interrupted_ending(why, effect),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interrupted(why: Interruption) -> Ending {
        ending_of(Err(JobFailure::Interrupted { why, effect: "no backup was begun" }))
    }

    #[test]
    fn only_a_cancel_or_a_closure_ends_a_job_as_canceled() {
        assert!(matches!(interrupted(Interruption::Canceled), Ending::Canceled(_)));
        assert!(matches!(interrupted(Interruption::Closed), Ending::Canceled(_)));
        assert!(matches!(interrupted(Interruption::Stopping), Ending::Failed(_)));
    }

    #[test]
    fn the_message_of_an_interruption_says_what_it_means_for_the_work() {
        let Ending::Failed(error) = interrupted(Interruption::Deadline) else { panic!("not failed") };
        assert_eq!(error.message, "the job's deadline passed; no backup was begun");
        assert!(error.hint.contains("--timeout"));
    }
}
