//! Calls that never reached a method: refused by the guard, or with a message that cannot be decoded.

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

/// A mark on a request: whether its method was reached, which then writes the record itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct MethodReached(Arc<AtomicBool>);

impl MethodReached {
    /// Called by the method.
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The outermost layer: records calls of mutating methods that were refused before their method was reached.
#[derive(Debug, Clone)]
pub(crate) struct RecordRefusedCalls(pub(crate) Audit);

impl<S> Layer<S> for RecordRefusedCalls {
    type Service = RefusedCallRecorder<S>;

    fn layer(&self, inner: S) -> RefusedCallRecorder<S> {
        RefusedCallRecorder { inner, audit: self.0.clone() }
    }
}

/// A service inside of [`RecordRefusedCalls`].
#[derive(Debug, Clone)]
pub(crate) struct RefusedCallRecorder<S> {
    inner: S,
    audit: Audit,
}

type ResponseFuture<B, E> = Pin<Box<dyn Future<Output = Result<Response<B>, E>> + Send>>;

impl<S, B, C> Service<Request<B>> for RefusedCallRecorder<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
    S::Error: Send,
    C: Send + 'static,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = ResponseFuture<C, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        if !access::mutates(path) {
            return Box::pin(self.inner.call(request));
        }
        let rpc = path.rsplit('/').next().unwrap_or(path).to_owned();
        // The message is not decoded yet, and that of a caller without permission never will be.
        let record = begun(&rpc, request.extensions(), Map::new());
        let reached = MethodReached::default();
        request.extensions_mut().insert(reached.clone());
        let answer = self.inner.call(request);
        let audit = self.audit.clone();
        Box::pin(async move {
            let response = answer.await?;
            if !reached.get() {
                let status = Status::from_header_map(response.headers());
                let code = status.as_ref().and_then(cellar_api::reason_of).unwrap_or(Code::InvalidArgument);
                let message = status.as_ref().map_or("the request cannot be read", Status::message);
                // Before the answer, so that a caller who floods the log waits for the disk.
                audit.end(&record, Err((code, message))).await;
            }
            Ok(response)
        })
    }
}
