//! Whether a primary's data is the present one while etcd knows no primary: it has lost the record, or it was put back.
//!
//! Another cell may have been promoted since this one ran. The archive knows of it, because a promotion archives the
//! history of its timeline first, and so do the multipoolers of the cells where it is seen.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{CellName, Database, DatabaseName, Leader, Pooler, PoolerStatus, Role, Timeline};
use cellar_pgbackrest::StanzaStatus;
use cellar_postgres::DataDirectory;

use crate::agent::Agent;
use crate::instance::data_role::newest_timeline;
use crate::repository::reader::Repo;
use crate::repository::stanza;

/// How long the other cells' multipoolers are waited for. One that runs reports within seconds of etcd's return.
const REPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of promotions since a primary's data was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Succession {
    /// There was none.
    Present,
    /// Not known yet; the text says what is awaited.
    Unknown(String),
    /// There was one, to this timeline; the text says who knows of it.
    Left(Timeline, String),
}

/// Looks for a promotion since this data was a primary's. None where that decides nothing: a primary is recorded, or the
/// data is a standby's. `since` is when that was first asked in this outage.
pub(crate) async fn look(
    agent: &Agent,
    card: &Pooler,
    database: &Database,
    (data, leader): (&DataDirectory, Option<&Leader>),
    since: &mut Option<Instant>,
) -> Option<Succession> {
    let DataDirectory::Valid { control, recovers: false, .. } = data else {
        *since = None;
        return None;
    };
    if leader.is_some() {
        *since = None;
        return None;
    }
    let begun = *since.get_or_insert_with(Instant::now);
    let newest = newest_timeline(Path::new(&card.data_directory), control);
    let (others, statuses) = others(agent);
    let seen = judge(newest, &others, &statuses, begun.elapsed() >= REPORT_TIMEOUT);
    if !matches!(seen, Succession::Present) {
        return Some(seen);
    }
    Some(match archived(agent, card, database).await {
        Err(why) => Succession::Unknown(format!(
            "the repository, which knows whether another cell was promoted while no primary was recorded: {why}"
        )),
        Ok(Some(archived)) if archived > newest => {
            Succession::Left(archived, "the archive has its history".to_owned())
        }
        Ok(_) => Succession::Present,
    })
}

/// The other cells of the database, and what their multipoolers report.
fn others(agent: &Agent) -> (Vec<CellName>, Vec<PoolerStatus>) {
    let view = agent.mirror.view();
    let is_other =
        |database: &DatabaseName, cell: &CellName| *database == agent.database && *cell != agent.cell;
    let cells = view.poolers.values().filter(|card| is_other(&card.database, &card.cell));
    let statuses = view.status.values().filter(|status| is_other(&status.database, &status.cell));
    (cells.map(|card| card.cell.clone()).collect(), statuses.cloned().collect())
}

/// Whether another cell reports that it has a database.
pub(crate) fn others_have_data(agent: &Agent) -> bool {
    others(agent).1.iter().any(|status| status.system_identifier.is_some())
}

/// The newest timeline on which another cell reports to be.
pub(crate) fn highest_of_others(agent: &Agent) -> Option<Timeline> {
    others(agent).1.iter().filter_map(|status| status.timeline).max()
}

/// What the other cells say. `waited` says that those which do not report were waited for.
fn judge(newest: Timeline, others: &[CellName], statuses: &[PoolerStatus], waited: bool) -> Succession {
    let later = statuses.iter().filter_map(|status| Some((status.timeline?, status)));
    if let Some((timeline, status)) = later.max_by_key(|(timeline, _)| *timeline).filter(|(t, _)| *t > newest)
    {
        return Succession::Left(timeline, format!("{} is on it", status.cell));
    }
    if let Some(status) = statuses.iter().find(|status| status.role == Role::Primary) {
        return Succession::Unknown(format!("{}, which runs as a primary, to be recorded", status.cell));
    }
    let silent = others.iter().filter(|cell| !statuses.iter().any(|status| status.cell == **cell));
    let silent: Vec<&str> = silent.map(CellName::as_str).collect();
    if !silent.is_empty() && !waited {
        return Succession::Unknown(format!(
            "the multipooler of {} to report, for at most {} s: another cell may have been promoted while no primary was recorded",
            silent.join(", "),
            REPORT_TIMEOUT.as_secs()
        ));
    }
    Succession::Present
}

/// The newest timeline whose history the archive has; none while there is none, or the database never had an archive.
async fn archived(agent: &Agent, card: &Pooler, database: &Database) -> Result<Option<Timeline>, String> {
    let had_one = agent.layout.stanza_marker().exists();
    let found = stanza::read(agent, database, card).await.map_err(|error| error.to_string())?;
    if matches!(found.status, StanzaStatus::MissingStanzaPath | StanzaStatus::MissingStanzaData) && !had_one {
        return Ok(None);
    }
    let repo = Repo::open(agent, database, card).await.map_err(|error| error.message)?;
    repo.newest_history().await.map_err(|error| error.message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{InstanceState, LagClass};

    fn status(cell: &str, role: Role, timeline: Option<u32>) -> PoolerStatus {
        PoolerStatus {
            database: "app".parse().unwrap(),
            cell: cell.parse().unwrap(),
            epoch: "one".to_owned(),
            pid: 1,
            held_lsn: None,
            held_timeline: None,
            replays: std::collections::BTreeMap::new(),
            logical_slots: Vec::new(),
            incarnation: None,
            state: InstanceState::Running,
            message: String::new(),
            role,
            system_identifier: None,
            timeline: timeline.map(Timeline::new),
            streams_from: None,
            receive_lag: LagClass::Unknown,
            replay_lag: LagClass::Unknown,
            archiver: cellar_model::Archiver::default(),
            versions: cellar_model::Versions::default(),
            certificate_expiry: None,
            tls_server_up: true,
            tls_server_accepts: Vec::new(),
            unreadable_records: Vec::new(),
            update_time: None,
        }
    }

    #[test]
    fn data_that_another_cell_has_left_behind_is_known_by_what_the_others_report() {
        let others: Vec<CellName> = ["zone2", "zone3"].map(|cell| cell.parse().unwrap()).to_vec();
        let judge = |statuses: &[PoolerStatus], waited| judge(Timeline::new(2), &others, statuses, waited);
        let (same, later) =
            (status("zone2", Role::Standby, Some(2)), status("zone3", Role::Standby, Some(3)));
        let left = Succession::Left(Timeline::new(3), "zone3 is on it".to_owned());
        assert_eq!(judge(&[same.clone(), later.clone()], false), left);
        assert_eq!(judge(&[later], false), left, "whoever else is silent");
        let Succession::Unknown(why) = judge(std::slice::from_ref(&same), false) else {
            panic!("zone3 may be the primary")
        };
        assert!(why.contains("zone3") && !why.contains("zone2"), "{why}");
        assert_eq!(
            judge(std::slice::from_ref(&same), true),
            Succession::Present,
            "a lost cell does not stop it for ever"
        );
        assert_eq!(judge(&[same.clone(), status("zone3", Role::Standby, None)], false), Succession::Present);
        let primary = status("zone3", Role::Primary, Some(2));
        assert!(matches!(judge(&[same, primary], true), Succession::Unknown(_)), "two on one timeline");
    }
}
