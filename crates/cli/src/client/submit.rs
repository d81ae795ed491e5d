//! What every request for a job carries.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cellar_api::wkt;
use cellar_model::RequestId;

/// A duration as requests carry it. The flags take at most ten years, so it fits.
pub(crate) fn request_duration(duration: Duration) -> wkt::Duration {
    wkt::Duration { seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), nanos: 0 }
}

/// The id of the last request; it is part of the message when the command is interrupted before the answer came.
static LAST: Mutex<Option<String>> = Mutex::new(None);

/// The request's id: the given one, or a new one. With an id a request whose answer was lost can be sent again.
pub(crate) fn request_id(given: Option<&RequestId>) -> String {
    let id = given.map_or_else(|| format!("cli-{}", uuid::Uuid::now_v7()), ToString::to_string);
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
    id
}

/// The id of the last request, if there was one.
pub(crate) fn last_request() -> Option<String> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A text that requests carry empty when it is not given.
pub(crate) fn or_empty(given: Option<&impl ToString>) -> String {
    given.map(ToString::to_string).unwrap_or_default()
}
