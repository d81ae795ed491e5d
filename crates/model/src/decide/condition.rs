//! What is so with a database besides that all is well, and what ends it.
//!
//! Every condition says its way out: a command, or that it goes on by itself and what to do when it does not.
//! docs/reference/states.md has the same for the states that are in records of their own.

use serde::Serialize;

use crate::decide::snapshot::Snapshot;
use crate::records::incarnation::{Incarnation, check_in_use};
use crate::records::job::id::JobId;
use crate::records::job::record::Job;
use crate::records::job::run::JobState;
use crate::records::lock::Lock;
use crate::types::json::timestamp_text;
use crate::types::name::DatabaseName;

/// A kind of condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum ConditionKind {
    /// No primary was ever recorded.
    #[serde(rename = "no-primary")]
    NoPrimary,
    /// Another instance than the recorded primary takes writes.
    #[serde(rename = "two-primaries")]
    TwoPrimaries,
    /// No member takes writes, for a job.
    #[serde(rename = "fenced")]
    Fenced,
    /// A person works on it, and nothing is done by itself.
    #[serde(rename = "paused")]
    Paused,
    /// A restore took effect, and no primary runs on its data yet.
    #[serde(rename = "restore-unused")]
    RestoreUnused,
    /// A restore took effect, and the data from before it is kept.
    #[serde(rename = "restore-open")]
    RestoreOpen,
    /// A job holds the stanza.
    #[serde(rename = "locked")]
    Locked,
    /// A job's multipooler is gone.
    #[serde(rename = "job-lost")]
    JobLost,
    /// A process is older than the database's minimum allows.
    #[serde(rename = "outdated")]
    Outdated,
    /// A record that decides over the database cannot be read.
    #[serde(rename = "unreadable")]
    Unreadable,
}

impl ConditionKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::NoPrimary,
        Self::TwoPrimaries,
        Self::Fenced,
        Self::Paused,
        Self::RestoreUnused,
        Self::RestoreOpen,
        Self::Locked,
        Self::JobLost,
        Self::Outdated,
        Self::Unreadable,
    ];

    /// Its name in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPrimary => "no-primary",
            Self::TwoPrimaries => "two-primaries",
            Self::Fenced => "fenced",
            Self::Paused => "paused",
            Self::RestoreUnused => "restore-unused",
            Self::RestoreOpen => "restore-open",
            Self::Locked => "locked",
            Self::JobLost => "job-lost",
            Self::Outdated => "outdated",
            Self::Unreadable => "unreadable",
        }
    }
}

/// What is so with a database, and what ends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its kind.
    pub kind: ConditionKind,
    /// What is so.
    pub message: String,
    /// What ends it: commands in backticks.
    pub way_out: String,
}

impl Condition {
    fn new(kind: ConditionKind, message: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { kind, message: message.into(), way_out: way_out.into() }
    }
}

/// What the conditions of a database follow from, besides the topology.
#[derive(Debug, Clone, Copy)]
pub struct ConditionScene<'a> {
    /// The database.
    pub database: &'a DatabaseName,
    /// The topology.
    pub snapshot: &'a Snapshot<'a>,
    /// The database's lock, without jobs that have ended.
    pub lock: &'a Lock,
    /// The database's jobs that have not ended, steps included.
    pub open_jobs: &'a [Job],
    /// Keys of records that cannot be read and that others wait for: the database's lock, its incarnation, a job of it.
    pub unreadable: &'a [String],
}

/// What is so with a database, the gravest first.
#[must_use]
pub fn conditions(scene: &ConditionScene<'_>) -> Vec<Condition> {
    let incarnation = scene.snapshot.incarnations.get(scene.database);
    let mut found: Vec<Condition> = scene.unreadable.iter().map(|key| unreadable(key)).collect();
    found.extend(no_primary(scene));
    found.extend(two_primaries(scene));
    found.extend(incarnation.and_then(|incarnation| fenced(scene, incarnation)));
    found.extend(paused(scene));
    found.extend(restore_unused(scene));
    found.extend(scene.open_jobs.iter().filter(|job| job.state == JobState::Lost).map(lost));
    found.extend(outdated(scene));
    found.extend(locked(scene));
    found.extend(incarnation.and_then(restore_open));
    found
}

fn unreadable(key: &str) -> Condition {
    Condition::new(
        ConditionKind::Unreadable,
        format!("the record {key} cannot be read, and what depends on it stands still"),
        format!(
            "if a newer version of Cellar wrote it, run that one; otherwise correct it, or delete it while no job runs: `etcdctl del {key}`"
        ),
    )
}

fn no_primary(scene: &ConditionScene<'_>) -> Option<Condition> {
    scene.snapshot.leader(scene.database).err().map(|_| {
        let bootstrap =
            scene.snapshot.databases.get(scene.database).map_or("", |known| known.bootstrap_cell.as_str());
        Condition::new(
            ConditionKind::NoPrimary,
            "no primary is recorded yet",
            format!(
                "it goes on by itself when the cell that was the primary, or {bootstrap} for a new database, is up: `cellar up`, or `cellar host start` on its host"
            ),
        )
    })
}

