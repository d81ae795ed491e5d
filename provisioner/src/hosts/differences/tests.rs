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
    state_of(spec, None).unwrap()
}

fn names(state: &ClusterState) -> BTreeSet<CellName> {
    state.cells.iter().map(|cell| cell.name.clone()).collect()
}

fn compare(spec: &ClusterSpec, recorded: &ClusterState) -> Differences {
    differences(&state(spec), &spec.says_etcd, recorded, &names(recorded), &[])
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
    assert_eq!(found.changes[0], Change::Retention { database: None, from: Some(7), to: 14 });
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
    let moved =
        CELLS.replace("db2.", "db9.").replace("db3.example.org\"", "db3.example.org\"\nmultiadmin = false");
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
        let found = compare(&spec("", &at.replace("db9", "db3"), &CELLS.replace(&one, &other)), &recorded);
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
            &[("app".parse().unwrap(), "zone1".parse().unwrap())],
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
    let compare = |spec: &ClusterSpec| differences(&state(spec), &spec.says_etcd, &recorded, &topology, &[]);
    assert_eq!(compare(&spec("", "", CELLS)).changes, [Change::RemoveCell { cell: zone4_name.clone() }]);
    let found = compare(&spec("", "", &zone4("")));
    assert!(matches!(&found.changes[..], [Change::AddCell { cell, .. }] if *cell == zone4_name), "{found:?}");
}

#[test]
fn cell_whose_removal_was_interrupted_is_neither_there_nor_added() {
    let spec = spec("", "", CELLS);
    let recorded = state(&spec);
    let mut topology = names(&recorded);
    topology.retain(|cell| cell.as_str() != "zone3");
    let found = differences(&state(&spec), &spec.says_etcd, &recorded, &topology, &[]);
    assert!(found.changes.is_empty(), "{found:?}");
    assert!(found.refused[0].hint.contains("`cellar cells remove zone3`"), "{found:?}");
}

/// A database in two of the cells, beside the first.
fn with_sales(cells: &str, cells_of_sales: &str) -> ClusterSpec {
    let sales = format!("[[databases]]\nname = \"sales\"\ncells = [{cells_of_sales}]\n{cells}");
    spec("", "", &sales)
}

#[test]
fn a_cell_that_a_database_names_can_leave_and_come_back() {
    let recorded = state(&with_sales(&zone4(""), "\"zone1\", \"zone4\""));
    // The specification names the cell no more: neither among the cells nor among those of the database.
    let without = with_sales(CELLS, "\"zone1\"");
    let found = compare(&without, &recorded);
    let zone4_leaves = [Change::RemoveCell { cell: "zone4".parse().unwrap() }];
    assert_eq!(
        (found.changes.as_slice(), found.refused.as_slice()),
        (zone4_leaves.as_slice(), [].as_slice())
    );
    // It has left, and the database's wish has its name still.
    let mut left = recorded.clone();
    left.remove_cell(&"zone4".parse().unwrap());
    assert_eq!(compare(&without, &left), Differences::default());
    let found = compare(&with_sales(&zone4(""), "\"zone1\", \"zone4\""), &left);
    assert!(matches!(found.changes.as_slice(), [Change::AddCell { .. }]), "{found:?}");
    assert!(found.refused.is_empty(), "{found:?}");
    assert_eq!(left.members_in(&"zone4".parse().unwrap()).len(), 2);
    // Without its name there the cell would get a member that is not specified.
    let found = compare(&with_sales(&zone4(""), "\"zone1\""), &left);
    assert_eq!(
        found.refused[0].to_string(),
        "databases.sales.cells is zone1, zone4, and the specification has zone1"
    );
}

#[test]
fn databases_and_what_they_were_made_with_stay() {
    let recorded = state(&with_sales(CELLS, "\"zone1\""));
    let fields = |spec: &ClusterSpec| {
        let found = compare(spec, &recorded);
        found.refused.iter().map(|each| each.field.clone()).collect::<Vec<_>>()
    };
    assert_eq!(fields(&spec("", "", CELLS)), ["databases.sales"]);
    assert_eq!(fields(&with_sales(CELLS, "\"zone2\"")), ["databases.sales.cells"]);
    let moved = CELLS.replacen(
        "[[cells]]",
        "[[databases]]\nname = \"sales\"\nport_offset = 512\nstanza = \"s\"\ncells = [\"zone1\"]\n[[cells]]",
        1,
    );
    assert_eq!(fields(&spec("", "", &moved)), ["databases.sales.stanza", "databases.sales.port_offset"]);
    let kept = CELLS.replacen(
        "[[cells]]",
        "[[databases]]\nname = \"sales\"\nretention_full = 3\ncells = [\"zone1\"]\n[[cells]]",
        1,
    );
    let found = compare(&spec("", "", &kept), &recorded);
    let sales = Some("sales".parse().unwrap());
    assert_eq!(found.changes, [Change::Retention { database: sales, from: Some(7), to: 3 }]);
    assert_eq!(found.changes[0].to_string(), "full backups of database sales kept: 3 (now 7)");
}

/// It comes before a cell, which may be one of its own, and in which it alone may have a member.
#[test]
fn a_database_that_is_new_is_made_before_the_cells_that_are() {
    let recorded = state(&spec("", "", CELLS));
    let found = compare(&with_sales(&zone4(""), "\"zone3\", \"zone4\""), &recorded);
    assert!(found.refused.is_empty(), "{found:?}");
    let [Change::CreateDatabase(sales), Change::AddCell { .. }] = &found.changes[..] else {
        panic!("{found:?}")
    };
    assert_eq!((sales.name.as_str(), sales.port_offset, sales.retention_full), ("sales", Some(256), 7));
    assert_eq!(found.changes[0].to_string(), "create database sales in zone3, zone4; full backups kept: 7");
    let shown = serde_json::to_value(&found.changes[0]).unwrap();
    assert_eq!((&shown["change"], &shown["database"]), (&"createDatabase".into(), &"sales".into()));
    // The first one's name is the cluster's for its whole life.
    let renamed = CELLS.replacen("[[cells]]", "[[databases]]\nname = \"app\"\n[[cells]]", 1);
    let renamed =
        format!("cluster = \"demo\"\n[database]\nname = \"web\"\n[repo]\npath = \"/mnt/backup\"\n{renamed}");
    let found = compare(&ClusterSpec::parse(&renamed).unwrap(), &recorded);
    assert_eq!(found.refused[0].field, "database.name", "{found:?}");
}

#[test]
fn primary_of_any_database_stays() {
    let recorded = state(&with_sales(&zone4(""), "\"zone1\", \"zone4\""));
    let wanted = state(&with_sales(CELLS, "\"zone1\""));
    let primaries = [("app", "zone1"), ("sales", "zone4")];
    let primaries = primaries.map(|(database, cell)| (database.parse().unwrap(), cell.parse().unwrap()));
    let found = differences(&wanted, &BTreeSet::new(), &recorded, &names(&recorded), &primaries);
    assert_eq!(found.refused[0].present, "the primary of database sales");
}
