//! The status of a database and its cells.

use cellar_api::v1::{
    Archiver, DatabaseView, Durability, InstanceState, LagClass, Leader, LeadershipPhase, PoolerStatus,
    PoolerView, RepoCipher, Role,
};

use crate::render::facts::{NOTHING, section};
use crate::render::table::Table;
use crate::render::units;
use crate::render::words::{instance_word, role_word};

fn lag_word(status: &PoolerStatus) -> &'static str {
    if status.role() != Role::Standby {
        return NOTHING;
    }
    match status.replay_lag() {
        LagClass::Unknown => NOTHING,
        LagClass::Current => "<1MiB",
        LagClass::Segment => "<16MiB",
        LagClass::Behind => "<1GiB",
        LagClass::Far => ">=1GiB",
    }
}

/// Whether the last thing the archiver did was to fail.
fn is_failing(archiver: &Archiver) -> bool {
    let key = |time: &cellar_api::wkt::Timestamp| (time.seconds, time.nanos);
    match (&archiver.last_failed_time, &archiver.last_archived_time) {
        (Some(failed), Some(archived)) => key(failed) > key(archived),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn archiver_word(status: &PoolerStatus) -> &'static str {
    match &status.archiver {
        // Only a primary archives.
        _ if status.role() != Role::Primary => NOTHING,
        Some(archiver) if is_failing(archiver) => "failing",
        Some(archiver) if archiver.last_archived_wal.is_some() => "ok",
        _ => "idle",
    }
}

/// Whether the timeline that is shown is the present one: a standby that streams from nobody names that of its last
/// restartpoint.
fn knows_timeline(status: &PoolerStatus) -> bool {
    status.role() != Role::Standby || status.streams_from.is_some()
}

fn row(view: &PoolerView) -> [String; 10] {
    let cell = view.pooler.as_ref().map(|pooler| pooler.cell.clone()).unwrap_or_default();
    let Some(status) = &view.status else {
        let mut row: [String; 10] = Default::default();
        (row[0], row[2]) = (cell, "no multipooler".to_owned());
        return row;
    };
    let versions = status.versions.clone().unwrap_or_default();
    [
        cell,
        role_word(status.role()).to_owned(),
        instance_word(status.state()).to_owned(),
        status.timeline.filter(|_| knows_timeline(status)).map(|one| one.to_string()).unwrap_or_default(),
        status.streams_from.clone().unwrap_or_default(),
        lag_word(status).to_owned(),
        archiver_word(status).to_owned(),
        units::day(status.certificate_expiry.as_ref()),
        versions.postgres,
        versions.pgbackrest,
    ]
}

/// What is wrong with archiving, as far as the cell's multipooler knows.
pub(crate) fn archiving(status: &PoolerStatus) -> Option<String> {
    let archiver = status.archiver.as_ref().filter(|archiver| is_failing(archiver))?;
    Some(format!(
        "archiving fails since {} at WAL segment {}; PostgreSQL keeps its WAL until it works again",
        units::time(archiver.last_failed_time.as_ref()),
        archiver.last_failed_wal.as_deref().unwrap_or(NOTHING)
    ))
}

/// What the table has no column for; `primary` is the recorded one's cell.
fn notes(view: &PoolerView, primary: Option<&str>) -> Vec<String> {
    let cell = view.pooler.as_ref().map_or("?", |pooler| pooler.cell.as_str());
    let Some(status) = &view.status else {
        let host = view.pooler.as_ref().map_or("", |pooler| pooler.host.as_str());
        let start = match host {
            "" | "localhost" => "`cellar up`".to_owned(),
            host => format!("`cellar host start` on {host}"),
        };
        // On a host its name says less: an old machine and the one that has taken its place share it.
        let ran_on = match view.machine.as_str() {
            "" => String::new(),
            machine => format!("; it ran last on {machine}"),
        };
        // The primary's cell is not removed before another one has taken its place.
        let lost = match primary == Some(cell) {
            true => "; if it is lost for good, docs/runbooks/lost-cell.md has the way to another primary"
                .to_owned(),
            false => format!(", `cellar cells remove {cell}` gives the cell up"),
        };
        return vec![format!(
            "{cell}: its multipooler does not report; PostgreSQL may be running there all the same. {start} starts it{lost}{ran_on}"
        )];
    };
    let mut notes = Vec::new();
    if !status.message.is_empty() {
        notes.push(format!("{cell}: {}", status.message));
    }
    notes.extend(archiving(status).map(|trouble| format!("{cell}: {trouble}")));
    if status.state() == InstanceState::Running && !status.tls_server_up {
        notes.push(format!(
            "{cell}: its pgBackRest TLS server does not answer, so no other cell can be backed up against it"
        ));
    }
    notes.extend(
        status
            .unreadable_records
            .iter()
            .map(|record| format!("{cell}: cannot read the record {record} in etcd and goes on without it")),
    );
    notes
}

/// A line about quorum commit; nothing without it.
fn quorum(database: &cellar_api::v1::Database, leader: &Leader) -> String {
    if database.durability() != Durability::Quorum {
        return String::new();
    }
    match leader.leadership.as_ref().filter(|leadership| !leadership.ended) {
        Some(leadership) => {
            format!("quorum commit: term {}, {}\n", leadership.term, leadership_word(leadership.phase()))
        }
        None => "quorum commit has not begun yet: it begins when the standbys stream\n".to_owned(),
    }
}

/// The phase of a leadership in a word.
pub(crate) fn leadership_word(phase: LeadershipPhase) -> &'static str {
    match phase {
        LeadershipPhase::Steady => "steady",
        LeadershipPhase::Recruiting => "collects promises",
        LeadershipPhase::Appointed => "appointed",
        LeadershipPhase::Unspecified => NOTHING,
    }
}

