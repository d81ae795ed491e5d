//! Authorisation of every call of a gRPC server, by the table of who may call which method.
//!
//! It is a layer around all services, so that a new method is refused until the table allows it.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cellar_model::{ClusterName, Code, Principal, Refusal, access};
use tokio::sync::watch;
use tonic::codegen::http::{Extensions, Request, Response};
use tower::{Layer, Service};

use crate::stream::MtlsConnectInfo;

/// The serial numbers of revoked certificates, shared by those who check them and those who read new lists.
#[derive(Debug, Clone)]
pub struct Revoked(Arc<watch::Sender<BTreeSet<String>>>);

impl Default for Revoked {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Revoked {
    /// Takes a list; false when it is an older one. A revoked certificate is never valid again, so a list that lacks one
    /// was signed earlier and has been put back.
    #[must_use]
    pub fn take(&self, serials: BTreeSet<String>) -> bool {
        let mut newer = false;
        self.0.send_if_modified(|known| {
            newer = known.is_subset(&serials);
            let changed = newer && *known != serials;
            if changed {
                *known = serials;
            }
            changed
        });
        newer
    }

    /// Whether a certificate is revoked; `serial` as [`PeerIdentity`](crate::certificate::PeerIdentity) has it.
    #[must_use]
    pub fn contains(&self, serial: &str) -> bool {
        self.0.borrow().contains(serial)
    }

    /// Completes when the certificate becomes revoked; never for one that is revoked already.
    pub(crate) fn wait_for(&self, serial: &str) -> impl Future<Output = ()> + Send + 'static {
        let (already, serial) = (self.contains(serial), serial.to_owned());
        let mut lists = self.0.subscribe();
        async move {
            if already || lists.wait_for(|list| list.contains(&serial)).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Turns a refusal into what goes over the wire; `cellar-api` has it.
pub type ToStatus = fn(&Refusal) -> tonic::Status;

/// Refuses calls that the caller's certificate does not allow.
#[derive(Clone)]
pub struct Guard {
    cluster: Option<ClusterName>,
    revoked: Revoked,
    to_status: ToStatus,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard for the servers of a cluster.
    #[must_use]
    pub fn new(cluster: ClusterName, revoked: Revoked, to_status: ToStatus) -> Self {
        Self { cluster: Some(cluster), revoked, to_status }
    }

    /// A guard that allows everything: for services that are reached in the same process only, without any TLS.
    #[must_use]
    pub fn open() -> Self {
        let never = |refusal: &Refusal| tonic::Status::internal(refusal.message.clone());
        Self { cluster: None, revoked: Revoked::default(), to_status: never }
    }

    /// Whether the caller may call the method at `path`.
    ///
    /// # Errors
    /// Refused, naming what it needs.
    pub fn check(&self, path: &str, extensions: &Extensions) -> Result<(), Refusal> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let deny = |message: String| Refusal::new(Code::PermissionDenied, message);
        let Some(info) = extensions.get::<MtlsConnectInfo>() else {
            return Err(deny("no certificate was presented".to_owned()));
        };
        let peer = &info.peer;
        // A connection may outlive its certificate's validity, and the certificate may be revoked meanwhile.
        if self.revoked.contains(&peer.serial) {
            return Err(deny(format!("the certificate with serial {} is revoked", peer.serial))
                .hint("ask an administrator for a new one (`cellar certs issue`)"));
        }
        if peer.not_after <= std::time::SystemTime::now() {
            return Err(deny("the certificate has expired since the connection was made".to_owned())
                .hint("connect again with a renewed one"));
        }
        let method = path.rsplit('/').next().unwrap_or(path);
        let principal = peer.uri.as_deref().and_then(|uri| Principal::parse(uri, cluster));
        let who = peer.uri.as_deref().unwrap_or(&peer.common_name);
        let Some(needs) = access::needs(path) else {
            return Err(deny(format!("no role may call {method}")));
        };
        match principal {
            Some(principal) if access::allows(&principal, needs) => Ok(()),
            _ => Err(deny(format!("{who} may not call {method}: it needs {needs}")).hint(
                "use a certificate with that role, or ask an administrator for one (`cellar certs issue`)",
            )),
        }
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { inner, guard: self.clone() }
    }
}

/// A service behind a [`Guard`].
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Guard,
}

type Answer<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, B, C> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    C: Default + Send + 'static,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Answer<C, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        match self.guard.check(path, request.extensions()) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refusal) => {
                let response = (self.guard.to_status)(&refusal).into_http();
                Box::pin(async move { Ok(response) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::PeerIdentity;
    use std::time::{Duration, SystemTime};

    fn status(refusal: &Refusal) -> tonic::Status {
        tonic::Status::permission_denied(refusal.message.clone())
    }

    fn caller(uri: &str) -> Extensions {
        caller_until(uri, SystemTime::now() + Duration::from_secs(60))
    }

    fn caller_until(uri: &str, not_after: SystemTime) -> Extensions {
        let peer = PeerIdentity {
            common_name: "x".into(),
            uri: Some(uri.to_owned()),
            serial: "0a".into(),
            not_after,
        };
        let mut extensions = Extensions::new();
        extensions
            .insert(MtlsConnectInfo { remote_addr: "127.0.0.1:1".parse().unwrap(), peer: Arc::new(peer) });
        extensions
    }

    #[test]
    fn calls_are_allowed_by_the_table_and_refused_to_revoked_and_expired_certificates() {
        let revoked = Revoked::default();
        let guard = Guard::new("demo".parse().unwrap(), revoked.clone(), status);
        let restore = "/cellar.v1.MultiAdmin/RestoreDatabase";
        let refused = |uri: &str| guard.check(restore, &caller(uri)).map_err(|refusal| refusal.message);
        assert_eq!(refused("spiffe://demo/admin/ann"), Ok(()));
        assert!(refused("spiffe://demo/operator/ci").unwrap_err().contains("the role admin"));
        for uri in
            ["spiffe://other/admin/ann", "spiffe://demo/pooler/app/zone1", "spiffe://demo/etcd/localhost"]
        {
            assert!(refused(uri).is_err(), "{uri}");
        }
        assert!(guard.check(restore, &Extensions::new()).is_err(), "no certificate at all");
        assert!(guard.check("/cellar.v1.MultiAdmin/Nothing", &caller("spiffe://demo/admin/ann")).is_err());
        let ended = caller_until("spiffe://demo/admin/ann", SystemTime::now() - Duration::from_secs(1));
        assert!(guard.check(restore, &ended).unwrap_err().message.contains("expired"));
        assert!(revoked.take(BTreeSet::from(["0a".to_owned()])));
        assert!(refused("spiffe://demo/admin/ann").unwrap_err().contains("revoked"));
    }

    #[test]
    fn older_list_does_not_undo_a_revocation() {
        let revoked = Revoked::default();
        let list = |serials: &[&str]| serials.iter().map(|serial| (*serial).to_owned()).collect();
        assert!(revoked.take(list(&["0a"])) && revoked.take(list(&["0a", "0b"])));
        assert!(!revoked.take(list(&["0a"])) && !revoked.take(list(&["0a", "0c"])));
        assert!(revoked.contains("0b") && !revoked.contains("0c"));
    }
}
