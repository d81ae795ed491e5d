//! The record that says which copy of a database is the true one.

use serde::{Deserialize, Serialize};

use crate::records::job::id::JobId;
use crate::records::pooler::Leader;
use crate::types::code::{Code, Refusal};
use crate::types::lsn::Timeline;
use crate::types::name::{CellName, DatabaseName};

/// Which copy of a database is the true one.
///
/// A restore makes the next incarnation, and so does its rollback. Every data directory carries the number of
/// the one that it belongs to; one of another number is never started as a primary. Written by
/// multiadmin only; a database that was never restored has none and is at number 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incarnation {
    /// Counted from 1.
    pub number: u32,
    /// The cell that has its first copy, once a restore has made one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cell: Option<CellName>,
    /// The restore or rollback that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub job: Option<JobId>,
    /// The restore for which no member may take writes now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fence: Option<JobId>,
    /// The cell that keeps the data of the incarnation before, to which a rollback returns. None once that is
    /// confirmed, or when nothing was kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kept_in: Option<CellName>,
    /// The timeline that its first copy is on as a primary. Until a primary on it is recorded, no other cell can be made
    /// a member. None at number 1, and when an older version of Cellar made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub timeline: Option<Timeline>,
}

impl Incarnation {
    /// Whether the recorded primary is of this incarnation, as far as its timeline can tell.
    #[must_use]
    pub fn is_in_use(&self, leader: Option<&Leader>) -> bool {
        self.timeline.is_none_or(|timeline| leader.is_some_and(|leader| leader.term >= timeline))
    }
}

/// The refusal of what needs to know the present primary, from the moment at which a restore takes effect until the restored
/// primary has recorded itself: the recorded one is of a timeline that was left.
///
/// # Errors
/// At such a moment.
pub fn check_in_use(
    incarnation: Option<&Incarnation>,
    leader: Option<&Leader>,
    database: &DatabaseName,
) -> Result<(), Refusal> {
    let Some(made) = incarnation.filter(|incarnation| !incarnation.is_in_use(leader)) else { return Ok(()) };
    let cell = made.cell.as_ref().map(CellName::to_string).unwrap_or_default();
    let job = made.job.map(|job| job.to_string()).unwrap_or_default();
    let before = leader.map(|leader| leader.term.to_string()).unwrap_or_default();
    let way_back = match made.kept_in {
        Some(_) => format!("`cellar restore rollback {job}` returns to the data from before it, or "),
        None => String::new(),
    };
    Err(Refusal::new(
        Code::RestoreOpen,
        format!(
            "restore {job} of {database} took effect in cell {cell}, whose primary has not been recorded yet"
        ),
    )
    .hint(format!(
        "it records itself when PostgreSQL runs there: `cellar up`, or `cellar host start`, starts its multipooler. If that runs and PostgreSQL does not start, `cellar status` says why: correct what it names, such as a line of the backup's postgresql.conf in {cell}'s data directory, and it starts by itself. If that cannot be, end the restore's job (`cellar jobs cancel {job}`) if it goes on, and then {way_back}restore again, to a cell that is up and on the timeline that is meant: `cellar restore --latest --onto CELL --timeline {before}` is the database before that restore (--primary-is-dead if {cell} is lost)"
    ))
    .about("cell", cell)
    .about("job", job)
    .about("database", database))
}

/// The cells that may have the primary, that of the present incarnation first. The recorded primary is of an earlier one
/// from the moment at which a restore takes effect until the restored primary has recorded itself.
pub(crate) fn possible_primaries<'a>(
    incarnation: Option<&'a Incarnation>,
    leader: Option<&'a Leader>,
) -> impl Iterator<Item = &'a CellName> {
    let made = incarnation.filter(|incarnation| !incarnation.is_in_use(leader));
    let made = made.and_then(|incarnation| incarnation.cell.as_ref());
    let recorded = leader.map(|leader| &leader.cell).filter(move |cell| Some(*cell) != made);
    made.into_iter().chain(recorded)
}

impl Default for Incarnation {
    fn default() -> Self {
        Self { number: 1, cell: None, job: None, fence: None, kept_in: None, timeline: None }
    }
}
