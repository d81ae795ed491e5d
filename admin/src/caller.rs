//! Who asks.

use std::collections::BTreeSet;

use cellar_model::{Code, DatabaseScope, OperatorRole, Principal, Refusal};
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
    /// The databases that the caller may see and work with.
    pub(crate) databases: DatabaseScope,
}

impl Caller {
    /// The caller of a request that the guard has let in.
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
        let Some(info) = request.extensions().get::<MtlsConnectInfo>() else {
            let identity = "unknown".to_owned();
            return Self { identity, role: None, databases: DatabaseScope::All };
        };
        let identity = info.peer.uri.clone().unwrap_or_else(|| info.peer.common_name.clone());
        // Anybody else calls nothing that asks for a role; should one, it may do nothing.
        let nobody = || (OperatorRole::Viewer, DatabaseScope::Only(BTreeSet::new()));
        let (role, databases) = info.peer.uri.as_deref().and_then(operator).unwrap_or_else(nobody);
        Self { identity, role: Some(role), databases }
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

/// What an operator's URI says. The guard has checked the cluster that it names.
fn operator(uri: &str) -> Option<(OperatorRole, DatabaseScope)> {
    let cluster = uri.strip_prefix("spiffe://")?.split('/').next()?.parse().ok()?;
    match Principal::parse(uri, &cluster)? {
        Principal::Operator(role, databases) => Some((role, databases)),
        _ => None,
    }
}
