//! Failover: for each database with quorum commit, members are asked several times a second how they are, and the next step
//! is written into the record of its leader.
//!
//! Every multiadmin does this, without being elected: the record's revision decides whose step it is. What the step is decides
//! [`cellar_model::availability::next`] alone. Started by `main`; talks to poolers and writes to etcd.

mod decider;
mod reports;

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{DatabaseName, Durability};
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::failover::decider::Decider;

/// How often to look which databases have quorum commit.
const INTERVAL: Duration = Duration::from_millis(500);

/// Watches the databases with quorum commit.
#[derive(Debug)]
pub struct Failover {
    admin: Admin,
    watched: BTreeMap<DatabaseName, Watched>,
}

/// The task of one database. It ends with this.
#[derive(Debug)]
struct Watched(JoinHandle<()>);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Failover {
    /// For this process.
    #[must_use]
    pub fn new(admin: Admin) -> Self {
        Self { admin, watched: BTreeMap::new() }
    }

    /// Watches; never returns.
    pub async fn run(mut self) {
        loop {
            let wanted: Vec<DatabaseName> = {
                let view = self.admin.view();
                let has_quorum = |durability| durability == Durability::Quorum;
                let wanted = view.databases.values().filter(|database| has_quorum(database.durability));
                wanted.map(|database| database.name.clone()).collect()
            };
            self.watched.retain(|name, task| wanted.contains(name) && !task.0.is_finished());
            for name in wanted {
                let admin = self.admin.clone();
                self.watched
                    .entry(name.clone())
                    .or_insert_with(|| Watched(tokio::spawn(Decider::new(admin, name).run())));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
