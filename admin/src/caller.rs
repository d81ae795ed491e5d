//! Who asks.

use cellar_model::OperatorRole;
use cellar_tls::MtlsConnectInfo;
use tonic::Request;

/// The identity in the caller's certificate: its URI, else its common name.
///
/// Connections without a certificate exist only in tests, where the answer is `unknown`.
pub(crate) fn identity<T>(request: &Request<T>) -> String {
    match request.extensions().get::<MtlsConnectInfo>() {
        Some(info) => info.peer.uri.clone().unwrap_or_else(|| info.peer.common_name.clone()),
        None => "unknown".to_owned(),
    }
}

/// The role of a caller that is a person or program; none for a connection without a certificate, which the guard lets
/// in within the process only.
pub(crate) fn role<T>(request: &Request<T>) -> Option<OperatorRole> {
    let uri = request.extensions().get::<MtlsConnectInfo>()?.peer.uri.clone()?;
    // The guard has checked the cluster.
    let rest = uri.strip_prefix("spiffe://")?;
    rest.split('/').nth(1)?.parse().ok()
}
