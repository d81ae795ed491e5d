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

#[derive(Debug)]
struct Seen {
    process: Process,
    since: Instant,
    is_told: bool,
}

/// The processes of a dead server, from round to round.
#[derive(Default)]
pub(crate) struct Orphans {
    seen: Vec<Seen>,
}

impl Orphans {
    /// Looks for them while no server runs, and kills those that have been there for a while. What to say of those that are
    /// there: nothing may be done to the data before they are gone; none when there are none.
    ///
    /// # Errors
    /// When processes cannot be looked at, or not be killed.
    pub(crate) fn clear(&mut self, data: &Path) -> Result<Option<String>, PostgresError> {
        let (found, now) = (orphans(data)?, Instant::now());
        self.seen.retain(|seen| found.contains(&seen.process));
        for process in found {
            if !self.seen.iter().any(|seen| seen.process == process) {
                self.seen.push(Seen { process, since: now, is_told: false });
            }
        }
        for seen in self.seen.iter_mut().filter(|seen| now.duration_since(seen.since) >= GRACE) {
            if !std::mem::replace(&mut seen.is_told, true) {
                let pid = seen.process.pid;
                tracing::warn!(pid, "a process of a server that died does not end: it is killed");
            }
            let _ = kill_orphan(&seen.process)?;
        }
        let pids: Vec<i32> = self.seen.iter().map(|seen| seen.process.pid).collect();
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
    use std::io::BufRead;
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_what_has_been_there_for_a_while_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut orphans = Orphans::default();
        assert_eq!(orphans.clear(directory.path()).unwrap(), None);
        // Named like PostgreSQL's, and at work in the data directory: one that has children is a postmaster, and one without a
        // title a person's.
        let programs = ["postgres", "parent/postgres"].map(|name| directory.path().join(name));
        std::fs::create_dir(directory.path().join("parent")).unwrap();
        for (from, to) in ["/bin/sleep", "/bin/bash"].iter().zip(&programs) {
            std::fs::copy(from, to).unwrap();
        }
        let mut persons =
            Command::new(&programs[0]).arg("600").current_dir(directory.path()).spawn().unwrap();
        let script = "set -m; (exec -a 'postgres: app: walsender' ./postgres 600) & echo $!; wait";
        let mut postmaster = Command::new(&programs[1])
            .args(["-c", script])
            .current_dir(directory.path())
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let _ = std::io::BufReader::new(postmaster.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let child: i32 = said.trim().parse().unwrap();
        let has_title = || {
            // While the program is being replaced it has none.
            let arguments = Process::find(child).map(|process| process.arguments()).unwrap_or_default();
            arguments.first().is_some_and(|title| title.starts_with("postgres: "))
        };
        while !has_title() {
            std::thread::yield_now();
        }
        assert_eq!(orphans.clear(directory.path()).unwrap(), None);
        postmaster.kill().unwrap();
        let _ = postmaster.wait().unwrap();
        let told = orphans.clear(directory.path()).unwrap().unwrap();
        assert!(told.contains(&format!("[{child}]")), "{told}");
        assert!(Process::find(child).is_some());
        for Seen { since, .. } in &mut orphans.seen {
            *since = Instant::now().checked_sub(GRACE).unwrap();
        }
        assert!(orphans.clear(directory.path()).unwrap().is_some(), "it may not be gone yet");
        let deadline = Instant::now() + Duration::from_secs(10);
        while orphans.clear(directory.path()).unwrap().is_some() {
            assert!(Instant::now() < deadline, "it is there still");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(persons.try_wait().unwrap(), None);
        persons.kill().unwrap();
        let _ = persons.wait().unwrap();
    }
}
