//! Serving: limits for each caller, the guard, health and reflection.

use std::time::Duration;

use cellar_api::v1::multi_admin_server::MultiAdminServer;
use cellar_tls::{Guard, MAX_REQUEST, ServerLimits};
use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::server::Connected;

use crate::admin::Admin;
use crate::api::health;
use crate::audit::refused_calls::RecordRefusedCalls;

/// How long running requests may take to end after a shutdown was requested.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// The server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors of our own API do not load: a bug.
    #[error("the reflection service cannot be built")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// Serving ended with an error.
    #[error("the gRPC server failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves the API to callers that `guard` admits, on accepted connections, until `shutdown` completes; then for at most
/// three seconds more, so that running requests can end.
///
/// # Errors
/// When the server cannot be set up, or accepting fails for good.
pub async fn serve<I, IO, E>(
    admin: Admin,
    incoming: I,
    guard: Guard,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), ServeError>
where
    I: Stream<Item = Result<IO, E>> + Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    IO::ConnectInfo: Clone + Send + Sync + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(cellar_api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = ServerLimits::default()
        .server()
        // Outside the guard: calls that it refuses are recorded, too.
        .layer(RecordRefusedCalls(admin.audit.clone()))
        .layer(guard)
        .add_service(MultiAdminServer::new(admin.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(ServeError::Reflection)?)
        .add_service(reflection().build_v1alpha().map_err(ServeError::Reflection)?);
    let mut ending = admin.ending();
    let ended = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let serving = server.serve_with_incoming_shutdown(incoming, ended);
    let reporting = health::report(admin.clone(), reporter);
    let limit = async {
        shutdown.await;
        // Streams would not end by themselves.
        admin.end_streams();
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::pin!(serving, reporting, limit);
    let mut reports = true;
    loop {
        tokio::select! {
            result = &mut serving => return result.map_err(ServeError::Transport),
            () = &mut reporting, if reports => reports = false,
            () = &mut limit => {
                tracing::warn!("running requests did not end in time");
                return Ok(());
            }
        }
    }
}
