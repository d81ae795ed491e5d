//! Work that blocks, beside the async runtime.

use crate::error::provision_error::{ProvisionError, Result};

/// Runs it on a thread of its own and waits for it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |error: tokio::task::JoinError| ProvisionError::Start {
        what: "a thread".to_owned(),
        source: error.into(),
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
