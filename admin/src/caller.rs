//! Who asks.

use cellar_model::{Code, OperatorRole, Refusal};
use cellar_tls::MtlsConnectInfo;
use tonic::Request;

/// A person or program that calls, as its certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The certificate's URI, else its common name. Connections without a certificate exist only in tests, where it is
    /// `unknown`.
    pub(crate) identity: String,
    /// What the caller may do. None for a connection without a certificate, which the guard lets in within the process
    /// only.
    pub(crate) role: Option<OperatorRole>,
}

impl Caller {
    /// The caller of a request that the guard has let in.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let Some(info) = request.extensions().get::<MtlsConnectInfo>() else {
            return Self { identity: "unknown".to_owned(), role: None };
        };
        let identity = info.peer.uri.clone().unwrap_or_else(|| info.peer.common_name.clone());
        Self { identity, role: info.peer.uri.as_deref().and_then(role) }
    }

    /// Refuses a caller whose role is lower than `needed`; `action` completes "may not".
    ///
    /// For what a method's role alone does not decide: the guard has checked that already.
    pub(crate) fn check_role(&self, needed: OperatorRole, action: &str) -> Result<(), Refusal> {
        if self.role.is_none_or(|role| role >= needed) {
            return Ok(());
        }
        let message = format!("{} may not {action}: it needs the role {needed}", self.identity);
        Err(Refusal::new(Code::PermissionDenied, message))
    }
}

/// The role in a URI, `spiffe://<cluster>/<role>/<name>`. The guard has checked the cluster.
fn role(uri: &str) -> Option<OperatorRole> {
    uri.strip_prefix("spiffe://")?.split('/').nth(1)?.parse().ok()
}
