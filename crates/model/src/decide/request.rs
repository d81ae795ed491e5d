//! A request for a job: what every kind has in common.

use std::time::Duration;

use jiff::Timestamp;

use crate::records::job::id::{JobId, RequestId};
use crate::records::job::record::JobRecord;
use crate::records::job::spec::JobSpec;
use crate::types::code::{Code, Refusal};
use crate::types::json::timestamp_ms;
use crate::types::name::{CellName, DatabaseName};

/// A request for a job, parsed: what every kind has in common.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// Which database; the only one when not given.
    pub database: Option<DatabaseName>,
    /// The cell whose pooler does the work; chosen for some kinds when not given.
    pub cell: Option<CellName>,
    /// When it is given up, counted from now; a default when not given.
    pub timeout: Option<Duration>,
    /// The caller's name for the request.
    pub request_id: Option<RequestId>,
    /// Of a restore or a rollback: the operator vouches that the recorded primary, which does not report, takes no writes.
    pub primary_is_dead: bool,
    /// The caller.
    pub requested_by: String,
}

impl JobRequest {
    /// `id` is used when the request brings no request id of its own.
    pub(crate) fn record(
        &self,
        spec: JobSpec,
        database: &DatabaseName,
        cell: &CellName,
        id: JobId,
        now: Timestamp,
    ) -> JobRecord {
        let create_time = timestamp_ms(now);
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let record = JobRecord::new(
            self.request_id.as_ref().map_or(id, |request| JobId::for_request(database, request)),
            spec,
            database.clone(),
            cell.clone(),
            self.requested_by.clone(),
            create_time,
            create_time.saturating_add(timeout).unwrap_or(Timestamp::MAX),
        );
        JobRecord { request_id: self.request_id.clone(), ..record }
    }

    pub(crate) fn named_cell(&self) -> Result<&CellName, Refusal> {
        self.cell.as_ref().ok_or_else(|| {
            Refusal::new(Code::InvalidArgument, "the request names no cell").about("field", "cell")
        })
    }
}

/// A two-day backup is long but real; what has not ended after three days is not going to.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(72 * 3600);
