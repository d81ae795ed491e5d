//! How a specification differs from a cluster on hosts, and what can be done about it while everything runs.

use std::collections::BTreeSet;
use std::fmt;

use cellar_model::{CellName, DatabaseName};
use serde::Serialize;

use crate::cluster::cell_host::CellHost;
use crate::cluster::database::ClusterDatabase;
use crate::cluster::local_cluster::RETENTION_FULL;
use crate::cluster::state::{ClusterState, LocalCell};
use crate::error::finding::Finding;
use crate::hosts::databases::NewDatabase;

/// A difference that `cellar cluster apply` removes. Nothing that runs is restarted for any of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Change {
    /// A new database. Its instances are made when the bundles are installed that are issued for it.
    CreateDatabase(NewDatabase),
    /// An expiry keeps another number of full backups.
    Retention {
        /// The database; none where there is one only.
        #[serde(skip_serializing_if = "Option::is_none")]
        database: Option<DatabaseName>,
        /// The present number; none when none was ever chosen.
        from: Option<u32>,
        /// The new one.
        to: u32,
    },
    /// A new cell on a host of its own.
    AddCell {
        /// Its name.
        cell: CellName,
        /// Its host. It has no etcd member as yet, whatever the specification says.
        host: CellHost,
    },
    /// A cell leaves the cluster.
    RemoveCell {
        /// Its name.
        cell: CellName,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateDatabase(new) => {
                let cells = new.cells.iter().map(CellName::as_str).collect::<Vec<_>>().join(", ");
                let cells = if cells.is_empty() { "all cells" } else { &cells };
                write!(
                    f,
                    "create database {} in {cells}; full backups kept: {}",
                    new.name, new.retention_full
                )
            }
            Self::Retention { database, from, to } => {
                let of_database = database.as_ref().map(|database| format!(" of database {database}"));
                write!(f, "full backups{} kept: {to}", of_database.unwrap_or_default())?;
                from.map_or(Ok(()), |from| write!(f, " (now {from})"))
            }
            Self::AddCell { cell, host } => {
                write!(f, "add cell {cell} on {}, in {}", host.host, host.directory.display())
            }
            Self::RemoveCell { cell } => write!(f, "remove cell {cell}; its data is kept on its host"),
        }
    }
}

/// A difference that remains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Remaining {
    /// The field, such as `cells.zone2.host`.
    pub field: String,
    /// What the cluster has.
    pub present: String,
    /// What the specification says.
    pub wanted: String,
    /// How it is done, or why it cannot be.
    pub hint: String,
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, and the specification has {}", self.field, self.present, self.wanted)
    }
}

impl From<&Remaining> for Finding {
    fn from(remaining: &Remaining) -> Self {
        Self { message: remaining.to_string(), hint: Some(remaining.hint.clone()) }
    }
}

/// All differences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Differences {
    /// What `cellar cluster apply` does, in this order.
    pub changes: Vec<Change>,
    /// What it cannot do. While there are any, it does nothing.
    pub refused: Vec<Remaining>,
    /// What is to be done by another command once the changes have been made.
    pub left: Vec<Remaining>,
}

impl Differences {
    /// Whether the cluster is as specified.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.refused.is_empty() && self.left.is_empty()
    }
}

