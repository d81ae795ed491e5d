//! A multiadmin: the real deciders of failovers, and the call by which the primary is moved.

use std::sync::Arc;
use std::time::Duration;

use cellar_admin::{Admin, AskMember, AuditLog, Failover};
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::{CellName, Keyspace};
use cellar_topology::{Kv, Store};
use tokio::sync::mpsc;
use tonic::Request;

use crate::replication::network::Network;

/// Runs a multiadmin at a site until it is killed. The cells that come in are to lead; an empty name is any.
pub async fn run(
    keys: Keyspace,
    kv: Arc<dyn Kv>,
    (network, site): (Network, usize),
    cells: Vec<CellName>,
    mut inbox: mpsc::UnboundedReceiver<String>,
) {
    let store = Store::new(kv, keys);
    let nobody = Arc::new(|_: &cellar_model::Pooler| Err("only members are asked".to_owned()));
    let admin = Admin::start(store, nobody, AuditLog::discarding());
    let ask: Arc<AskMember> = Arc::new(move |card| {
        let network = network.clone();
        let to = cells.iter().position(|cell| *cell == card.cell);
        Box::pin(async move { network.ask(site, to?).await.ok() })
    });
    tokio::spawn(Failover::asking(admin.clone(), ask).run());
    while let Some(to) = inbox.recv().await {
        let admin = admin.clone();
        tokio::spawn(async move {
            let request = v1::SwitchPrimaryRequest { to, ..Default::default() };
            match Api::switch_primary(&admin, Request::new(request)).await {
                Ok(_) => tracing::debug!("the primary moves"),
                Err(status) => tracing::debug!(reason = status.message(), "the primary does not move"),
            }
        });
    }
    // Nobody asks any more: it goes on deciding.
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}
