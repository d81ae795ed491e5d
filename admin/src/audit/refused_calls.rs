//! Calls that never got to a method: turned away by the guard, or with a request that cannot be read.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use cellar_model::{Code, access};
use serde_json::Map;
use tonic::Status;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use crate::audit::record::begun;
use crate::audit::trail::Audit;

/// Travels with a call: whether its method has taken over, which then writes the record itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reached(Arc<AtomicBool>);

impl Reached {
    /// The method has taken over.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A layer around all others that writes down calls that were to change something and came to nothing on the way.
#[derive(Debug, Clone)]
pub(crate) struct Door(pub(crate) Audit);

impl<S> Layer<S> for Door {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, audit: self.0.clone() }
    }
}

/// A service behind a [`Door`].
#[derive(Debug, Clone)]
pub(crate) struct Watched<S> {
    inner: S,
    audit: Audit,
}

type Answer<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, B, C> Service<Request<B>> for Watched<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    S::Error: Send,
    C: Send + 'static,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Answer<C, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if !access::mutates(path) {
            return Box::pin(self.inner.call(request));
        }
        let rpc = path.rsplit('/').next().unwrap_or(path).to_owned();
        // Nobody has decoded the message yet, and of a caller who may not call nobody will.
        let record = begun(&rpc, request.extensions(), Map::new());
        let reached = Reached::default();
        request.extensions_mut().insert(reached.clone());
        let answer = self.inner.call(request);
        let audit = self.audit.clone();
        Box::pin(async move {
            let response = answer.await?;
            if !reached.get() {
                let status = Status::from_header_map(response.headers());
                let code = status.as_ref().and_then(cellar_api::reason_of).unwrap_or(Code::InvalidArgument);
                let message = status.as_ref().map_or("the request cannot be read", Status::message);
                // Before the answer: who floods the log waits for the disk.
                audit.end(&record, Err((code, message))).await;
            }
            Ok(response)
        })
    }
}
