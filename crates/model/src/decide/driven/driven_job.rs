//! What a kind of driven job has to decide.

use crate::decide::driven::scene::{Decision, Scene};
use crate::records::job::run::JobError;

/// A kind of driven job. Its methods are pure: the same scene gives the same decision.
///
/// Every driven job has one point of no return. Before it, whatever fails, the job ends and the database stays as it
/// was; the driver takes care of that. After it the job only goes forward.
pub(crate) trait DrivenJob {
    /// Whether the point of no return is behind.
    fn is_committed(&self, scene: &Scene<'_>) -> bool;

    /// The next thing to do before the point of no return.
    ///
    /// # Errors
    /// Why the job cannot go on: the driver ends its steps, lifts its fence and closes it as failed.
    fn prepare(&self, scene: &Scene<'_>) -> Result<Decision, JobError>;

    /// The next thing to do after it.
    fn complete(&self, scene: &Scene<'_>) -> Decision;

    /// In what state the database is left when the job ends before the point of no return.
    fn state_left(&self, _scene: &Scene<'_>) -> String {
        "the database is as it was before".to_owned()
    }
}
