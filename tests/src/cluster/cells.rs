//! The processes of one cell, all at once.

use std::time::Instant;

use nix::sys::signal::Signal;

use crate::cluster::local::Cluster;
use crate::machine::process::{called, is_alive, processes_of, signal};
use crate::machine::shared_memory;
use crate::machine::wait::eventually;

impl Cluster {
    /// Every process of a cell: its multipooler, PostgreSQL with all its processes, and pgBackRest. Clients of it are none.
    #[must_use]
    pub fn processes_of_cell(&self, cell: &str) -> Vec<i32> {
        let clients = called("psql");
        let all = processes_of(&self.directory.join(cell));
        all.into_iter().filter(|pid| !clients.contains(pid)).collect()
    }

    /// Kills all of these at once, and waits until they are gone. Returns when it began.
    pub fn kill_at_once(&self, pids: &[i32]) -> Instant {
        pids.iter().for_each(|pid| shared_memory::remember(*pid));
        let begun = Instant::now();
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        eventually("processes that were killed to be gone", || !pids.iter().any(|pid| is_alive(*pid)));
        begun
    }
}