/// Compares what is specified with what the operator's directory has, and with the cells that are in the topology.
/// `says_etcd` are the cells of which the specification says whether they have an etcd member, `primaries` are the recorded ones.
pub(crate) fn differences(
    wanted: &ClusterState,
    says_etcd: &BTreeSet<CellName>,
    recorded: &ClusterState,
    topology: &BTreeSet<CellName>,
    primaries: &[(DatabaseName, CellName)],
) -> Differences {
    let mut found = Differences { refused: of_cluster(wanted, recorded), ..Differences::default() };
    found.refused.extend(of_databases(wanted, recorded));
    // First: a cell that is added has the members of all databases that are wanted there.
    found.changes.extend(new_databases(wanted, recorded).map(Change::CreateDatabase));
    for database in wanted.databases() {
        let Some(present) = recorded.database(&database.name) else { continue };
        if let Some(to) = database.retention_full.filter(|to| Some(*to) != present.retention_full) {
            let several = recorded.has_several_databases().then(|| database.name.clone());
            found.changes.push(Change::Retention { database: several, from: present.retention_full, to });
        }
    }
    for cell in &wanted.cells {
        let (Some(host), says) = (&cell.host, says_etcd.contains(&cell.name)) else { continue };
        match recorded.cell(&cell.name) {
            // A removal that was interrupted: the topology has forgotten the cell, its host has not been locked out.
            Some(_) if !topology.contains(&cell.name) => found.refused.push(Remaining {
                field: format!("cells.{}", cell.name),
                present: "being removed".to_owned(),
                wanted: format!("a cell on {}", host.host),
                hint: format!(
                    "finish its removal with `cellar cells remove {}`, then repeat this",
                    cell.name
                ),
            }),
            Some(present) => {
                let has_repository = recorded.repo.home() == Some(&cell.name);
                compare_hosts(present, has_repository, host, says, &mut found);
            }
            None => {
                let host = CellHost { etcd: false, ..host.clone() };
                if says && cell.host.as_ref().is_some_and(|host| host.etcd) {
                    found.left.push(Remaining {
                        field: format!("cells.{}.etcd", cell.name),
                        present: "false".to_owned(),
                        wanted: "true".to_owned(),
                        hint: format!("run `cellar etcd add {}` when the cell streams", cell.name),
                    });
                }
                found.changes.push(Change::AddCell { cell: cell.name.clone(), host });
            }
        }
    }
    let known = recorded.cells.iter().map(|cell| &cell.name);
    // A cell whose addition was interrupted is in the topology alone.
    let unknown = topology.iter().filter(|cell| recorded.cell(cell).is_none());
    let gone = known.chain(unknown).filter(|cell| wanted.cell(cell).is_none());
    let gone: Vec<&CellName> = gone.collect();
    found.refused.extend(must_stay(&gone, recorded, primaries));
    found.changes.extend(gone.into_iter().map(|cell| Change::RemoveCell { cell: cell.clone() }));
    found
}

/// Those of the cells that are to leave which cannot: known now, before other changes have been made.
fn must_stay(
    gone: &[&CellName],
    recorded: &ClusterState,
    primaries: &[(DatabaseName, CellName)],
) -> Vec<Remaining> {
    let stays = |cell: &CellName, present: &str, hint: &str| Remaining {
        field: format!("cells.{cell}"),
        present: present.to_owned(),
        wanted: "no such cell".to_owned(),
        hint: hint.to_owned(),
    };
    let has_multiadmin = |cell: &LocalCell| cell.host.as_ref().is_some_and(|host| host.multiadmin);
    let stays_with_one = |cell: &LocalCell| has_multiadmin(cell) && !gone.contains(&&cell.name);
    // One that is new is not installed yet, and nothing else would remove a cell then.
    let is_one_left = recorded.cells.iter().any(stays_with_one);
    let mut found = Vec::new();
    for cell in gone {
        for (database, _) in primaries.iter().filter(|(_, primary)| primary == *cell) {
            let present = match recorded.has_several_databases() {
                false => "the primary".to_owned(),
                true => format!("the primary of database {database}"),
            };
            found.push(stays(
                cell,
                &present,
                "promote another cell first (docs/runbooks/lost-cell.md), then repeat this",
            ));
        }
        if !is_one_left && recorded.cell(cell).is_some_and(has_multiadmin) {
            found.push(stays(
                cell,
                "on one of the only hosts with a multiadmin",
                "keep it in the specification until the host of another cell with a multiadmin is installed and started",
            ));
        }
    }
    found
}

/// What a cluster keeps for its whole life.
fn of_cluster(wanted: &ClusterState, recorded: &ClusterState) -> Vec<Remaining> {
    let path = |state: &ClusterState| {
        state.repo.directory().map(|path| path.display().to_string()).unwrap_or_default()
    };
    let url = |state: &ClusterState| state.repo.store().map(ToString::to_string).unwrap_or_default();
    let host = |state: &ClusterState| {
        state.repo.home().map_or_else(|| "every host".to_owned(), |cell| format!("that of cell {cell}"))
    };
    let fields = [
        ("cluster", wanted.cluster.to_string(), recorded.cluster.to_string()),
        ("database.name", wanted.first_database.name.to_string(), recorded.first_database.name.to_string()),
        (
            "database.stanza",
            wanted.first_database.stanza.to_string(),
            recorded.first_database.stanza.to_string(),
        ),
        ("repo.path", path(wanted), path(recorded)),
        ("repo.url", url(wanted), url(recorded)),
        ("repo.host", host(wanted), host(recorded)),
        ("os_user", wanted.os_user.clone(), recorded.os_user.clone()),
        ("port_offset", wanted.port_offset.to_string(), recorded.port_offset.to_string()),
    ];
    let differ = fields.into_iter().filter(|(_, wanted, recorded)| wanted != recorded);
    differ
        .map(|(field, wanted, present)| Remaining {
            field: field.to_owned(),
            present,
            wanted,
            hint: "a cluster keeps it for its whole life: correct the specification, or make another cluster with \
                   `cellar cluster init --dir DIRECTORY`"
                .to_owned(),
        })
        .collect()
}

