//! The databases of a specification: their names, where they have members, and their ports.

use std::collections::BTreeSet;

use cellar_model::{CellName, DatabaseName, PORT_SPAN, Repository, StanzaName};

use crate::error::spec_error::SpecError;
use crate::spec::field::{name, refuse};
use crate::spec::file_format::{FurtherDatabaseTable, SpecFile};

/// Full backups kept when the specification has no number.
const DEFAULT_RETENTION: u32 = 7;

/// A database as it is specified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecifiedDatabase {
    /// Its name.
    pub name: DatabaseName,
    /// pgBackRest's name for it.
    pub stanza: StanzaName,
    /// The cells in which it is to have members; empty for all.
    pub cells: Vec<CellName>,
    /// Moves its ports; none leaves that to whoever makes the cluster. The first database has the cluster's.
    pub port_offset: Option<u16>,
    /// Full backups kept.
    pub retention_full: u32,
}

/// What of a database is about its members.
struct Wish<'a> {
    field: String,
    cells: &'a Option<Vec<String>>,
}

/// All databases of a file, the first one first. `cells` are those that there are, in the order of their names.
pub(super) fn databases(
    file: &SpecFile,
    cells: &[CellName],
    repository: &Repository,
) -> Result<Vec<SpecifiedDatabase>, SpecError> {
    let first = SpecifiedDatabase {
        name: name("database.name", &file.database.name)?,
        stanza: match &file.database.stanza {
            Some(stanza) => name("database.stanza", stanza)?,
            None => name("database.name", &file.database.name)?,
        },
        cells: chosen(
            &Wish { field: "database.cells".to_owned(), cells: &file.database.cells },
            cells,
            repository,
        )?,
        port_offset: Some(file.port_offset.unwrap_or_default()),
        retention_full: retention("repo.retention_full", file.repo.retention_full, DEFAULT_RETENTION)?,
    };
    let mut all = vec![first];
    for table in &file.databases {
        let database = further(table, cells, repository, all[0].retention_full)?;
        if let Some(other) = all.iter().find(|other| other.name == database.name) {
            return Err(twice("name", &database.name, other.name.as_str()));
        }
        if let Some(other) = all.iter().find(|other| other.stanza == database.stanza) {
            // Their backups would be in one directory of the repository.
            return Err(twice("stanza", &database.name, other.name.as_str()));
        }
        all.push(database);
    }
    let has_member = |cell: &CellName| all.iter().any(|one| one.cells.is_empty() || one.cells.contains(cell));
    match cells.iter().find(|cell| !has_member(cell)) {
        None => Ok(all),
        Some(cell) => Err(refuse(
            "databases.cells",
            cell.as_str(),
            "no database has a member in this cell: name it in the `cells` of one, or leave the cell out",
        )),
    }
}

fn twice(what: &str, database: &DatabaseName, other: &str) -> SpecError {
    SpecError::Collision {
        first: format!("{what} of database {other}"),
        second: format!("databases.{database}.{what}"),
        value: database.to_string(),
    }
}

fn further(
    table: &FurtherDatabaseTable,
    cells: &[CellName],
    repository: &Repository,
    default_retention: u32,
) -> Result<SpecifiedDatabase, SpecError> {
    let database: DatabaseName = name("databases.name", &table.name)?;
    let field = |what: &str| format!("databases.{database}.{what}");
    Ok(SpecifiedDatabase {
        stanza: name(&field("stanza"), table.stanza.as_ref().unwrap_or(&table.name))?,
        cells: chosen(&Wish { field: field("cells"), cells: &table.cells }, cells, repository)?,
        port_offset: table.port_offset,
        retention_full: retention(&field("retention_full"), table.retention_full, default_retention)?,
        name: database,
    })
}

fn retention(field: &str, given: Option<u32>, default: u32) -> Result<u32, SpecError> {
    match given.unwrap_or(default) {
        count @ 1..=9_999_999 => Ok(count),
        count => Err(refuse(field, &count.to_string(), "1 to 9999999 full backups can be kept")),
    }
}

