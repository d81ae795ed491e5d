//! A cluster with quorum commit.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::local::Cluster;
use crate::machine::wait::wait_for;

impl Cluster {
    /// A running cluster with the given cells, an HAProxy and quorum commit, made from nothing.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with_quorum_and_route(cells: &[&str]) -> Self {
        Self::with_route(&cells.join(",")).made_quorum(cells)
    }

    /// The same with a PgBouncer in each cell.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    #[track_caller]
    pub fn with_quorum_and_pool(cells: &[&str]) -> Self {
        Self::with_pool(&cells.join(",")).made_quorum(cells)
    }

    fn made_quorum(self, cells: &[&str]) -> Self {
        self.cellar(&["durability", "quorum"]);
        self.wait_whole(cells, Duration::from_secs(120));
        self
    }

    /// The leadership on record; null when multiadmin does not answer.
    #[must_use]
    #[track_caller]
    pub fn leadership(&self) -> Value {
        let answer = self.try_cellar(&["durability", "--output", "json"]);
        let view: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        view["leader"]["leadership"].clone()
    }

    /// Waits until all of these cells are in the cohort, nothing of a change is left, and all but the primary stream.
    #[track_caller]
    pub fn wait_whole(&self, cells: &[&str], timeout: Duration) {
        wait_for("all cells to be in the cohort", timeout, || {
            let leadership = self.leadership();
            let rules = leadership["rules"].as_array()?;
            let is_whole = rules.len() == 1 && rules[0]["cohort"].as_object()?.len() == cells.len();
            (is_whole && leadership["phase"] == "LEADERSHIP_PHASE_STEADY").then_some(())
        });
        let primary = self.primary();
        for cell in cells.iter().filter(|cell| **cell != primary) {
            wait_for(&format!("{cell} to stream"), timeout, || {
                let asked = self.try_sql(cell, "SELECT status FROM pg_stat_wal_receiver");
                (asked.stdout.trim() == "streaming").then_some(())
            });
        }
    }
}
