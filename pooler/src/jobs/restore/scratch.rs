//! The private directories of a copy: stopping what runs in them, and removing them.

use std::path::{Path, PathBuf};

use cellar_postgres::{Postmaster, StopTimeouts, remove_left_memory, restore_auto_conf, running, stop};
use cellar_system::is_same_place;

/// Stops the private instance of a data directory at once, and removes its private directories. The data stays, with
/// the configuration that it had.
pub(crate) async fn stop_and_remove_scratch(data: &Path, scratch: &Path) {
    if data.exists() {
        if let Err(error) = stop(data, &StopTimeouts::immediate()).await {
            tracing::warn!(data = %data.display(), %error, "a private instance does not stop");
        } else if let Err(error) = restore_auto_conf(data) {
            // A member's next start puts it back.
            tracing::warn!(data = %data.display(), %error, "its settings are not put back");
        }
    }
    // A server that was killed leaves its memory, and no next start in this directory may come to remove it.
    if let Err(error) = remove_left_memory(data) {
        tracing::warn!(data = %data.display(), %error, "shared memory stays behind");
    }
    remove_directory(scratch).await;
}

/// Stops the private instance of a data directory that a member may run on, and removes its private directories.
pub(crate) async fn stop_private(data: &Path, scratch: &Path) {
    let is_private = |postmaster: &Postmaster| {
        postmaster.socket_directory.as_ref().is_none_or(|directory| is_same_place(directory, scratch))
    };
    match running(data) {
        Ok(Some(postmaster)) if !is_private(&postmaster) => remove_directory(scratch).await,
        _ => stop_and_remove_scratch(data, scratch).await,
    }
}

/// Removes a directory with everything in it. One that is not there, or cannot be removed, is no error; the latter
/// is logged.
///
/// Deleting many files takes long, and the thread of the caller also renews the lease, so another one deletes.
pub(crate) async fn remove_directory(path: &Path) {
    let path = PathBuf::from(path);
    let _ = tokio::task::spawn_blocking(move || match std::fs::remove_dir_all(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot be removed"),
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A runtime of one thread that another task also needs, as the pooler's lease does.
    #[tokio::test(flavor = "current_thread")]
    async fn other_tasks_go_on_while_many_files_are_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let many = directory.path().join("many");
        for at in 0..200 {
            let below = many.join(at.to_string());
            std::fs::create_dir_all(&below).unwrap();
            for file in 0..50 {
                std::fs::write(below.join(file.to_string()), "").unwrap();
            }
        }
        let others = std::rc::Rc::new(std::cell::Cell::new(0));
        let seen = std::rc::Rc::clone(&others);
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async move {
                tokio::task::spawn_local(async move {
                    loop {
                        others.set(others.get() + 1);
                        tokio::task::yield_now().await;
                    }
                });
                remove_directory(&many).await;
                assert!(!many.exists());
                assert!(seen.get() > 10, "the other task ran {} times", seen.get());
            })
            .await;
    }
}
