//! The audit trail of calls that change something.
//!
//! Nothing is changed before a line that says who asked for what is in the log file, on the disk; a second line with the
//! same id says what came of it. A call without its second line was cut short with the process, and the topology
//! tells what became of it. etcd has a copy of the newest, for `ListAudit`: it is written behind the answer's back and
//! may be missed. The file misses none.

mod copies;
mod door;
mod file;
mod line;
mod list;
mod log;

use std::time::Duration;

use cellar_model::{AuditId, AuditOutcome, AuditRecord, Code, JobId, Refusal, recordable};
use cellar_system::clock;
use cellar_tls::MtlsConnectInfo;
use cellar_topology::Store;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::codegen::http::Extensions;
use tonic::transport::server::TcpConnectInfo;

use crate::deadline::Deadline;

pub use log::{AuditLog, AuditLogError};

pub(crate) use door::{Door, Reached};

/// Patience with the file once a call has been decided. Its outcome stands, written down or not.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where records go.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    log: AuditLog,
    copies: copies::Copies,
}

/// The record of a call that has just come.
pub(crate) fn begun(rpc: &str, extensions: &Extensions, arguments: Map<String, Value>) -> AuditRecord {
    let (identity, peer) = match extensions.get::<MtlsConnectInfo>() {
        Some(info) => {
            let identity = info.peer.uri.clone().unwrap_or_else(|| info.peer.common_name.clone());
            (identity, Some(info.remote_addr))
        }
        None => (String::new(), extensions.get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr)),
    };
    AuditRecord {
        id: AuditId::new(clock::new_id()),
        time: clock::now(),
        end_time: None,
        identity,
        peer: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        rpc: rpc.to_owned(),
        arguments,
        outcome: AuditOutcome::Begun,
        code: None,
        message: String::new(),
        job: None,
    }
}

/// What of a request may be written down.
pub(crate) fn arguments<M: Serialize>(message: &M) -> Map<String, Value> {
    match serde_json::to_value(message) {
        Ok(Value::Object(fields)) => recordable(fields),
        // Numbers that stand for no word of ours, times beyond all calendars: such a request is refused in a moment.
        Ok(_) | Err(_) => Map::from_iter([("unreadable".to_owned(), Value::Bool(true))]),
    }
}

impl Audit {
    /// Writes to `log`, and copies to `store`. Must be called within a tokio runtime.
    pub(crate) fn start(store: &Store, log: AuditLog) -> Self {
        Self { log, copies: copies::Copies::start(store.clone()) }
    }

    /// Writes down that a call was let in. Only after that may anything be done for it.
    pub(crate) async fn begin(&self, record: &AuditRecord, deadline: Deadline) -> Result<(), Refusal> {
        let Err(error) = self.log.write(record, true, deadline.remaining()).await else { return Ok(()) };
        let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let message = format!("{error}: {reason}; what cannot be recorded is not done");
        Err(Refusal::new(Code::Unavailable, message)
            .hint("nothing was changed; see on multiadmin's host that there is room and that its OS user may write there"))
    }

    /// Writes down how a call ended.
    pub(crate) async fn end(&self, begun: &AuditRecord, end: Result<Option<JobId>, (Code, &str)>) {
        let record = begun.ended(end, clock::now());
        if let Err(error) = self.log.write(&record, false, PATIENCE).await {
            // Why, the log itself has said already.
            tracing::error!(%error, id = %record.id, rpc = record.rpc, "the end of a call is not in the audit log");
        }
        self.copies.keep(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_api::v1;

    #[test]
    fn arguments_are_those_of_the_request() {
        let request = v1::BackupRequest { cell: "zone3".into(), queue: true, ..Default::default() };
        assert_eq!(Value::Object(arguments(&request)), serde_json::json!({"cell": "zone3", "queue": true}));
        let odd = v1::BackupRequest { r#type: 77, ..Default::default() };
        assert_eq!(Value::Object(arguments(&odd)), serde_json::json!({"unreadable": true}));
        let drill = v1::DrillRestoreRequest { checks: vec!["SELECT 'hunter2'".into()], ..Default::default() };
        assert_eq!(arguments(&drill)["checks"], "(withheld)");
    }
}
