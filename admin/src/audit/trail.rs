//! Recording a call: before it does anything, and when it has ended.

use std::time::Duration;

use cellar_model::{AuditRecord, Code, JobId, Refusal};
use cellar_system::clock;
use cellar_topology::Store;

use crate::audit::copies::Copies;
use crate::audit::log::AuditLog;
use crate::deadline::Deadline;

/// How long to wait for the file once a call has been decided. Its outcome stands, recorded or not.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Where records go.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    log: AuditLog,
    copies: Copies,
}

impl Audit {
    /// Writes to `log`, and copies to `store`. Must be called within a tokio runtime.
    pub(crate) fn start(store: &Store, log: AuditLog) -> Self {
        Self { log, copies: Copies::start(store.clone()) }
    }

    /// Records that a call begins. Only after that may it change anything.
    pub(crate) async fn begin(&self, record: &AuditRecord, deadline: Deadline) -> Result<(), Refusal> {
        let Err(error) = self.log.write(record, true, deadline.remaining()).await else { return Ok(()) };
        let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error}: {reason}; a call that cannot be recorded is not executed");
        Err(Refusal::new(Code::Unavailable, message)
            .hint("nothing was changed; check on multiadmin's host that the disk has space and that its OS user may write the file"))
    }

    /// Records how a call ended.
    pub(crate) async fn end(&self, begun: &AuditRecord, end: Result<Option<JobId>, (Code, &str)>) {
        let record = begun.ended(end, clock::now());
        if let Err(error) = self.log.write(&record, false, END_TIMEOUT).await {
            // The log has logged the reason.
            tracing::error!(%error, id = %record.id, rpc = record.rpc, "the end of a call was not recorded in the audit log");
        }
        self.copies.keep(record);
    }
}
