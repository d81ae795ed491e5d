//! Databases with their primary, lock, incarnation and cells.

use std::collections::BTreeSet;

use cellar_api::v1;
use cellar_model::{
    CellName, ConditionScene, DatabaseName, DatabaseScope, Job, Key, Keyspace, PoolerStatus, Refusal,
    conditions, keepers_of_slots, slot_notes,
};
use cellar_topology::View;

use crate::admin::Admin;
use crate::cluster::poolers::of_database;
use crate::deadline::Deadline;
use crate::jobs::stage;
use crate::message::message;

impl Admin {
    pub(crate) async fn list_databases(
        &self,
        scope: &DatabaseScope,
        deadline: Deadline,
    ) -> Result<v1::ListDatabasesResponse, Refusal> {
        self.fresh(deadline).await?;
        let view = self.view();
        let names = view.databases.keys().filter(|name| scope.contains(name));
        let databases: Result<_, _> = names.map(|name| show(&view, self.store.keys(), name)).collect();
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
        show(&view, self.store.keys(), name)
    }
}

fn show(view: &View, keys: &Keyspace, name: &DatabaseName) -> Result<v1::DatabaseView, Refusal> {
    // As a new request would find it: without jobs that have ended, though the leader has not removed them yet.
    let lock = view.locks.get(name).map(|lock| lock.advanced(|id| stage::has_ended(view, name, id)));
    let conditions = conditions(&ConditionScene {
        database: name,
        snapshot: &view.snapshot(),
        lock: &lock.clone().unwrap_or_default(),
        open_jobs: &open_jobs(view, name),
        unreadable: &unreadable(view, keys, name),
    });
    Ok(v1::DatabaseView {
        database: view.databases.get(name).map(message).transpose()?,
        leader: view.leaders.get(name).map(message).transpose()?,
        lock: lock.as_ref().map(message).transpose()?,
        incarnation: view.incarnations.get(name).map(message).transpose()?,
        cells: of_database(view, name).map(|pooler| pooler.cell.to_string()).collect(),
        conditions: conditions.iter().map(message).collect::<Result<_, _>>()?,
        slot_notes: notes_of_slots(view, name),
    })
}

/// What becomes of a database's logical slots, as far as its members report.
pub(crate) fn notes_of_slots(view: &View, name: &DatabaseName) -> Vec<String> {
    let Some(leader) = view.leaders.get(name) else { return Vec::new() };
    slot_notes(&leader.cell, members(view, name))
}

/// The members of a database in which none of its logical slots is lost that can be kept.
pub(crate) fn keepers(view: &View, name: &DatabaseName) -> BTreeSet<CellName> {
    let Some(leader) = view.leaders.get(name) else { return BTreeSet::new() };
    keepers_of_slots(&leader.cell, members(view, name))
}

fn members<'a>(view: &'a View, name: &DatabaseName) -> Vec<&'a PoolerStatus> {
    view.status.values().filter(|status| status.database == *name).collect()
}

/// The database's jobs that have not ended, steps included.
fn open_jobs(view: &View, name: &DatabaseName) -> Vec<Job> {
    let records = view.jobs.values().filter(|record| record.database == *name && !view.has_ended(&record.id));
    records.filter_map(|record| view.job(&record.id)).collect()
}

/// The records of a database that cannot be read and that others wait for.
fn unreadable(view: &View, keys: &Keyspace, name: &DatabaseName) -> Vec<String> {
    let is_waited_for = |path: &&String| match keys.parse(path) {
        Some(Key::Lock(database) | Key::Incarnation(database) | Key::Leader(database)) => database == *name,
        Some(Key::Job(database, _) | Key::Run(database, ..) | Key::Claim(database, ..)) => database == *name,
        _ => false,
    };
    view.unreadable.keys().filter(is_waited_for).cloned().collect()
}