/// The cells that a database names, in the order of their names.
fn chosen(wish: &Wish<'_>, known: &[CellName], repository: &Repository) -> Result<Vec<CellName>, SpecError> {
    let Some(named) = wish.cells else { return Ok(Vec::new()) };
    let mut chosen = BTreeSet::new();
    for text in named {
        let cell: CellName = name(&wish.field, text)?;
        if !known.contains(&cell) {
            return Err(refuse(&wish.field, text, "there is no cell of that name"));
        }
        if !chosen.insert(cell) {
            return Err(refuse(&wish.field, text, "it is named twice"));
        }
    }
    if chosen.is_empty() {
        return Err(refuse(
            &wish.field,
            "",
            "a database has a member in at least one cell: leave `cells` out for all",
        ));
    }
    if let Some(home) = repository.home().filter(|home| !chosen.contains(home)) {
        let reason =
            "the repository is on the host of this cell, where a database needs a member to reach it";
        return Err(refuse(&wish.field, home.as_str(), reason));
    }
    Ok(chosen.into_iter().collect())
}

/// The offset of the ports of a further database: the first range above the cluster's own that no other database is in.
pub(crate) fn allotted(cluster: u16, taken: &[u16]) -> Option<u16> {
    let candidates = (1..).map(|n: u16| cluster.checked_add(n.checked_mul(PORT_SPAN)?));
    let is_free = |offset: &u16| taken.iter().all(|other| other.abs_diff(*offset) >= PORT_SPAN);
    candidates.map_while(|offset| offset).find(is_free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::cluster_spec::ClusterSpec;

    const SPEC: &str = r#"
cluster = "demo"
[database]
name = "app"
cells = ["zone1", "zone2"]
[[databases]]
name = "sales"
cells = ["zone3", "zone2"]
[[databases]]
name = "web"
stanza = "www"
port_offset = 900
retention_full = 3
[repo]
path = "/r"
[[cells]]
name = "zone1"
host = "db1"
[[cells]]
name = "zone2"
host = "db2"
[[cells]]
name = "zone3"
host = "db3"
"#;

    fn refused(from: &str, to: &str) -> String {
        assert!(SPEC.contains(from), "{from}");
        ClusterSpec::parse(&SPEC.replacen(from, to, 1)).unwrap_err().to_string()
    }

    #[test]
    fn each_database_has_its_own_cells_stanza_and_retention() {
        let spec = ClusterSpec::parse(SPEC).unwrap();
        let [app, sales, web] = spec.databases.as_slice() else { panic!("{spec:?}") };
        let cells =
            |one: &SpecifiedDatabase| one.cells.iter().map(CellName::as_str).collect::<Vec<_>>().join(" ");
        assert_eq!([cells(app), cells(sales), cells(web)], ["zone1 zone2", "zone2 zone3", ""]);
        assert_eq!((sales.stanza.as_str(), web.stanza.as_str()), ("sales", "www"));
        assert_eq!((app.retention_full, sales.retention_full, web.retention_full), (7, 7, 3));
        assert_eq!((app.port_offset, sales.port_offset, web.port_offset), (Some(0), None, Some(900)));
    }

    #[test]
    fn what_databases_cannot_be_is_refused_by_its_field() {
        for (from, to, expected) in [
            ("\"zone3\", \"zone2\"", "\"zone9\"", "databases.sales.cells"),
            ("\"zone3\", \"zone2\"", "\"zone3\", \"zone3\"", "databases.sales.cells"),
            ("\"zone3\", \"zone2\"", "", "databases.sales.cells"),
            ("name = \"web\"", "name = \"app\"", "databases.app.name"),
            ("stanza = \"www\"", "stanza = \"app\"", "databases.web.stanza"),
            ("retention_full = 3", "retention_full = 0", "databases.web.retention_full"),
            ("name = \"sales\"", "name = \"Sales\"", "databases.name"),
            ("path = \"/r\"", "path = \"/r\"\nhost = \"db3\"", "database.cells"),
            ("name = \"web\"", "name = \"web\"\ncells = [\"zone1\"]\nhost = \"x\"", "unknown field"),
        ] {
            let said = refused(from, to);
            assert!(said.contains(expected), "{to}: {said}");
        }
        let nowhere = SPEC.replacen(
            "[[databases]]\nname = \"web\"",
            "[[databases]]\nname = \"web\"\ncells = [\"zone1\"]",
            1,
        );
        let nowhere = nowhere.replacen("\"zone3\", \"zone2\"", "\"zone2\"", 1);
        let said = ClusterSpec::parse(&nowhere).unwrap_err().to_string();
        assert!(said.contains("databases.cells \"zone3\""), "{said}");
    }

    #[test]
    fn ports_are_allotted_beside_those_that_are_taken() {
        assert_eq!(allotted(0, &[0]), Some(256));
        assert_eq!(allotted(100, &[100, 356]), Some(612));
        assert_eq!(allotted(0, &[0, 300]), Some(768), "256 and 512 are within reach of 300");
        assert_eq!(allotted(65500, &[]), None);
    }
}
