//! How a specification differs from a cluster on hosts, and what can be done about it while everything runs.

use std::collections::BTreeSet;
use std::fmt;

use cellar_model::CellName;
use serde::Serialize;

use crate::cluster::cell_host::CellHost;
use crate::cluster::state::{ClusterState, LocalCell};
use crate::error::finding::Finding;

/// A difference that `cellar cluster apply` removes. Nothing that runs is restarted for any of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Change {
    /// An expiry keeps another number of full backups.
    Retention {
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
            Self::Retention { from: Some(from), to } => write!(f, "full backups kept: {to} (now {from})"),
            Self::Retention { from: None, to } => write!(f, "full backups kept: {to}"),
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
/// `says_etcd` are the cells of which the specification says whether they have an etcd member, `primary` is the recorded one.
pub(crate) fn differences(
    wanted: &ClusterState,
    says_etcd: &BTreeSet<CellName>,
    recorded: &ClusterState,
    topology: &BTreeSet<CellName>,
    primary: Option<&CellName>,
) -> Differences {
    let mut found = Differences { refused: of_cluster(wanted, recorded), ..Differences::default() };
    if let Some(to) = wanted.retention_full.filter(|_| wanted.retention_full != recorded.retention_full) {
        found.changes.push(Change::Retention { from: recorded.retention_full, to });
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
    found.refused.extend(must_stay(&gone, recorded, primary));
    found.changes.extend(gone.into_iter().map(|cell| Change::RemoveCell { cell: cell.clone() }));
    found
}

/// Those of the cells that are to leave which cannot: known now, before other changes have been made.
fn must_stay(gone: &[&CellName], recorded: &ClusterState, primary: Option<&CellName>) -> Vec<Remaining> {
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
        if primary == Some(*cell) {
            found.push(stays(
                cell,
                "the primary",
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
    let host = |state: &ClusterState| {
        state.repo.home().map_or_else(|| "every host".to_owned(), |cell| format!("that of cell {cell}"))
    };
    let fields = [
        ("cluster", wanted.cluster.to_string(), recorded.cluster.to_string()),
        ("database.name", wanted.database.to_string(), recorded.database.to_string()),
        ("database.stanza", wanted.stanza.to_string(), recorded.stanza.to_string()),
        ("repo.path", path(wanted), path(recorded)),
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
mod tests {
    use super::*;
    use crate::hosts::init::state_of;
    use crate::spec::cluster_spec::ClusterSpec;

    const CELLS: &str = "
        [[cells]]
        name = \"zone1\"
        host = \"db1.example.org\"
        [[cells]]
        name = \"zone2\"
        host = \"db2.example.org\"
        [[cells]]
        name = \"zone3\"
        host = \"db3.example.org\"
    ";

    fn spec(top: &str, repo: &str, cells: &str) -> ClusterSpec {
        let text = format!(
            "cluster = \"demo\"\n{top}\n[database]\nname = \"app\"\n[repo]\npath = \"/mnt/backup\"\n{repo}\n{cells}"
        );
        ClusterSpec::parse(&text).unwrap()
    }

    fn state(spec: &ClusterSpec) -> ClusterState {
        state_of(spec).unwrap()
    }

    fn names(state: &ClusterState) -> BTreeSet<CellName> {
        state.cells.iter().map(|cell| cell.name.clone()).collect()
    }

    fn compare(spec: &ClusterSpec, recorded: &ClusterState) -> Differences {
        differences(&state(spec), &spec.says_etcd, recorded, &names(recorded), None)
    }

    fn zone4(more: &str) -> String {
        format!("{CELLS}\n[[cells]]\nname = \"zone4\"\nhost = \"db4.example.org\"\n{more}")
    }

    #[test]
    fn cluster_is_as_its_own_specification_says() {
        let spec = spec("", "", CELLS);
        assert_eq!(compare(&spec, &state(&spec)), Differences::default());
    }

    #[test]
    fn repository_stays_on_its_host() {
        let (everywhere, one) = (spec("", "", CELLS), spec("", "host = \"zone3\"", CELLS));
        assert_eq!(compare(&one, &state(&one)), Differences::default());
        for (wanted, recorded) in [(&everywhere, &one), (&one, &everywhere)] {
            let refused = compare(wanted, &state(recorded)).refused;
            let fields: Vec<&str> = refused.iter().map(|refused| refused.field.as_str()).collect();
            assert_eq!(fields, ["repo.host"]);
        }
    }

    #[test]
    fn cells_and_the_retention_are_changed_while_everything_runs() {
        let recorded = state(&spec("", "", CELLS));
        let found = compare(&spec("", "retention_full = 14", &zone4("")), &recorded);
        assert_eq!(found.changes[0], Change::Retention { from: Some(7), to: 14 });
        let Change::AddCell { cell, host } = &found.changes[1] else { panic!("{found:?}") };
        assert_eq!((cell.as_str(), host.host.to_string().as_str()), ("zone4", "db4.example.org"));
        assert!(found.refused.is_empty() && found.left.is_empty(), "{found:?}");
        // The other way round.
        let found = compare(&spec("", "", CELLS), &state(&spec("", "", &zone4(""))));
        let zone4: CellName = "zone4".parse().unwrap();
        assert_eq!(found.changes, [Change::RemoveCell { cell: zone4 }]);
    }

    /// How many cells there are decides who has a member of etcd at the beginning only.
    #[test]
    fn members_of_etcd_differ_only_where_the_specification_says_so() {
        let two = "
            [[cells]]
            name = \"zone1\"
            host = \"db1.example.org\"
            [[cells]]
            name = \"zone2\"
            host = \"db2.example.org\"
        ";
        let recorded = state(&spec("", "", two));
        let found = compare(&spec("", "", CELLS), &recorded);
        let Change::AddCell { host, .. } = &found.changes[0] else { panic!("{found:?}") };
        assert!(!host.etcd && found.refused.is_empty() && found.left.is_empty(), "{found:?}");

        let recorded = state(&spec("", "", CELLS));
        let says = CELLS
            .replace("db3.example.org\"", "db3.example.org\"\netcd = false")
            .replace("db2.example.org\"", "db2.example.org\"\netcd = false");
        let found = compare(&spec("", "", &says), &recorded);
        let fields: Vec<&str> = found.refused.iter().map(|each| each.field.as_str()).collect();
        assert_eq!(fields, ["cells.zone2.etcd", "cells.zone3.etcd"]);
        // A member comes to a new cell by a command of its own.
        let five = format!(
            "{}\n[[cells]]\nname = \"zone5\"\nhost = \"db5.example.org\"\netcd = true",
            zone4("etcd = true")
        );
        let found = compare(&spec("", "", &five), &recorded);
        assert_eq!((found.changes.len(), found.refused.len(), found.left.len()), (2, 0, 2));
        assert!(found.left[0].hint.contains("`cellar etcd add zone4`"), "{found:?}");
    }

    #[test]
    fn what_cannot_be_changed_is_named_with_what_to_do() {
        let recorded = state(&spec("", "", CELLS));
        let moved = CELLS
            .replace("db2.", "db9.")
            .replace("db3.example.org\"", "db3.example.org\"\nmultiadmin = false");
        let found = compare(&spec("port_offset = 10\nos_user = \"pg\"", "", &moved), &recorded);
        let fields: Vec<&str> = found.refused.iter().map(|each| each.field.as_str()).collect();
        assert_eq!(fields, ["os_user", "port_offset", "cells.zone2.host", "cells.zone3.multiadmin"]);
        let zone2 = &found.refused[2];
        assert_eq!((zone2.present.as_str(), zone2.wanted.as_str()), ("db2.example.org", "db9.example.org"));
        assert!(zone2.hint.contains("`cellar cells remove zone2`"), "{zone2:?}");
        assert!(found.changes.is_empty());
    }

    #[test]
    fn cell_whose_host_has_the_repository_is_not_to_be_removed_to_be_changed() {
        let at = "host = \"db3.example.org\"";
        let recorded = state(&spec("", at, CELLS));
        let host = "db3.example.org\"";
        for (field, to) in [
            ("host", "db9.example.org\""),
            ("listen", "db3.example.org\"\nlisten = \"10.0.0.3\""),
            ("directory", "db3.example.org\"\ndirectory = \"/srv/cellar\""),
            ("multiadmin", "db3.example.org\"\nmultiadmin = false"),
        ] {
            let at = if field == "host" { at.replace("db3", "db9") } else { at.to_owned() };
            let found = compare(&spec("", &at, &CELLS.replace(host, to)), &recorded);
            let [refused] = &found.refused[..] else { panic!("{found:?}") };
            assert_eq!(refused.field, format!("cells.zone3.{field}"));
            let hint = &refused.hint;
            assert!(!hint.contains("cells remove") && hint.contains("correct the specification"), "{hint}");
            // Others are.
            let (one, other) = (host.replace("db3", "db2"), to.replace("db3", "db2").replace("0.3", "0.2"));
            let found =
                compare(&spec("", &at.replace("db9", "db3"), &CELLS.replace(&one, &other)), &recorded);
            assert!(found.refused[0].hint.contains("`cellar cells remove zone2`"), "{found:?}");
        }
        let without = CELLS
            .replace("db2.example.org\"", "db2.example.org\"\netcd = false")
            .replace(host, "db3.example.org\"\netcd = false");
        let found = compare(&spec("", at, &without), &recorded);
        let hints: Vec<&str> = found.refused.iter().map(|each| each.hint.as_str()).collect();
        assert!(hints[0].contains("cells remove zone2") && !hints[1].contains("cells remove"), "{hints:?}");
    }

    #[test]
    fn cells_that_cannot_leave_are_known_before_anything_is_changed() {
        let says = format!("{}\nmultiadmin = false", CELLS.trim_end());
        let recorded = state(&spec("", "", &says));
        let only = |kept: &str| {
            let kept = spec("", "retention_full = 14", kept);
            differences(
                &state(&kept),
                &kept.says_etcd,
                &recorded,
                &names(&recorded),
                Some(&"zone1".parse().unwrap()),
            )
        };
        let blocks: Vec<String> =
            says.split("[[cells]]").skip(1).map(|block| format!("[[cells]]{block}")).collect();
        let found = only(&blocks[1..].concat());
        let fields: Vec<_> = found.refused.iter().map(|each| (&*each.field, &*each.present)).collect();
        assert_eq!(fields, [("cells.zone1", "the primary")], "{found:?}");
        // Both multiadmins would go, and that of a new cell is not installed.
        let zone4 = "[[cells]]\nname = \"zone4\"\nhost = \"db4.example.org\"\n";
        let found = only(&format!("{}\n{zone4}", blocks[2]));
        let fields: Vec<_> = found.refused.iter().map(|each| each.field.as_str()).collect();
        assert_eq!(fields, ["cells.zone1", "cells.zone1", "cells.zone2"], "{found:?}");
        // One stays.
        assert_eq!(only(&[&*blocks[0], &*blocks[2]].concat()).refused, []);
    }

    #[test]
    fn cell_whose_addition_was_interrupted_is_removed_or_added_as_specified() {
        let recorded = state(&spec("", "", CELLS));
        let zone4_name: CellName = "zone4".parse().unwrap();
        let mut topology = names(&recorded);
        topology.insert(zone4_name.clone());
        let compare =
            |spec: &ClusterSpec| differences(&state(spec), &spec.says_etcd, &recorded, &topology, None);
        assert_eq!(compare(&spec("", "", CELLS)).changes, [Change::RemoveCell { cell: zone4_name.clone() }]);
        let found = compare(&spec("", "", &zone4("")));
        assert!(
            matches!(&found.changes[..], [Change::AddCell { cell, .. }] if *cell == zone4_name),
            "{found:?}"
        );
    }

    #[test]
    fn cell_whose_removal_was_interrupted_is_neither_there_nor_added() {
        let spec = spec("", "", CELLS);
        let recorded = state(&spec);
        let mut topology = names(&recorded);
        topology.retain(|cell| cell.as_str() != "zone3");
        let found = differences(&state(&spec), &spec.says_etcd, &recorded, &topology, None);
        assert!(found.changes.is_empty(), "{found:?}");
        assert!(found.refused[0].hint.contains("`cellar cells remove zone3`"), "{found:?}");
    }
}
