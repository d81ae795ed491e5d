//! The private directories of a copy: stopping what runs in them, and removing them.

use std::path::Path;

use cellar_postgres::{StopTimeouts, stop};

/// Stops the private instance of a data directory at once, and removes its private directories. The data stays.
pub(crate) async fn stop_and_remove_scratch(data: &Path, scratch: &Path) {
    if data.exists()
        && let Err(error) = stop(data, &StopTimeouts::immediate()).await
    {
        tracing::warn!(data = %data.display(), %error, "a private instance does not stop");
    }
    remove_directory(scratch);
}

/// Removes a directory with everything in it. One that is not there, or cannot be removed, is no error; the latter
/// is logged.
pub(crate) fn remove_directory(path: &Path) {
    match std::fs::remove_dir_all(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be removed"),
    }
}
