//! Calls that are repeated while multiadmin is unavailable: reads, and writes that carry a request id.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Response, Status};

use crate::client::target::{Client, Target};
use crate::failure::Outcome;

/// How long multiadmin may be unavailable before the command fails. A restart takes less.
const UNAVAILABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause between two attempts. Constant: one person's command is no load that has to back off.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);

impl Target {
    /// Sends the request until it is answered, or multiadmin has been unavailable for too long.
    pub(crate) async fn call<R, T>(
        &self,
        request: R,
        rpc: impl AsyncFn(Client, R) -> Result<Response<T>, Status>,
    ) -> Outcome<T>
    where
        R: Clone,
    {
        let client = self.client()?;
        let deadline = Instant::now() + UNAVAILABLE_TIMEOUT;
        loop {
            match rpc(client.clone(), request.clone()).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if status.code() == Code::Unavailable && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(status) => return Err(self.failure(status)),
            }
        }
    }
}
