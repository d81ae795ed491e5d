//! Records as the API's messages.

use cellar_model::Refusal;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::refusal::internal;

/// The message of a record. Only a bug makes it fail: model and proto disagree.
pub(crate) fn message<R: Serialize, M: DeserializeOwned>(record: &R) -> Result<M, Refusal> {
    cellar_api::to_message(record).map_err(|error| internal(&error))
}