/// The databases that are specified and not there.
fn new_databases(wanted: &ClusterState, recorded: &ClusterState) -> impl Iterator<Item = NewDatabase> {
    let new = wanted.further_databases.iter().filter(|one| recorded.database(&one.name).is_none());
    new.map(|database| NewDatabase {
        name: database.name.clone(),
        stanza: Some(database.stanza.clone()),
        cells: database.cells.clone(),
        port_offset: Some(database.port_offset),
        retention_full: database.retention_full.unwrap_or(RETENTION_FULL),
    })
}

/// Databases that are to go, and where each has members. The names of cells that are to leave stay in what is recorded, so
/// they are not compared: with its cell the member is there again.
fn of_databases(wanted: &ClusterState, recorded: &ClusterState) -> Vec<Remaining> {
    let mut found = Vec::new();
    let mut differ = |field: String, present: String, wanted: String, hint: &str| {
        if present != wanted {
            found.push(Remaining { field, present, wanted, hint: hint.to_owned() });
        }
    };
    for gone in recorded.further_databases.iter().filter(|one| wanted.database(&one.name).is_none()) {
        let hint = "this release removes no database: keep it in the specification";
        let (present, wanted) = ("a database".to_owned(), "no such database".to_owned());
        differ(format!("databases.{}", gone.name), present, wanted, hint);
    }
    let whole_life = "a database keeps it for its whole life: correct the specification";
    for (at, database) in wanted.databases().enumerate() {
        let Some(present) = recorded.database(&database.name) else { continue };
        let field = |what: &str| match at {
            0 => format!("database.{what}"),
            _ => format!("databases.{}.{what}", database.name),
        };
        if at > 0 {
            differ(field("stanza"), present.stanza.to_string(), database.stanza.to_string(), whole_life);
            let offsets = [present, database].map(|one| one.port_offset.to_string());
            let [present, wanted] = offsets;
            differ(field("port_offset"), present, wanted, whole_life);
        }
        let cells = |one: &ClusterDatabase| {
            let there = one.cells.iter().filter(|cell| wanted.cell(cell).is_some());
            match one.cells.is_empty() {
                true => "all".to_owned(),
                false => there.map(CellName::as_str).collect::<Vec<_>>().join(", "),
            }
        };
        let hint = "a database keeps the cells that it was given when it was made: correct the specification";
        differ(field("cells"), cells(present), cells(database), hint);
    }
    found
}

fn compare_hosts(
    present: &LocalCell,
    has_repository: bool,
    wanted: &CellHost,
    says_etcd: bool,
    found: &mut Differences,
) {
    let cell = &present.name;
    let Some(host) = &present.host else { return };
    let again = if has_repository {
        format!(
            "the repository is on the host of cell {cell}, so the cell is never removed and keeps this for its whole \
             life: correct the specification. Another machine may take the place of the host under the same name \
             (docs/guides/hosts.md, \"Replace a host\")"
        )
    } else {
        format!(
            "a cell gets it when it is added: `cellar cells remove {cell}` (not while it is the primary), then \
             `cellar cluster apply` adds it as specified"
        )
    };
    let mut differ = |field: &str, present: String, wanted: String, hint: &str| {
        if present != wanted {
            let (field, hint) = (format!("cells.{cell}.{field}"), hint.to_owned());
            found.refused.push(Remaining { field, present, wanted, hint });
        }
    };
    differ("host", host.host.to_string(), wanted.host.to_string(), &again);
    differ("listen", host.listen.to_string(), wanted.listen.to_string(), &again);
    let directory = |host: &CellHost| host.directory.display().to_string();
    differ("directory", directory(host), directory(wanted), &again);
    differ("multiadmin", host.multiadmin.to_string(), wanted.multiadmin.to_string(), &again);
    if says_etcd {
        let hint = if wanted.etcd {
            format!("run `cellar etcd add {cell}`")
        } else if has_repository {
            format!(
                "a member of etcd leaves it with its cell only, and {cell} is never removed, because the repository is \
                 on its host: correct the specification"
            )
        } else {
            format!("a member of etcd leaves it with its cell only (`cellar cells remove {cell}`)")
        };
        differ("etcd", host.etcd.to_string(), wanted.etcd.to_string(), &hint);
    }
}

#[cfg(test)]
mod tests;