/// Where a database's repository is: the path, with the cell before it when only that cell's host has it; or the URL of a
/// store.
pub(crate) fn repository(database: &cellar_api::v1::Database) -> String {
    match &database.repo_in_cell {
        Some(home) => format!("{}:{}", home.cell, home.path),
        None if !database.repo_url.is_empty() => database.repo_url.clone(),
        None => database.repo_path.clone(),
    }
}

/// What it means that nobody serves the repository on the host of the only cell that has it.
fn repository_note(database: &cellar_api::v1::Database, poolers: &[&PoolerView]) -> Option<String> {
    let home = &database.repo_in_cell.as_ref()?.cell;
    let is_home = |view: &&&PoolerView| view.pooler.as_ref().is_some_and(|pooler| pooler.cell == *home);
    let home_view = poolers.iter().find(is_home)?;
    if home_view.status.as_ref().is_some_and(|status| status.tls_server_up) {
        return None;
    }
    let host = home_view.pooler.as_ref().map_or("", |pooler| pooler.host.as_str());
    Some(format!(
        "the repository is on the host of {home}, where no pgBackRest TLS server is known to run: until one does, no WAL is archived from other hosts (PostgreSQL keeps it), and nothing is backed up or restored. `cellar host start` on {host} starts it; do not give {home} up, its host has the backups"
    ))
}

/// One database with its cells.
pub(crate) fn database(database: &DatabaseView, poolers: &[PoolerView]) -> String {
    let record = database.database.clone().unwrap_or_default();
    let encrypted = match record.repo_cipher() {
        RepoCipher::Unspecified => "",
        RepoCipher::Aes256Cbc => " (encrypted, aes-256-cbc)",
    };
    let mut text = format!(
        "database {}, stanza {}, repository {}{encrypted}\n",
        record.name,
        record.stanza,
        repository(&record)
    );
    if let Some(leader) = &database.leader {
        text.push_str(&format!("primary {} on timeline {}\n", leader.cell, leader.term));
        text.push_str(&quorum(&record, leader));
    }
    for condition in &database.conditions {
        text.push_str(&format!("{}: {}\n", condition.message, condition.way_out));
    }
    let mut table = Table::new(&[
        "CELL",
        "ROLE",
        "STATE",
        "TIMELINE",
        "STREAMS FROM",
        "LAG",
        "ARCHIVER",
        "CERTIFICATES END",
        "POSTGRES",
        "PGBACKREST",
    ]);
    let of_database =
        |view: &&PoolerView| view.pooler.as_ref().is_some_and(|pooler| pooler.database == record.name);
    let own: Vec<&PoolerView> = poolers.iter().filter(of_database).collect();
    own.iter().for_each(|view| table.row(row(view)));
    let primary = database.leader.as_ref().map(|leader| leader.cell.as_str());
    let of_cells = own.iter().flat_map(|view| notes(view, primary));
    let notes: Vec<String> = repository_note(&record, &own)
        .into_iter()
        .chain(of_cells)
        .chain(database.slot_notes.iter().cloned())
        .collect();
    format!("{text}\n{}{}", table.render(), section("notes", &notes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_api::v1::Pooler;

    #[test]
    fn machine_that_has_a_silent_cell_is_named() {
        let pooler = Pooler { cell: "zone2".into(), host: "db2".into(), ..Pooler::default() };
        let mut view = PoolerView { pooler: Some(pooler), ..PoolerView::default() };
        let note = |view: &PoolerView, primary| notes(view, primary).join("\n");
        let of_standby = note(&view, Some("zone1"));
        assert!(of_standby.starts_with("zone2: its multipooler does not report; "), "{of_standby}");
        view.machine = "db2 (machine id 0a1b2c3d…)".into();
        let of_standby = note(&view, Some("zone1"));
        assert!(
            of_standby.ends_with("gives the cell up; it ran last on db2 (machine id 0a1b2c3d…)"),
            "{of_standby}"
        );
        // The primary's cell cannot be given up.
        let of_primary = note(&view, Some("zone2"));
        assert!(!of_primary.contains("cells remove") && of_primary.contains("lost-cell.md"), "{of_primary}");
    }

    #[test]
    fn timeline_of_a_standby_that_streams_from_nobody_is_not_shown() {
        let of = |role: Role, streams_from: Option<&str>| {
            let mut status = PoolerStatus { timeline: Some(7), ..PoolerStatus::default() };
            status.set_role(role);
            status.streams_from = streams_from.map(str::to_owned);
            row(&PoolerView { status: Some(status), ..PoolerView::default() })[3].clone()
        };
        assert_eq!(of(Role::Standby, Some("zone1")), "7");
        assert_eq!(of(Role::Standby, None), "");
        assert_eq!(of(Role::Primary, None), "7");
    }
}
