//! The next step of the jobs that multiadmin drives.

use cellar_model::{CellName, Decision, JobRecord, JobState, Key, Scene, contradicted, drive};
use cellar_topology::View;
use jiff::Timestamp;

use super::{Action, Drive};
use crate::jobs::closure::ended;
use crate::jobs::stage::job_key;
use crate::leader::observations::Observations;

/// What is to be done next for every driven job that holds its database's lock.
pub(super) fn next(view: &View, observed: &Observations, now: Timestamp) -> Vec<Action> {
    // First what was seen of a primary that is said to be dead: what is decided next stands on it.
    let contradicted: Vec<Drive> = view.jobs.values().filter_map(|record| contradict(view, record)).collect();
    let holders = view.locks.values().filter_map(|lock| view.jobs.get(&lock.holder?));
    let next = holders
        .filter(|record| record.kind().is_driven() && record.closure.is_none())
        .filter(|record| contradicted.iter().all(|drive| drive.job != record.id))
        .filter_map(|record| advance(view, observed, record, now));
    let next: Vec<Action> = next.collect();
    contradicted.into_iter().map(|drive| Action::Drive(Box::new(drive))).chain(next).collect()
}

/// Records that a primary reports for whose death somebody vouched, also in a job that waits for its turn: when that has
/// come, the primary may be silent again.
fn contradict(view: &View, record: &JobRecord) -> Option<Drive> {
    let dead = record.dead_primary.as_ref()?;
    let reports = dead.cells().any(|cell| view.status.contains_key(&(record.database.clone(), cell.clone())));
    let record = contradicted(record, reports)?;
    let guards = vec![(job_key(&record), view.revision(&job_key(&record)))];
    Some(Drive { job: record.id, guards, records: vec![record], incarnation: None })
}

fn advance(view: &View, observed: &Observations, record: &JobRecord, now: Timestamp) -> Option<Action> {
    let database = &record.database;
    let key = Key::Incarnation(database.clone());
    if !view.incarnations.contains_key(database) && view.revision(&key) != 0 {
        // Unreadable: which copy is the true one is not known. A person must look.
        return None;
    }
    let of_database =
        |(db, cell): &(cellar_model::DatabaseName, CellName)| (db == database).then(|| cell.clone());
    let members: Vec<CellName> = view.poolers.keys().filter_map(of_database).collect();
    let alive: Vec<CellName> =
        view.status.keys().filter_map(of_database).filter(|cell| members.contains(cell)).collect();
    let steps = view.steps(&record.id);
    let incarnation = view.incarnation(database);
    let decision = drive(&Scene {
        job: record,
        steps: &steps,
        incarnation: &incarnation,
        highest_mark: view
            .status
            .iter()
            .filter(|((db, _), _)| db == database)
            .filter_map(|(_, status)| status.incarnation)
            .max()
            .unwrap_or_default(),
        leader: view.leaders.get(database),
        alive: &alive,
        primary_is_followed: view.leaders.get(database).is_some_and(|leader| {
            view.status.iter().any(|((db, _), status)| db == database && status.streams_from(&leader.cell))
        }),
        members: &members,
        ended_for: observed.ended_for(),
        waited: observed.open_for(&record.id),
        now,
    });
    let mut action = Drive {
        job: record.id,
        // Everything that the decision stands on: the job, its lock, and which copy is the true one.
        guards: vec![
            (job_key(record), view.revision(&job_key(record))),
            (Key::Lock(database.clone()), view.revision(&Key::Lock(database.clone()))),
            (key.clone(), view.revision(&key)),
        ],
        records: Vec::new(),
        incarnation: None,
    };
    match decision {
        Decision::Wait => return None,
        Decision::Begin(begun) => {
            action.guards.extend(begun.iter().map(|step| (job_key(step), 0)));
            action.records = begun;
            // Its revision changes with each step that it has: what was decided on a view without these is not done.
            action.records.push(record.clone());
        }
        Decision::Cancel(ids) => {
            for id in ids {
                let step = view.jobs.get(&id)?;
                action.guards.push((job_key(step), view.revision(&job_key(step))));
                let cancel = record.cancel.clone().unwrap_or_else(|| cellar_model::CancelRequest {
                    requested_by: "multiadmin".to_owned(),
                    time: cellar_model::timestamp_ms(now),
                });
                action.records.push(JobRecord { cancel: Some(cancel), ..step.clone() });
            }
        }
        Decision::Write(new) => action.incarnation = Some((database.clone(), new)),
        Decision::Close { state, error, result, incarnation } => {
            debug_assert!(state.is_terminal() && (error.is_some() || state == JobState::Succeeded));
            action.records.push(ended(record, state, error, result, now));
            action.incarnation = incarnation.map(|new| (database.clone(), new));
        }
    }
    Some(Action::Drive(Box::new(action)))
}
