//! Whether a server that was told to stop is still writing its checkpoint.
//!
//! A fast shutdown ends with a checkpoint of all that the shared buffers hold. On a slow disk that takes minutes. To stop
//! it there by force throws the work away, and the next start replays as much WAL.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use cellar_system::Process;
use tokio::time::Instant;

/// Where `pg_control` has the state: after the system identifier and two version numbers. So it is since PostgreSQL 8.
const STATE_OFFSET: usize = 16;

/// The shutdown checkpoint of a primary is being written.
const SHUTTING_DOWN: u32 = 3;

/// The server runs as a primary. A checkpoint that had begun before the shutdown is completed first.
const IN_PRODUCTION: u32 = 6;

/// How long a server that has not begun its shutdown checkpoint may write nothing.
const QUIET_TIME: Duration = Duration::from_secs(5);

/// Watches a server that was told to stop.
pub(crate) struct ShutdownCheckpoint {
    written: u64,
    last_written: Option<Instant>,
    begun: Instant,
}

impl ShutdownCheckpoint {
    /// Begins to watch.
    pub(crate) fn watch(postmaster: &Process) -> Self {
        Self { written: written(postmaster), last_written: None, begun: Instant::now() }
    }

    /// Whether the server still writes what it has to. Asked again and again.
    pub(crate) fn is_written(&mut self, postmaster: &Process, data_directory: &Path) -> bool {
        let written = written(postmaster);
        if written > self.written {
            self.last_written = Some(Instant::now());
        }
        self.written = written;
        match state(data_directory) {
            Some(SHUTTING_DOWN) => true,
            Some(IN_PRODUCTION) => self.last_written.unwrap_or(self.begun).elapsed() < QUIET_TIME,
            _ => false,
        }
    }
}

/// Bytes that the server's own processes have written: the archiver's commands are not among them.
fn written(postmaster: &Process) -> u64 {
    postmaster.children().iter().map(Process::own_bytes_written).sum()
}

fn state(data_directory: &Path) -> Option<u32> {
    let mut head = [0; STATE_OFFSET + 4];
    File::open(data_directory.join("global/pg_control")).ok()?.read_exact(&mut head).ok()?;
    Some(u32::from_ne_bytes(head[STATE_OFFSET..].try_into().ok()?))
}
