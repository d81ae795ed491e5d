//! What a postmaster that died left behind.
//!
//! PostgreSQL's processes end by themselves when their postmaster does. One that is stopped by a signal, or hangs in a read or
//! write, does not, and nothing may be started or replaced in its data directory meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_postgres::{PostgresError, kill_orphan, orphans};
use cellar_system::Process;

/// How long they may take to notice that their postmaster is gone, which takes milliseconds.
const GRACE: Duration = Duration::from_secs(5);

/// The processes of a dead server, from round to round.
#[derive(Default)]
pub(crate) struct Orphans {
    seen: Vec<(Process, Instant)>,
}

impl Orphans {
    /// Looks for them while no server runs, and kills those that have been there for a while. What to say of those that are
    /// there: nothing may be done to the data before they are gone; none when there are none.
    ///
    /// # Errors
    /// When processes cannot be looked at, or not be killed.
    pub(crate) fn clear(&mut self, data: &Path) -> Result<Option<String>, PostgresError> {
        let (found, now) = (orphans(data)?, Instant::now());
        self.seen.retain(|(process, _)| found.contains(process));
        for process in found {
            if !self.seen.iter().any(|(seen, _)| *seen == process) {
                self.seen.push((process, now));
            }
        }
        for (process, _) in self.seen.iter().filter(|(_, since)| now.duration_since(*since) >= GRACE) {
            tracing::warn!(pid = process.pid, "a process of a server that died does not end: it is killed");
            let _ = kill_orphan(process)?;
        }
        let pids: Vec<i32> = self.seen.iter().map(|(process, _)| process.pid).collect();
        Ok((!pids.is_empty()).then(|| {
            format!(
                "{} is still in use by processes {pids:?} of a server that died: they are killed, and PostgreSQL starts when they are gone. One that does not end waits for its disk",
                data.display()
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn only_what_has_been_there_for_a_while_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut orphans = Orphans::default();
        assert_eq!(orphans.clear(directory.path()).unwrap(), None);
        // Named like one, and works in the data directory.
        let program = directory.path().join("postgres");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let mut child =
            Command::new(&program).arg("600").current_dir(directory.path()).process_group(0).spawn().unwrap();
        let told = orphans.clear(directory.path()).unwrap().unwrap();
        assert!(told.contains(&format!("[{}]", child.id())), "{told}");
        assert_eq!(child.try_wait().unwrap(), None);
        for (_, since) in &mut orphans.seen {
            *since = Instant::now().checked_sub(GRACE).unwrap();
        }
        assert!(orphans.clear(directory.path()).unwrap().is_some(), "it is not gone yet");
        assert!(!child.wait().unwrap().success());
        assert_eq!(orphans.clear(directory.path()).unwrap(), None);
    }
}
