//! Cellar as a subject.

use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use cellar_tests::{Application, Cluster, Instance, TABLE, run};

use crate::failover::rounds::Subject;

pub(crate) const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

const WHOLE_TIMEOUT: Duration = Duration::from_secs(240);

/// A term that was steady for this long has held. A loss before that is waited out on purpose.
pub(crate) const HELD: Duration = Duration::from_secs(31);

/// A local cluster of three cells with quorum commit and HAProxy.
pub(crate) struct Ours {
    pub(crate) cluster: Cluster,
    pub(crate) application: Application,
    instances: Vec<(&'static str, Instance)>,
}

impl Ours {
    pub(crate) fn start() -> Self {
        let cluster = Cluster::with_quorum_and_route(&CELLS);
        let application = cluster.application();
        let _ = run(application.routed("psql").args(["-XAtqw", "-c", TABLE])).ok();
        let instances = CELLS.map(|cell| (cell, cluster.instance(cell))).to_vec();
        sleep(HELD);
        Self { cluster, application, instances }
    }

    pub(crate) fn cell(&self, port: u16) -> &'static str {
        let found = self.instances.iter().find(|(_, instance)| instance.port == u32::from(port));
        found.map_or_else(|| panic!("no cell has the port {port}"), |(cell, _)| *cell)
    }

    /// Waits until the next loss is a first one.
    pub(crate) fn settle(&self) {
        self.cluster.wait_whole(&CELLS, WHOLE_TIMEOUT);
        sleep(HELD);
    }
}

impl Subject for Ours {
    fn client(&self) -> Box<dyn Fn() -> Command + Send> {
        let application = self.application.clone();
        Box::new(move || application.routed("psql"))
    }

    fn postmaster(&self, port: u16) -> i32 {
        self.cluster.postmaster(self.cell(port))
    }

    fn processes(&self, port: u16) -> Vec<i32> {
        self.cluster.processes_of_cell(self.cell(port))
    }

    fn recover(&self) {
        self.cluster.cellar(&["up"]);
        self.settle();
    }

    fn rows(&self) -> Vec<u64> {
        let asked = self.cluster.try_app_sql(&self.cluster.primary(), "SELECT id FROM ledger").ok();
        asked.lines().filter_map(|line| line.parse().ok()).collect()
    }
}
