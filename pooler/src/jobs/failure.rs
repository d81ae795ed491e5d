//! Why a job did not succeed, and how that is recorded.

use cellar_model::{Code, JobError, JobState, Refusal};

use crate::jobs::control::Interruption;
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

impl JobFailure {
    /// The state that the job ends in, and its error.
    pub(crate) fn ending(self) -> (JobState, JobError) {
        let (why, effect) = match self {
            Self::Failed(error) => return (JobState::Failed, error),
            Self::Interrupted { why, effect } => (why, effect),
        };
        let (state, code, reason, hint) = match why {
            Interruption::Canceled => (JobState::Canceled, Code::Canceled, "canceled as asked", ""),
            Interruption::Closed => (JobState::Canceled, Code::Canceled, "closed by multiadmin", ""),
            Interruption::DeadlinePassed => (
                JobState::Failed,
                Code::DeadlineExceeded,
                "the job's deadline passed",
                "give it more time with --timeout",
            ),
            Interruption::Stopping => (
                JobState::Failed,
                Code::PoolerRestarted,
                "the multipooler was told to stop",
                "ask again when it is back",
            ),
        };
        let error = JobError {
            code,
            message: format!("{reason}; {effect}"),
            hint: hint.to_owned(),
            tool_output: String::new(),
        };
        (state, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cancel_or_a_closure_ends_a_job_as_canceled() {
        let state = |why| JobFailure::Interrupted { why, effect: "nothing was changed" }.ending().0;
        assert_eq!(state(Interruption::Canceled), JobState::Canceled);
        assert_eq!(state(Interruption::Closed), JobState::Canceled);
        assert_eq!(state(Interruption::DeadlinePassed), JobState::Failed);
        assert_eq!(state(Interruption::Stopping), JobState::Failed);
    }

    #[test]
    fn the_message_of_an_interruption_says_what_became_of_the_work() {
        let why = Interruption::DeadlinePassed;
        let (_, error) = JobFailure::Interrupted { why, effect: "no backup was begun" }.ending();
        assert_eq!(error.message, "the job's deadline passed; no backup was begun");
        assert!(error.hint.contains("--timeout"));
    }
}
