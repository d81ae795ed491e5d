//! Failover: for each database with quorum commit, members are asked several times a second how they are, and the next step
//! is written into the record of its leader.
//!
//! Every multiadmin does this, without being elected: the record's revision decides whose step it is. What the step is decides
//! [`cellar_model::availability::next`] alone. Started by `main`; talks to poolers and writes to etcd.

mod decider;
mod reports;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{DatabaseName, Durability, Pooler};
use futures_util::future::BoxFuture;
use tokio::task::JoinHandle;

use crate::admin::Admin;
use crate::failover::decider::Decider;

/// How often to look which databases have quorum commit.
const INTERVAL: Duration = Duration::from_millis(500);

/// Asks a member how it is; none without an answer. The caller bounds it.
pub type AskMember = dyn Fn(Pooler) -> BoxFuture<'static, Option<v1::MemberFacts>> + Send + Sync;

/// Watches the databases with quorum commit.
pub struct Failover {
    admin: Admin,
    ask: Arc<AskMember>,
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
        let of = admin.clone();
        let ask: Arc<AskMember> = Arc::new(move |card| {
            let admin = of.clone();
            Box::pin(async move {
                let mut client = admin.pooler_client(&card).ok()?;
                let answer = client.get_member_facts(v1::GetMemberFactsRequest {}).await;
                answer.ok().map(tonic::Response::into_inner)
            })
        });
        Self::asking(admin, ask)
    }

    /// The same, which asks members by `ask`.
    #[must_use]
    pub fn asking(admin: Admin, ask: Arc<AskMember>) -> Self {
        Self { admin, ask, watched: BTreeMap::new() }
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
                let (admin, ask) = (self.admin.clone(), Arc::clone(&self.ask));
                self.watched
                    .entry(name.clone())
                    .or_insert_with(|| Watched(tokio::spawn(Decider::new(admin, name, ask).run())));
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

impl std::fmt::Debug for Failover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failover").field("watched", &self.watched).finish_non_exhaustive()
    }
}
