//! Fences that nobody lifts any more.

use cellar_model::{Incarnation, Key};
use cellar_topology::View;

use super::Action;

/// Lifts each fence whose job has ended or is gone. A driver lifts its own as it ends, so that this finds only what a
/// lost record or an older version left.
pub(super) fn left_behind(view: &View) -> impl Iterator<Item = Action> {
    view.incarnations.iter().filter_map(|(database, incarnation)| {
        let job = incarnation.fence?;
        let key = Key::Job(database.clone(), job);
        let unreadable = !view.knows(&job) && view.revision(&key) != 0;
        let under_way = view.jobs.contains_key(&job) && !view.has_ended(&job);
        (!unreadable && !under_way).then(|| Action::LiftFence {
            database: database.clone(),
            incarnation: Incarnation { fence: None, ..incarnation.clone() },
            revision: view.revision(&Key::Incarnation(database.clone())),
            job,
            job_revision: view.revision(&key),
        })
    })
}
