//! Keeping apart two machines that have the keys of one cell: an old one that comes back after its bundle was installed on
//! another, or two on which the same bundle was installed.
//!
//! A process claims its cell before it does anything, and every transaction of it expects that claim. `cellar_model`
//! decides who may claim it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellClaim, CellLayout, CellName, Database, Key, OwnClaims};
use cellar_postgres::{DataDirectory, PostgresError, StopTimeouts, Tools, inspect, running, stop};
use cellar_system::{AtomicFile, tell_waiting};

use crate::agent::Agent;
use crate::instance::data_role::is_primary;
use crate::member::{ClaimError, Claimed};
use crate::record_fault::with_remedy;

/// How often to try again while another machine's process runs the cell, or etcd does not answer.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long a round of the supervisor may take to end when the cell was taken over.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);

/// What this machine remembers of its claims cannot be read, so it is not known whether the cell is still its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemoryError {
    /// The file, or the marker of a cell that had data, cannot be read.
    #[error("{} cannot be read ({source}): look at the disk, and see that the file belongs to the user that multipooler runs as", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has something else in it.
    #[error("{} is damaged ({source}), so it is not known whether this machine still has the cell. If it is to run the cell, write {{}} into the file: it then takes the cell over when no other machine has run it for 22 s. If another machine is to run it, `cellar host remove` here", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// What this machine remembers of its claims.
///
/// # Errors
/// When it is there and cannot be read: then it is not known whether the cell is still this machine's.
pub(crate) fn remembered(layout: &CellLayout) -> Result<OwnClaims, MemoryError> {
    let path = layout.own_claims();
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|source| MemoryError::Damaged { path, source }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let path = layout.seeded_marker();
            let had_data = path.try_exists().map_err(|source| MemoryError::Unreadable { path, source })?;
            Ok(if had_data { OwnClaims::of_older_build() } else { OwnClaims::default() })
        }
        Err(source) => Err(MemoryError::Unreadable { path, source }),
    }
}

/// This machine, for people: its name may be the other one's, too.
pub(crate) fn this_machine() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let id: String =
        std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().chars().take(8).collect();
    match (name.is_empty(), id.is_empty()) {
        (false, false) => format!("{name} (machine id {id}…)"),
        (false, true) => name,
        (true, false) => format!("the machine with the id {id}…"),
        (true, true) => "another machine".to_owned(),
    }
}

fn waits_for(cell: &CellName, claim: Option<&CellClaim>) -> String {
    let whose = claim.map_or_else(|| "another machine".to_owned(), |claim| claim.machine.clone());
    format!(
        "cell {cell} is run by {whose}: this machine takes it over when that one has been silent for 12 s after its lease of 10 s has ended. To keep it there, `cellar host remove` here"
    )
}

/// What to say when another machine has taken the cell over.
pub(crate) fn taken_over(cell: &CellName, by: &CellClaim) -> String {
    format!(
        "cell {cell} was taken over by {}: this machine does nothing for it any more. To give it back to this one, switch the other off, then `cellar host remove` here and install the cell's bundle again",
        by.machine
    )
}

/// Tries once, and says in the log and in a file what the cell waits for.
async fn attempt(agent: &Agent) -> Result<Claimed, ClaimError> {
    // Read from etcd, not from the mirror: another cluster's etcd has other claims, and what is done about those cannot be
    // undone.
    let database = agent.store.get::<Database>(&Key::Database(agent.database.clone())).await?;
    if let Some(Err(refusal)) = database.map(|found| found.record.check_cluster(agent.cluster_id)) {
        note(agent, Some(&refusal.message));
        return Ok(Claimed::Again);
    }
    // A cell that was removed belongs to nobody.
    let card_revision = agent.card_revision();
    if card_revision == 0 || agent.card_of(&agent.cell).is_none() {
        return Ok(Claimed::Again);
    }
    let remember = async |own: &OwnClaims| {
        let text = serde_json::to_vec(own).map_err(std::io::Error::other)?;
        AtomicFile::new(&agent.layout.own_claims()).replace(text)
    };
    let claimed = agent.claim_cell(card_revision, remember).await?;
    match &claimed {
        Claimed::Yes => note(agent, None),
        Claimed::Again => {}
        Claimed::NotYet(claim) => note(agent, Some(&waits_for(&agent.cell, claim.as_ref()))),
        Claimed::TakenOver(by) => note(agent, Some(&taken_over(&agent.cell, by))),
    }
    Ok(claimed)
}

