//! Which of etcd's errors are worth repeating, decided once.

use etcd_client::Error;

use crate::error::StoreError;

/// The error as callers of the store see it.
pub(super) fn classify(error: &Error) -> StoreError {
    use tonic_code::{is_compacted, is_full, is_retryable};
    match error {
        Error::GRpcStatus(status) if is_compacted(status.message()) => StoreError::Compacted,
        Error::GRpcStatus(status) if is_full(status.message()) => {
            StoreError::Full(status.message().to_owned())
        }
        Error::GRpcStatus(status) if is_retryable(status.code() as i32, status.message()) => {
            StoreError::Retryable(status.message().to_owned())
        }
        Error::IoError(_)
        | Error::TransportError(_)
        | Error::WatchError(_)
        | Error::LeaseKeepAliveError(_) => StoreError::Retryable(error.to_string()),
        _ => StoreError::Terminal(error.to_string()),
    }
}

/// gRPC codes by number: the layering keeps tonic out of this crate.
mod tonic_code {
    /// cancelled, unknown, deadline exceeded, resource exhausted, aborted, unavailable.
    const RETRYABLE: [i32; 6] = [1, 2, 4, 8, 10, 14];

    pub(super) fn is_retryable(code: i32, message: &str) -> bool {
        // It travels as RESOURCE_EXHAUSTED and stays: a request larger than etcd's gRPC server receives.
        RETRYABLE.contains(&code)
            && !message.contains("message larger than max")
            // Travels as INVALID_ARGUMENT: permissions changed while the request was under way.
            || message.contains("revision of auth store is old")
    }

    /// The alarm NOSPACE is set. The text is etcd's own, the same from 3.4 to 3.6.
    pub(super) fn is_full(message: &str) -> bool {
        message.contains("database space exceeded")
    }

    pub(super) fn is_compacted(message: &str) -> bool {
        message.contains("required revision has been compacted")
    }
}
