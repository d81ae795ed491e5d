//! The record of a call, as it is when the call begins.

use cellar_model::{AuditId, AuditOutcome, AuditRecord, recordable};
use cellar_system::clock;
use cellar_tls::MtlsConnectInfo;
use serde::Serialize;
use serde_json::{Map, Value};
use tonic::codegen::http::Extensions;
use tonic::transport::server::TcpConnectInfo;

/// The record of a call that begins now.
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

/// The arguments of a request that may be recorded.
pub(crate) fn arguments<M: Serialize>(message: &M) -> Map<String, Value> {
    match serde_json::to_value(message) {
        Ok(Value::Object(fields)) => recordable(fields),
        // Unknown enum numbers, or times out of range: the method refuses such a request.
        Ok(_) | Err(_) => Map::from_iter([("unreadable".to_owned(), Value::Bool(true))]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_api::v1;

    #[test]
    fn secret_arguments_are_withheld_and_others_recorded() {
        let request = v1::BackupRequest { cell: "zone3".into(), queue: true, ..Default::default() };
        assert_eq!(Value::Object(arguments(&request)), serde_json::json!({"cell": "zone3", "queue": true}));
        let odd = v1::BackupRequest { r#type: 77, ..Default::default() };
        assert_eq!(Value::Object(arguments(&odd)), serde_json::json!({"unreadable": true}));
        let drill = v1::DrillRestoreRequest { checks: vec!["SELECT 'hunter2'".into()], ..Default::default() };
        assert_eq!(arguments(&drill)["checks"], "(withheld)");
    }
}
