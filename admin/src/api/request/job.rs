//! Requests for jobs of all kinds.

use std::time::Duration;

use cellar_api::{v1, wkt};
use cellar_model::{JobRequest, JobSpec, Refusal, RequestId, SCHEDULE_REQUESTS};

use crate::api::request::field;
use crate::caller::Caller;
use crate::jobs::submission::Submission;
use crate::refusal::invalid;

/// Longest accepted timeout of a job.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A message that requests a job.
pub(crate) trait JobMessage {
    /// The fields that requests for all kinds of jobs have.
    fn job_fields(&self) -> JobFields<'_>;
}

/// The common fields of a request, unparsed.
#[derive(Debug, Default)]
pub(crate) struct JobFields<'a> {
    /// Empty for the only database.
    pub(crate) database: &'a str,
    pub(crate) cell: CellField<'a>,
    pub(crate) timeout: Option<wkt::Duration>,
    /// Empty for a request that is not to be repeated.
    pub(crate) request_id: &'a str,
    /// Whether to wait behind other jobs rather than be refused.
    pub(crate) queue: bool,
    /// Of a restore or a rollback: whether the caller vouches that the recorded primary takes no writes.
    pub(crate) primary_is_dead: bool,
}

/// The cell of a job as its request has it.
#[derive(Debug, Default)]
pub(crate) enum CellField<'a> {
    /// The request names the cell.
    Required(&'a str),
    /// The request may name the cell; an empty name leaves the choice to planning.
    Optional(&'a str),
    /// The request names none.
    #[default]
    None,
}

impl JobMessage for v1::RunJobRequest {
    fn job_fields(&self) -> JobFields<'_> {
        JobFields {
            database: &self.database,
            cell: CellField::Optional(&self.cell),
            timeout: self.timeout,
            request_id: &self.request_id,
            queue: self.queue,
            ..JobFields::default()
        }
    }
}

/// The spec of a kind that needs no parameters.
pub(crate) fn plain_spec(message: &v1::RunJobRequest) -> Result<JobSpec, Refusal> {
    let name = message.kind().as_str_name();
    serde_json::from_value(serde_json::json!({ "kind": name }))
        .map_err(|error| invalid("kind", format!("{name} needs a method of its own: {error}")))
}

/// Parses a request for a job; `spec` makes the spec of the fields that are the kind's own.
///
/// Refuses a caller whose role is enough for the method, but not for this job.
pub(crate) fn submission<M: JobMessage>(
    message: &M,
    spec: impl FnOnce(&M) -> Result<JobSpec, Refusal>,
    caller: &Caller,
) -> Result<Submission, Refusal> {
    let fields = message.job_fields();
    let submission = Submission {
        request: JobRequest {
            database: field::database("database", fields.database)?,
            cell: match fields.cell {
                CellField::Required(name) => Some(field::cell("cell", name)?),
                CellField::Optional(name) => field::optional("cell", name)?,
                CellField::None => None,
            },
            timeout: fields.timeout.map(timeout).transpose()?,
            request_id: request_id(fields.request_id)?,
            primary_is_dead: fields.primary_is_dead,
            requested_by: caller.identity.clone(),
        },
        spec: spec(message)?,
        queue: fields.queue,
    };
    check_role(caller, &submission.spec)?;
    Ok(submission)
}

fn check_role(caller: &Caller, spec: &JobSpec) -> Result<(), Refusal> {
    let action = format!("request a job of kind {}", spec.kind());
    caller.check_role(spec.role(), &action).map_err(|refusal| match spec {
        JobSpec::Expire(_) => {
            refusal.hint("a dry run shows what would be expired (`cellar expire --dry-run`)")
        }
        _ => refusal,
    })
}

fn request_id(text: &str) -> Result<Option<RequestId>, Refusal> {
    if text.starts_with(SCHEDULE_REQUESTS) {
        let message = format!("request ids that begin with {SCHEDULE_REQUESTS} are reserved for schedules");
        return Err(invalid("request_id", message).hint("choose another one"));
    }
    field::optional("request_id", text)
}

fn timeout(span: wkt::Duration) -> Result<Duration, Refusal> {
    let timeout =
        Duration::try_from(span).map_err(|error| invalid("timeout", format!("not a timeout: {error}")))?;
    if timeout < Duration::from_secs(1) || timeout > MAX_TIMEOUT {
        return Err(invalid("timeout", "a timeout is between one second and thirty days"));
    }
    Ok(timeout)
}
