//! Removing a cell: every record that names it, except the jobs, which housekeeping closes.

use cellar_model::{Cell, CellName, Code, DatabaseName, JobRecord, Key, Refusal, plan_cell_removal};
use cellar_topology::View;

use crate::admin::Admin;
use crate::cluster::cells::order::{MAX_DATABASES_PER_STEP, OrderingRecord};
use crate::deadline::Deadline;
use crate::jobs::stage::{Stage, stage};
use crate::tries::Tries;

/// The next step of the removal.
struct Step {
    cell: Cell,
    cell_revision: i64,
    ordering: Option<OrderingRecord>,
    /// What the decision depends on in each database, with their revisions: its recorded primary, which data it keeps, and
    /// which job has its lock or waits for it.
    guards: Vec<(Key, i64)>,
    /// Databases that lose their pooler in this step.
    databases: Vec<DatabaseName>,
    /// Whether it is the last step.
    last: bool,
}

impl Admin {
    /// Removes the cell's records. Repeating a request that was cut short completes it.
    pub(crate) async fn remove_cell(&self, name: &CellName, deadline: Deadline) -> Result<Cell, Refusal> {
        let mut removing: Option<Cell> = None;
        let mut tries = Tries::of("the cells", deadline);
        loop {
            let _ = tries.begin()?;
            self.fresh(deadline).await?;
            let step = match plan(&self.view(), name) {
                Ok(step) => step,
                // The last step was committed although its answer was lost.
                Err(refusal) if refusal.code == Code::UnknownCell => return removing.ok_or(refusal),
                Err(refusal) => return Err(refusal),
            };
            let cell_key = Key::Cell(name.clone());
            let mut transaction = self.store.transaction().expect(&cell_key, step.cell_revision);
            if let Some(ordering) = &step.ordering {
                transaction = transaction
                    .expect(&ordering.key(), ordering.revision)
                    .put(&ordering.key(), &ordering.database);
            }
            for (key, revision) in &step.guards {
                transaction = transaction.expect(key, *revision);
            }
            for database in &step.databases {
                transaction = transaction
                    .delete(&Key::Pooler(database.clone(), name.clone()))
                    .delete(&Key::Status(database.clone(), name.clone()))
                    .delete(&Key::CellClaim(database.clone(), name.clone()));
            }
            if step.last {
                transaction = transaction.delete(&cell_key);
            }
            let (key, before) = match &step.ordering {
                Some(ordering) => (ordering.key(), ordering.revision),
                None => (cell_key, step.cell_revision),
            };
            if self.commit(&mut tries, transaction, Some((&key, before))).await? && step.last {
                tracing::info!(cell = %name, "removed a cell");
                return Ok(step.cell);
            }
            removing = step.last.then_some(step.cell);
        }
    }
}

fn plan(view: &View, name: &CellName) -> Result<Step, Refusal> {
    plan_cell_removal(&view.snapshot(), name)?;
    let Some(cell) = view.cells.get(name).cloned() else {
        return Err(Refusal::new(Code::UnknownCell, format!("there is no cell {name}")).about("cell", name));
    };
    // A job that multiadmin drives is about its cell also between two of its steps, and while it waits.
    let is_busy = |record: &&JobRecord| {
        let stage = stage(view, record);
        stage == Stage::Running || record.kind().is_driven() && stage != Stage::Ended
    };
    let running = view.jobs.values().filter(|record| record.cell == *name).find(is_busy);
    if let Some(record) = running {
        let (id, kind) = (record.id, record.kind());
        let message = if kind.is_driven() {
            format!("a {kind} in cell {name} has not ended (job {id})")
        } else {
            format!("a {kind} runs on cell {name} (job {id})")
        };
        return Err(Refusal::new(Code::Busy, message)
            .hint(format!("wait for it (`cellar jobs watch {id}`) or cancel it (`cellar jobs cancel {id}`)"))
            .about("cell", name)
            .about("job", id)
            .about("database", &record.database));
    }
    let mut here: Vec<DatabaseName> = view
        .databases
        .keys()
        .filter(|database| {
            let id = ((*database).clone(), name.clone());
            view.revision(&Key::Pooler(id.0.clone(), id.1.clone())) != 0 || view.status.contains_key(&id)
        })
        .cloned()
        .collect();
    let last = here.len() <= MAX_DATABASES_PER_STEP;
    here.truncate(MAX_DATABASES_PER_STEP);
    let guards = here
        .iter()
        .flat_map(|database| {
            let db = || database.clone();
            [Key::Leader(db()), Key::Incarnation(db()), Key::Lock(db())]
        })
        .map(|key| (key.clone(), view.revision(&key)))
        .collect();
    Ok(Step {
        cell_revision: view.revision(&Key::Cell(name.clone())),
        ordering: OrderingRecord::of(view),
        cell,
        guards,
        databases: here,
        last,
    })
}
