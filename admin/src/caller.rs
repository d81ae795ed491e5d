//! Who asks.

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
