//! PostgreSQL of a cluster's cells.

use std::path::PathBuf;
use std::process::Command;

use crate::cluster::local::Cluster;
use crate::machine::run::{Finished, as_user, run};
use crate::machine::wait::eventually;

impl Cluster {
    /// pgBackRest's directory of the WAL of the database that the cluster was made with, such as `15-1`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn archive(&self) -> PathBuf {
        let stanza = self.directory.join("repo/archive/app");
        let entries = std::fs::read_dir(&stanza).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_first = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with("-1"));
        let Some(path) = entries.into_iter().find(is_first) else {
            panic!("no archive in {}", stanza.display())
        };
        path
    }

    /// Where a cell's PostgreSQL can be reached: socket directory and port. As its own pid file says, or multiadmin when
    /// it does not run.
    fn socket(&self, cell: &str) -> (String, String) {
        let path = self.directory.join(cell).join("pg_data/postmaster.pid");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // Lines: pid, data directory, start time, port, socket directory.
        let mut lines = text.lines().skip(3).map(|line| line.trim().to_owned());
        match (lines.next(), lines.next()) {
            (Some(port), Some(sockets)) if !sockets.is_empty() => (sockets, port),
            _ => {
                let instance = self.instance(cell);
                (instance.sockets, instance.port.to_string())
            }
        }
    }

    /// Runs SQL in a cell with psql, as the OS user of PostgreSQL.
    #[must_use]
    #[track_caller]
    pub fn try_sql(&self, cell: &str, sql: &str) -> Finished {
        let (sockets, port) = self.socket(cell);
        run(as_user(&self.user, "psql").args([
            "-h",
            &sockets,
            "-p",
            &port,
            "-d",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-XAtqc",
            sql,
        ]))
    }

    /// Runs SQL, which must succeed, and returns what it prints.
    #[track_caller]
    pub fn sql(&self, cell: &str, sql: &str) -> String {
        self.try_sql(cell, sql).ok().trim().to_owned()
    }

    /// A command of PostgreSQL's against a cell, as the OS user of PostgreSQL.
    #[must_use]
    pub fn tool(&self, program: &str, cell: &str, arguments: &[&str]) -> Command {
        let (sockets, port) = self.socket(cell);
        let mut command = as_user(&self.user, program);
        command.args(["-h", &sockets, "-p", &port]).args(arguments).arg("postgres");
        command
    }

    /// Fills the primary with pgbench's tables; scale 1 is about 16 MB.
    #[track_caller]
    pub fn load(&self, scale: u32) {
        let primary = self.primary();
        let _ = run(&mut self.tool("pgbench", &primary, &["-i", "-q", "-s", &scale.to_string()])).ok();
    }

    /// Waits until a cell is a standby that streams: it says so itself, and its status in etcd, which may be a second
    /// old, says so too.
    #[track_caller]
    pub fn wait_streaming(&self, cell: &str) {
        eventually(&format!("{cell} to stream from the primary"), || {
            // The recorded one of this moment: it may change meanwhile.
            let Some(primary) = self.recorded_primary() else { return false };
            self.try_sql(cell, "SELECT status FROM pg_stat_wal_receiver").stdout.trim() == "streaming"
                && self.status(cell).is_some_and(|status| status.streams_from.as_ref() == Some(&primary))
        });
    }
}