fn two_primaries(scene: &ConditionScene<'_>) -> Option<Condition> {
    let leader = scene.snapshot.leaders.get(scene.database)?;
    let others = scene.snapshot.other_primaries(scene.database, Some(&leader.cell));
    // One that was appointed leads before it is recorded, and may have the only good data.
    let appointed = leader.leadership.as_ref().map(|leadership| &leadership.cell);
    let other = others.iter().find(|cell| Some(*cell) != appointed)?;
    Some(Condition::new(
        ConditionKind::TwoPrimaries,
        format!("{} is recorded as primary, but {other} is a primary too", leader.cell),
        format!("`cellar rebuild {other}` makes it a standby; what only it has is lost then"),
    ))
}

fn fenced(scene: &ConditionScene<'_>, incarnation: &Incarnation) -> Option<Condition> {
    let id = incarnation.fence?;
    let message = |job: &str| format!("nobody may write to the database, for {job}");
    let way_out = match scene.open_jobs.iter().find(|job| job.record.id == id) {
        Some(job) => {
            let message = message(&format!("{} {id}", job.record.kind()));
            return Some(Condition::new(ConditionKind::Fenced, message, of_job(id)));
        }
        None => {
            "the leading multiadmin ends it by itself within seconds; if none runs: `cellar up`, or `cellar host start` on a host"
        }
    };
    Some(Condition::new(ConditionKind::Fenced, message(&format!("job {id}, which has ended")), way_out))
}

fn paused(scene: &ConditionScene<'_>) -> Option<Condition> {
    let pause = scene.snapshot.databases.get(scene.database)?.pause.as_ref()?;
    let why = if pause.reason.is_empty() { String::new() } else { format!(" ({})", pause.reason) };
    Some(Condition::new(
        ConditionKind::Paused,
        format!(
            "paused since {} by {}{why}: no failover, no start of a PostgreSQL that ended, no scheduled job",
            timestamp_text(pause.since),
            pause.by
        ),
        "`cellar resume`",
    ))
}

fn of_job(id: JobId) -> String {
    format!("it ends with the job: `cellar jobs watch {id}` follows it, `cellar jobs cancel {id}` ends it")
}

fn lost(job: &Job) -> Condition {
    let (id, kind, cell) = (job.record.id, job.record.kind(), &job.record.cell);
    let by_itself = if kind.takes_lock() || job.record.parent.is_some() {
        "it is closed by itself within seconds"
    } else {
        "its deadline closes it"
    };
    Condition::new(
        ConditionKind::JobLost,
        format!("{kind} {id} is lost: the multipooler of {cell} does not report"),
        format!(
            "{by_itself}; `cellar up`, or `cellar host start` on its host, starts the multipooler; `cellar jobs cancel {id}` gives the job up"
        ),
    )
}

/// Each multipooler that is too old, or multiadmin itself.
fn outdated(scene: &ConditionScene<'_>) -> Vec<Condition> {
    let cells = scene.snapshot.status.keys().filter(|(database, _)| database == scene.database);
    let mut messages: Vec<String> = cells
        .filter_map(|(database, cell)| scene.snapshot.new_enough(database, cell).err())
        .map(|refusal| refusal.message)
        .collect();
    // That multiadmin is too old does not depend on the cell.
    messages.dedup();
    let way_out = "no job is given to it; put the newer program in its place, end the old process and start the new one: `cellar up`, or `cellar host start` on its host";
    messages.into_iter().map(|message| Condition::new(ConditionKind::Outdated, message, way_out)).collect()
}

fn locked(scene: &ConditionScene<'_>) -> Option<Condition> {
    let holder = scene.lock.holder?;
    let job = scene.open_jobs.iter().find(|job| job.record.id == holder);
    let kind = job.map_or("job", |job| job.record.kind().as_str());
    let waiting = match scene.lock.queue.len() {
        0 => String::new(),
        waiting => format!(", {waiting} waiting behind it"),
    };
    Some(Condition::new(
        ConditionKind::Locked,
        format!("{kind} {holder} holds the stanza{waiting}"),
        of_job(holder),
    ))
}

/// From the moment at which a restore takes effect until the restored primary has recorded itself. It passes within seconds,
/// unless PostgreSQL does not start on what was restored.
fn restore_unused(scene: &ConditionScene<'_>) -> Option<Condition> {
    let (incarnation, leader) =
        (scene.snapshot.incarnations.get(scene.database), scene.snapshot.leaders.get(scene.database));
    let refusal = check_in_use(incarnation, leader, scene.database).err()?;
    Some(Condition::new(ConditionKind::RestoreUnused, refusal.message, refusal.hint))
}

fn restore_open(incarnation: &Incarnation) -> Option<Condition> {
    let (id, cell) = (incarnation.job?, incarnation.kept_in.as_ref()?);
    Some(Condition::new(
        ConditionKind::RestoreOpen,
        format!("restore {id} keeps the data from before it, in {cell} and other cells"),
        format!(
            "`cellar restore confirm {id}` deletes it, `cellar restore rollback {id}` returns to it; until then nothing expires"
        ),
    ))
}

#[cfg(test)]
mod tests;
