//! Databases with their primary, lock, incarnation and cells.

use cellar_api::v1;
use cellar_model::{DatabaseName, Refusal};
use cellar_topology::View;

use crate::admin::Admin;
use crate::cluster::poolers::of_database;
use crate::deadline::Deadline;
use crate::jobs::stage;
use crate::message::message;

impl Admin {
    pub(crate) async fn list_databases(
        &self,
        deadline: Deadline,
    ) -> Result<v1::ListDatabasesResponse, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        let databases: Result<_, _> = view.databases.keys().map(|name| show(&view, name)).collect();
        Ok(v1::ListDatabasesResponse { databases: databases? })
    }

    pub(crate) async fn database(
        &self,
        name: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        let name = &view.snapshot().database(name)?.name;
        show(&view, name)
    }
}

fn show(view: &View, name: &DatabaseName) -> Result<v1::DatabaseView, Refusal> {
    // As a new request would find it: without jobs that have ended, though the leader has not removed them yet.
    let lock = view.locks.get(name).map(|lock| lock.advanced(|id| stage::has_ended(view, name, id)));
    Ok(v1::DatabaseView {
        database: view.databases.get(name).map(message).transpose()?,
        leader: view.leaders.get(name).map(message).transpose()?,
        lock: lock.as_ref().map(message).transpose()?,
        incarnation: view.incarnations.get(name).map(message).transpose()?,
        cells: of_database(view, name).map(|pooler| pooler.cell.to_string()).collect(),
    })
}