/// Says it where `cellar host status` and the service manager find it. What cannot be written changes nothing.
fn note(agent: &Agent, text: Option<&str>) {
    let file = agent.layout.not_claimed();
    let before = std::fs::read_to_string(&file).ok();
    if before.as_deref() == text {
        return;
    }
    let done = match text {
        Some(text) => {
            tracing::warn!("{text}");
            tell_waiting(text);
            AtomicFile::new(&file).replace(text)
        }
        None => std::fs::remove_file(&file),
    };
    if let Err(error) = done {
        tracing::warn!(file = %file.display(), %error, "cannot be changed");
    }
}

/// Says that the cell cannot be claimed, and what is to be done about it.
fn note_failure(agent: &Agent, error: &ClaimError) {
    let why = match error {
        ClaimError::Store(error) => with_remedy(agent.store.keys(), error),
        ClaimError::Memory(_) => format!("{error}: look at the disk of {}", agent.layout.state().display()),
    };
    note(agent, Some(&format!("cell {} cannot be claimed yet: {why}", agent.cell)));
}

/// Waits until this process has its cell. Meanwhile nothing is written and nothing is started; a primary that runs here
/// although another machine has taken the cell over is stopped.
pub(crate) async fn until_claimed(agent: &Agent) {
    // What an earlier process said is said again, also in this one's log.
    let _ = std::fs::remove_file(agent.layout.not_claimed());
    loop {
        match attempt(agent).await {
            Ok(Claimed::Yes) => return,
            Ok(Claimed::NotYet(_) | Claimed::Again) => {}
            // This process remembers it, so nothing in etcd gives the cell back to it.
            Ok(Claimed::TakenOver(_)) => keep_primaries_stopped(agent).await,
            Err(error) => note_failure(agent, &error),
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// What shows, without a program being started, whether an instance is another one than at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Glance {
    postmaster: Option<i32>,
    /// Whether it has `standby.signal` and `recovery.signal`, which PostgreSQL removes when it becomes a primary.
    signals: [bool; 2],
}

impl Glance {
    /// At the instance of a data directory; none when it cannot be seen.
    fn at(data: &Path) -> Option<Self> {
        let postmaster = running(data).ok()?.map(|postmaster| postmaster.pid);
        let has = |name: &str| data.join(name).try_exists().ok();
        Some(Self { postmaster, signals: [has("standby.signal")?, has("recovery.signal")?] })
    }
}

/// Stops a primary that runs here, now or later: a standby may be promoted. Never returns.
async fn keep_primaries_stopped(agent: &Agent) {
    let data = agent.layout.data();
    let mut seen = None;
    loop {
        let now = Glance::at(&data);
        if now.is_none() || now != seen {
            stop_primary(agent).await;
            seen = now;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Keeps the claim; returns what took the cell over.
///
/// A claim that is gone is written again: etcd lost its data, or the cell was removed and added again. Until then every
/// transaction of this process is refused.
pub(crate) async fn until_taken_over(agent: &Agent) -> CellClaim {
    let mut topology = agent.mirror.changes();
    loop {
        topology.borrow_and_update();
        let again = agent.is_claim_in_doubt();
        if again {
            match attempt(agent).await {
                Ok(Claimed::TakenOver(by)) => return by,
                Ok(_) => {}
                Err(error) => note_failure(agent, &error),
            }
        }
        tokio::select! {
            _ = topology.changed() => {}
            () = tokio::time::sleep(RETRY_INTERVAL), if again => {}
        }
    }
}

/// Ends what this machine does for a cell that another one has taken over: its PostgreSQL, if it is a primary. A standby
/// takes no writes and goes on. Called when nothing else of this process works on the instance.
pub(crate) async fn give_up(agent: &Agent) {
    if !agent.instance_lock.hold(ROUND_TIMEOUT).await {
        tracing::warn!("a round of the supervisor does not end; PostgreSQL is looked at all the same");
    }
    stop_primary(agent).await;
}

/// Until it is known that none runs: nobody else would look after it.
async fn stop_primary(agent: &Agent) {
    while !try_to_stop_primary(agent).await {
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Whether it is known that no primary runs here.
async fn try_to_stop_primary(agent: &Agent) -> bool {
    match stop_if_primary(&agent.tools, &agent.layout.data()).await {
        Ok(false) => true,
        Ok(true) => {
            tracing::warn!("the primary here was stopped: another machine has the cell");
            true
        }
        Err(error) => {
            tracing::error!(%error, "PostgreSQL could not be stopped, and another machine has the cell");
            false
        }
    }
}

/// At once: what it would archive now may contradict what the other machine has archived since.
async fn stop_if_primary(tools: &Tools, data: &Path) -> Result<bool, PostgresError> {
    if running(data)?.is_none() {
        return Ok(false);
    }
    let is_standby = match inspect(tools, data).await? {
        DataDirectory::Valid { control, recovers, .. } => !is_primary(data, &control, recovers)?,
        _ => false,
    };
    if !is_standby {
        stop(data, &StopTimeouts::immediate()).await?;
    }
    Ok(!is_standby)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_that_had_data_before_there_were_claims_is_no_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path());
        assert_eq!(remembered(&layout).unwrap(), OwnClaims::default());
        std::fs::create_dir(layout.state()).unwrap();
        std::fs::write(layout.seeded_marker(), "7").unwrap();
        assert_eq!(remembered(&layout).unwrap(), OwnClaims::of_older_build());
        // An operator gives the cell to this machine, with its data.
        std::fs::write(layout.own_claims(), "{}").unwrap();
        assert_eq!(remembered(&layout).unwrap(), OwnClaims::default());
        let own = OwnClaims::default().with(2, "e");
        std::fs::write(layout.own_claims(), serde_json::to_vec(&own).unwrap()).unwrap();
        assert_eq!(remembered(&layout).unwrap(), own);
    }

    #[test]
    fn damaged_memory_says_which_file_leaves_it() {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path());
        std::fs::create_dir(layout.state()).unwrap();
        for damaged in ["", "{", "\0\0", r#"{"number":"x"}"#] {
            std::fs::write(layout.own_claims(), damaged).unwrap();
            let told = remembered(&layout).unwrap_err().to_string();
            assert!(
                told.contains("state/claims.json is damaged") && told.contains("write {} into"),
                "{told}"
            );
        }
        std::fs::remove_file(layout.own_claims()).unwrap();
        std::fs::create_dir(layout.own_claims()).unwrap();
        let told = remembered(&layout).unwrap_err().to_string();
        assert!(told.contains("look at the disk"), "{told}");
    }

    #[test]
    fn promotion_and_start_of_an_instance_are_seen_at_a_glance() {
        let dir = tempfile::tempdir().unwrap();
        let none = Glance::at(dir.path());
        assert_eq!(none, Some(Glance { postmaster: None, signals: [false; 2] }));
        std::fs::write(dir.path().join("standby.signal"), "").unwrap();
        let standby = Glance::at(dir.path());
        assert_ne!(standby, none);
        assert_eq!(standby, Glance::at(dir.path()));
        std::fs::remove_file(dir.path().join("standby.signal")).unwrap();
        assert_ne!(standby, Glance::at(dir.path()), "it was promoted");
    }
}
