//! Between the model's records and the API's messages.
//!
//! Both have the same canonical JSON, so one generic conversion through it
//! serves every record, and a test over all of them keeps the two definitions
//! from drifting apart.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The two definitions of a record do not agree, or a message breaks the model's rules.
#[derive(Debug, thiserror::Error)]
#[error("record and message do not agree")]
pub struct ConvertError(#[from] serde_json::Error);

/// The API's message for a record of the model.
///
/// # Errors
/// Only if model and proto disagree, which a test excludes.
pub fn to_message<R: Serialize, M: DeserializeOwned>(record: &R) -> Result<M, ConvertError> {
    Ok(serde_json::from_value(serde_json::to_value(record)?)?)
}

/// The model's record for a message.
///
/// # Errors
/// When a field is missing or breaks the model's rules.
pub fn from_message<M: Serialize, R: DeserializeOwned>(message: &M) -> Result<R, ConvertError> {
    Ok(serde_json::from_value(serde_json::to_value(message)?)?)
}
