//! Writing the log file from a thread of its own, so that a disk that hangs does not block calls that only read.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cellar_model::AuditRecord;
use tokio::sync::{mpsc, oneshot};

use crate::audit::file::LogFile;
use crate::audit::line::line;

/// Lines that may wait for the disk. When the queue is full, callers wait for room.
const MAX_QUEUED: usize = 256;

/// Lines of one write.
const MAX_BATCH: usize = 64;

/// A record is not in the audit log.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the audit log {path}")]
pub struct AuditLogError {
    /// The log's path.
    path: PathBuf,
    /// Why.
    #[source]
    source: io::Error,
}

struct Line {
    text: String,
    /// Whether it must be on the disk before `done`.
    sync: bool,
    /// Receives the outcome.
    done: oneshot::Sender<Result<(), String>>,
}

/// The complete audit trail of this process: a file with a JSON object on each line.
#[derive(Debug, Clone)]
pub struct AuditLog {
    lines: mpsc::Sender<Line>,
    path: Arc<Path>,
}

impl AuditLog {
    /// Opens the log. The file is created with mode 0600, only appended to, and created again after it was renamed.
    ///
    /// # Errors
    /// When it cannot be opened for writing, is a symbolic link or no plain file, or others may write it.
    pub fn open(path: &Path) -> Result<Self, AuditLogError> {
        let failed = |source| AuditLogError { path: path.to_owned(), source };
        let file = LogFile::open(path).map_err(failed)?;
        let (lines, queue) = mpsc::channel(MAX_QUEUED);
        let shown = path.display().to_string();
        std::thread::Builder::new()
            .name("audit-log".to_owned())
            .spawn(move || write_all(file, queue, &shown))
            .map_err(failed)?;
        Ok(Self { lines, path: path.into() })
    }

    /// A log that keeps nothing, for simulations. Must be called within a tokio runtime.
    #[must_use]
    pub fn discarding() -> Self {
        let (lines, mut queue) = mpsc::channel::<Line>(MAX_QUEUED);
        tokio::spawn(async move {
            while let Some(line) = queue.recv().await {
                let _ = line.done.send(Ok(()));
            }
        });
        Self { lines, path: Path::new("/dev/null").into() }
    }

    /// Writes a record within `timeout`; with `sync`, it is on the disk afterwards.
    pub(super) async fn write(
        &self,
        record: &AuditRecord,
        sync: bool,
        timeout: Duration,
    ) -> Result<(), AuditLogError> {
        let failed = |source| AuditLogError { path: self.path.to_path_buf(), source };
        let text = line(record).map_err(failed)?;
        let (done, ended) = oneshot::channel();
        let gone = || io::Error::other("the thread that writes it has ended");
        let write = async {
            self.lines.send(Line { text, sync, done }).await.map_err(|_| gone())?;
            ended.await.map_err(|_| gone())?.map_err(io::Error::other)
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the disk does not answer in time");
        tokio::time::timeout(timeout, write).await.unwrap_or_else(|_| Err(late())).map_err(failed)
    }
}

/// Writes queued lines until every sender is dropped.
fn write_all(mut file: LogFile, mut queue: mpsc::Receiver<Line>, path: &str) {
    let mut works = true;
    while let Some(first) = queue.blocking_recv() {
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && let Ok(next) = queue.try_recv()
        {
            batch.push(next);
        }
        let text: String = batch.iter().map(|line| line.text.as_str()).collect();
        let ended = file.append(&text, batch.iter().any(|line| line.sync)).map_err(|error| error.to_string());
        match &ended {
            Ok(()) if !works => tracing::info!(path, "the audit log can be written again"),
            Err(reason) if works => {
                tracing::error!(
                    path,
                    reason,
                    "the audit log cannot be written: calls that change something are refused"
                );
            }
            _ => {}
        }
        works = ended.is_ok();
        for line in batch {
            // A caller whose timeout has passed does not receive it.
            let _ = line.done.send(ended.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::begun;
    use serde_json::Map;
    use tonic::codegen::http::Extensions;

    #[tokio::test]
    async fn all_of_many_concurrent_records_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(&path).unwrap();
        let writes = (0..1000).map(|n| {
            let log = log.clone();
            async move {
                let record = begun(&format!("rpc-{n}"), &Extensions::new(), Map::new());
                log.write(&record, n % 7 == 0, Duration::from_secs(60)).await.unwrap();
            }
        });
        futures_util::future::join_all(writes).await;
        let text = std::fs::read_to_string(&path).unwrap();
        let read = |line: &str| serde_json::from_str::<AuditRecord>(line).unwrap().rpc;
        let rpcs: std::collections::BTreeSet<String> = text.lines().map(read).collect();
        assert_eq!(rpcs.len(), 1000);
    }

    #[tokio::test]
    async fn a_failed_write_names_its_reason_and_later_writes_succeed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let log = AuditLog::open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::create_dir(&path).unwrap();
        let record = begun("Backup", &Extensions::new(), Map::new());
        let timeout = Duration::from_secs(60);
        let error = log.write(&record, true, timeout).await.unwrap_err();
        assert!(error.to_string().contains("audit.log"), "{error}");
        assert!(std::error::Error::source(&error).unwrap().to_string().contains("directory"));
        std::fs::remove_dir(&path).unwrap();
        log.write(&record, true, timeout).await.unwrap();
        assert!(AuditLog::open(dir.path()).is_err());
    }
}
