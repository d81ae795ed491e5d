//! Whether a job that no pooler can end is to be closed, and how it ends then.

use cellar_model::{Code, JobError, JobRecord, JobState, Key, LOST_TIMEOUT, Protocol, closable};
use cellar_topology::View;

use crate::jobs::closure::canceled_before_it_began;
use crate::jobs::stage::{Stage, stage};
use crate::leader::observations::Observations;

type Ending = (JobState, JobError);

fn failed(code: Code, message: String, hint: &str) -> Ending {
    (JobState::Failed, JobError { code, message, hint: hint.to_owned(), tool_output: String::new() })
}

/// How the job is to be closed; `None` when it is not.
pub(super) fn how_to_close(view: &View, observed: &Observations, record: &JobRecord) -> Option<Ending> {
    if record.kind().is_driven() {
        // Ended by its driver; before it holds the lock only by its deadline or a wish.
        let lock = view.locks.get(&record.database);
        let holds = lock.is_some_and(|lock| lock.holder == Some(record.id));
        // Who holds a lock that cannot be read is not known.
        let is_unreadable = lock.is_none() && view.revision(&Key::Lock(record.database.clone())) != 0;
        let waits = record.closure.is_none() && !holds && !is_unreadable;
        return waits.then(|| waiting(observed, record)).flatten();
    }
    let claimed = view.claim(record).is_some();
    match stage(view, record) {
        Stage::Pending if closable(record, view.run(record), claimed) => pending(view, observed, record),
        Stage::Lost if closable(record, view.run(record), claimed) => lost(view, observed, record),
        _ => None,
    }
}

/// Whether a job has taken as long as it may, as this leader has seen it.
fn is_overdue(observed: &Observations, record: &JobRecord) -> bool {
    observed.open_for(&record.id) >= record.time_limit()
}

/// The end of a job that never began.
fn waiting(observed: &Observations, record: &JobRecord) -> Option<Ending> {
    let (kind, cell) = (record.kind(), &record.cell);
    if let Some(cancel) = &record.cancel {
        return Some((JobState::Canceled, canceled_before_it_began(&cancel.requested_by)));
    }
    is_overdue(observed, record).then(|| {
        failed(
            Code::DeadlineExceeded,
            format!("the {kind} of cell {cell} did not begin before its deadline; nothing was done"),
            "see what held it up (`cellar status`, `cellar jobs list`), then ask again",
        )
    })
}

fn pending(view: &View, observed: &Observations, record: &JobRecord) -> Option<Ending> {
    let (kind, database, cell) = (record.kind(), &record.database, &record.cell);
    if is_removed(view, record) {
        return Some(failed(
            Code::UnknownCell,
            format!(
                "cell {cell} was removed from database {database} before the {kind} began; nothing was done"
            ),
            "name another cell",
        ));
    }
    if let Some(ending) = waiting(observed, record) {
        return Some(ending);
    }
    if let Some(parent) =
        record.parent.filter(|parent| view.jobs.contains_key(parent) && view.has_ended(parent))
    {
        // Nobody can begin it any more: its place was that job's.
        let message = format!(
            "job {parent}, of which the {kind} of cell {cell} was a step, ended before it began; nothing was done"
        );
        let error =
            JobError { code: Code::Canceled, message, hint: String::new(), tool_output: String::new() };
        return Some((JobState::Canceled, error));
    }
    let place = record.parent.unwrap_or(record.id);
    let holds = !kind.takes_lock() || view.locks.get(database).is_some_and(|lock| lock.holder == Some(place));
    let silent = observed.silent_for(database, cell);
    if holds && silent >= LOST_TIMEOUT {
        // Those behind it wait for nothing, so it does not keep its place until its deadline.
        return Some(failed(
            Code::CellDown,
            format!(
                "the multipooler of cell {cell} has not reported for {} s, so the {kind} could not begin; nothing was copied",
                silent.as_secs()
            ),
            "start it (`cellar up` on a local cluster, else `cellar host start` there), or name another cell",
        ));
    }
    None
}

fn lost(view: &View, observed: &Observations, record: &JobRecord) -> Option<Ending> {
    let (kind, cell) = (record.kind(), &record.cell);
    let unknown = "its outcome there is not known";
    let look = "look at the cell (`cellar status`, `cellar backups list`) before you ask again";
    let patient = observed.lost_for(&record.id) >= LOST_TIMEOUT;
    if let Some(cancel) = record.cancel.as_ref().filter(|_| patient) {
        return Some((
            JobState::Canceled,
            JobError {
                code: Code::Canceled,
                message: format!(
                    "canceled by {}; the multipooler of cell {cell} was gone, so {unknown}",
                    cancel.requested_by
                ),
                hint: look.to_owned(),
                tool_output: String::new(),
            },
        ));
    }
    if is_removed(view, record) && patient {
        return Some(failed(
            Code::UnknownCell,
            format!("cell {cell} was removed while the {kind} was lost; {unknown}"),
            look,
        ));
    }
    // A run that is there and cannot be read may say that the job has ended: a newer build, or a person, must look.
    let work_has_ended = view.run(record).is_some_and(|run| run.protocol >= Protocol::ENDS_LOST_WORK);
    let holds_up_others = record.parent.is_some() || record.kind().takes_lock();
    if holds_up_others && work_has_ended && patient {
        // Other jobs and the driver of a step do not wait for a cell that may never return. Its work has ended by now
        // (see `claim_times`), unless its build is older than that promise. A cell that returns finds out by itself what to do with its data.
        return Some(failed(
            Code::CellDown,
            format!(
                "the multipooler of cell {cell} was lost during the {kind}, whose work was ended with it; {unknown}"
            ),
            look,
        ));
    }
    let may_be_closed = work_has_ended || !holds_up_others;
    if may_be_closed && observed.abandoned_for(&record.id) >= LOST_TIMEOUT {
        // A process that takes over what an earlier one of its machine left does so when it begins.
        return Some(failed(
            Code::PoolerRestarted,
            format!(
                "the multipooler of cell {cell} that ran the {kind} is gone, and the one that is there now did not take it over; {unknown}"
            ),
            look,
        ));
    }
    if is_overdue(observed, record) {
        return Some(failed(
            Code::DeadlineExceeded,
            format!(
                "the multipooler of cell {cell} was lost during the {kind} and did not return before its deadline; {unknown}"
            ),
            look,
        ));
    }
    None
}

/// Whether the job's cell has no pooler record. One that cannot be read is there.
fn is_removed(view: &View, record: &JobRecord) -> bool {
    view.revision(&Key::Pooler(record.database.clone(), record.cell.clone())) == 0
        && !view.poolers.contains_key(&(record.database.clone(), record.cell.clone()))
}
