//! Calls that may be repeated: reads, and writes with a request id.

use std::time::{Duration, Instant};

use tonic::{Code, Response, Status};

use crate::client::target::Target;
use crate::failure::Outcome;

/// How long a service may be away before a person is told; a restart takes less.
const PATIENCE: Duration = Duration::from_secs(10);

/// How soon to try again.
const PAUSE: Duration = Duration::from_millis(250);

/// Calls until it answers, or has been unavailable for ten seconds.
pub(crate) async fn call<T, F>(target: &Target, mut attempt: impl FnMut() -> F) -> Outcome<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(status) => return Err(target.failure(status)),
        }
    }
}
