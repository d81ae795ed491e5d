//! PostgreSQL of a cluster's cells.

use std::process::Command;

use crate::cluster::local::Cluster;
use crate::machine::run::{Finished, as_user, run};
use crate::machine::wait::eventually;

impl Cluster {
    /// Runs SQL in a cell with psql, as the OS user of PostgreSQL.
    #[must_use]
    #[track_caller]
    pub fn try_sql(&self, cell: &str, sql: &str) -> Finished {
        let instance = self.instance(cell);
        run(as_user(&self.user, "psql").args([
            "-h",
            &instance.sockets,
            "-p",
            &instance.port.to_string(),
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
        let instance = self.instance(cell);
        let mut command = as_user(&self.user, program);
        command
            .args(["-h", &instance.sockets, "-p", &instance.port.to_string()])
            .args(arguments)
            .arg("postgres");
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
        let primary = self.primary();
        eventually(&format!("{cell} to stream from {primary}"), || {
            self.try_sql(cell, "SELECT status FROM pg_stat_wal_receiver").stdout.trim() == "streaming"
                && self.status(cell).is_some_and(|status| status.streams_from.as_ref() == Some(&primary))
        });
    }
}
