//! Names that pgBackRest cannot write down: it keeps one name a line.
//!
//! A manifest with a line break in a name is written without complaint (2.45 to 2.60), and cannot be loaded again. Nothing
//! can then be restored from the backup, nor be built on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cellar_model::{Code, Pooler, Refusal};
use cellar_postgres::query;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::failure::JobFailure;

/// The databases whose name has a line break. Bytes beyond ASCII are octal: not every name is UTF-8.
const DATABASES: &str = "SELECT '''' || encode(namesend(datname), 'escape') || '''' FROM pg_database WHERE position(chr(10) IN datname) > 0";

fn breaks_line(bytes: &[u8]) -> bool {
    bytes.contains(&b'\n')
}

fn refusal(what: &str, hint: &str) -> JobFailure {
    let message =
        format!("{what} has a line break in its name, and no backup that contains it could be restored");
    Refusal::new(Code::Unsupported, message).hint(hint).into()
}

/// Refuses an instance with a name that pgBackRest could not read again, before anything is written.
///
/// # Errors
/// When there is such a database or file, or the instance cannot be asked.
pub(super) async fn check_names(agent: &Agent, card: &Pooler) -> Result<(), JobFailure> {
    let endpoint = agent.endpoint(card);
    let found = query(&endpoint, DATABASES, PROBE_TIMEOUT).await.map_err(|error| {
        Refusal::new(Code::CellDown, format!("the instance of cell {} does not answer: {error}", agent.cell))
            .hint("look at `cellar status`")
    })?;
    if let Some(name) = found.iter().flatten().flatten().next() {
        let what = format!("database {}", name.escape_debug());
        return Err(refusal(
            &what,
            "rename it on the primary (ALTER DATABASE ... RENAME TO), then ask again",
        ));
    }
    let data = PathBuf::from(&card.data_directory);
    match on_own_thread(move || unwritable_name(&data)).await {
        Some(path) => {
            let what = format!("file {}", path.display().to_string().escape_debug());
            Err(refusal(&what, "rename it or move it out of the data directory, then ask again"))
        }
        None => Ok(()),
    }
}

/// What `work` finds. Looking through many files takes long, and the caller's thread also renews the lease; on a file system
/// that does not answer it never ends, and must not keep this process from ending.
async fn on_own_thread<T: Default + Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, found) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || drop(done.send(work())));
    found.await.unwrap_or_default()
}

/// A file below `data` with a line break in its name; tablespaces and other links to directories are followed.
fn unwritable_name(data: &Path) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let mut directories = vec![data.to_owned()];
    // A link may lead back to where it lies.
    let mut seen = BTreeSet::new();
    while let Some(directory) = directories.pop() {
        // What cannot be listed, or is gone meanwhile, pgBackRest finds out by itself.
        let Ok(metadata) = directory.metadata() else { continue };
        if !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if breaks_line(entry.file_name().as_bytes()) {
                return Some(entry.path());
            }
            let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            if is_link && entry.path().is_dir() || entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_that_never_ends_keeps_nobody() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let brief = std::time::Duration::from_millis(10);
        let look = on_own_thread(move || ended.recv().is_err());
        assert!(runtime.block_on(async { tokio::time::timeout(brief, look).await }).is_err());
        // Would wait for a thread of its own.
        drop(runtime);
        drop(end);
        assert_eq!(
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(on_own_thread(|| 7)),
            7
        );
    }

    #[test]
    fn name_with_a_line_break_is_found_also_behind_a_link() {
        let (data, space) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directory = data.path().join("pg_tblspc");
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::symlink(space.path(), directory.join("16384")).unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.join("dangling")).unwrap();
        std::os::unix::fs::symlink(data.path(), directory.join("back")).unwrap();
        std::fs::write(data.path().join("a = {\"b\"}\t\r"), "").unwrap();
        assert_eq!(unwritable_name(data.path()), None);
        std::fs::write(space.path().join("new\nline"), "").unwrap();
        assert_eq!(unwritable_name(data.path()), Some(directory.join("16384/new\nline")));
    }
}
