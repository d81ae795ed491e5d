//! The databases of a cluster and their members: which there are, how they are called, and where they are on this machine.

use std::fs;

use cellar_model::{CellLayout, CellName, DatabaseName};
use cellar_tls::SERVER_KEY;

use crate::cluster::database::{ClusterDatabase, Member};
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;

impl ClusterState {
    /// All databases, the first one first.
    pub fn databases(&self) -> impl Iterator<Item = &ClusterDatabase> {
        std::iter::once(&self.first_database).chain(&self.further_databases)
    }

    /// The database of that name.
    #[must_use]
    pub fn database(&self, name: &DatabaseName) -> Option<&ClusterDatabase> {
        self.databases().find(|database| database.name == *name)
    }

    /// The same, to be changed.
    pub(crate) fn database_mut(&mut self, name: &DatabaseName) -> Option<&mut ClusterDatabase> {
        let all = std::iter::once(&mut self.first_database).chain(&mut self.further_databases);
        all.into_iter().find(|database| database.name == *name)
    }

    /// Whether there are several databases, so that messages name them.
    #[must_use]
    pub fn has_several_databases(&self) -> bool {
        !self.further_databases.is_empty()
    }

    /// The database's name where it stands in directories and certificates: of all but the first.
    pub(crate) fn qualifier<'a>(&self, database: &'a DatabaseName) -> Option<&'a DatabaseName> {
        (self.first_database.name != *database).then_some(database)
    }

    /// The members that there are to be in a cell, the first database's first.
    pub fn members_in(&self, cell: &CellName) -> Vec<Member> {
        let here = self.databases().filter(|database| database.is_wanted_in(cell));
        here.map(|database| Member { cell: cell.clone(), database: database.name.clone() }).collect()
    }

    /// All members that there are to be, in the order of the cells.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        self.cells.iter().flat_map(|cell| self.members_in(&cell.name)).collect()
    }

    /// The members of one database.
    pub(crate) fn members_of(&self, database: &DatabaseName) -> Vec<Member> {
        self.members().into_iter().filter(|member| member.database == *database).collect()
    }

    /// What completes `of cell`: the cell, and where there are several databases the one that is meant.
    #[must_use]
    pub fn shown(&self, member: &Member) -> String {
        match self.has_several_databases() {
            false => member.cell.to_string(),
            true => format!("{} of database {}", member.cell, member.database),
        }
    }

    /// What somebody types to confirm a change of the whole cluster: its only database's name, or its own.
    #[must_use]
    pub fn confirmation(&self) -> &str {
        match self.has_several_databases() {
            false => self.first_database.name.as_str(),
            true => self.cluster.as_str(),
        }
    }

    /// What stands before a message about a database, where there are several.
    pub(crate) fn prefix(&self, database: &DatabaseName) -> String {
        if self.has_several_databases() { format!("database {database}: ") } else { String::new() }
    }
}

impl Cluster {
    /// A member's directories on this machine, if it is here.
    #[must_use]
    pub fn layout_of(&self, member: &Member) -> CellLayout {
        self.layout.member(self.state.qualifier(&member.database), &member.cell)
    }

    /// Where this machine has the keys of a member.
    pub(crate) fn keys_of(&self, member: &Member) -> CellLayout {
        match self.is_local() {
            true => self.layout_of(member),
            false => self.for_host(&member.cell).member(self.state.qualifier(&member.database), &member.cell),
        }
    }

    /// The members whose processes are on this machine.
    #[must_use]
    pub fn members_here(&self) -> Vec<Member> {
        self.cells_here().flat_map(|cell| self.state.members_in(&cell.name)).collect()
    }

    /// The members that have a directory here: those that are to be here, and those that were removed and kept.
    pub(crate) fn members_on_disk(&self) -> Vec<Member> {
        let named = |name: &str| {
            let (database, cell) = match name.split_once('.') {
                None => (self.state.first_database.name.clone(), name.parse().ok()?),
                Some((database, cell)) => (database.parse().ok()?, cell.parse().ok()?),
            };
            Some(Member { cell, database })
        };
        let entries = fs::read_dir(self.layout.root()).into_iter().flatten().flatten();
        let known = self.state.members();
        let mut members: Vec<Member> = entries
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| named(entry.file_name().to_str()?))
            .filter(|member| known.contains(member) || self.layout_of(member).tls().join(SERVER_KEY).exists())
            .collect();
        members.sort();
        members
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A further database in these cells.
    pub(crate) fn further(name: &str, cells: &[&str]) -> ClusterDatabase {
        ClusterDatabase {
            name: name.parse().unwrap(),
            stanza: name.parse().unwrap(),
            bootstrap_cell: cells[0].parse().unwrap(),
            cells: cells.iter().map(|cell| cell.parse().unwrap()).collect(),
            port_offset: 256,
            retention_full: None,
            first_backup: None,
        }
    }

    fn shown(cluster: &Cluster, members: &[Member]) -> Vec<String> {
        members.iter().map(|member| cluster.state.shown(member)).collect()
    }

    #[test]
    fn members_are_where_their_databases_are_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        assert_eq!(shown(&cluster, &cluster.state.members()), ["zone1", "zone2"]);
        cluster.state.further_databases.push(further("sales", &["zone2", "zone3"]));
        let expected = ["zone1 of database app", "zone2 of database app", "zone2 of database sales"];
        assert_eq!(shown(&cluster, &cluster.state.members()), expected);
        let sales = &cluster.state.members()[2];
        assert_eq!(cluster.layout_of(sales).root(), dir.path().join("sales.zone2"));
        assert_eq!(cluster.layout_of(&cluster.state.members()[1]).root(), dir.path().join("zone2"));
        // Zone3 is named, and is not there yet.
        cluster.state.add_cell("zone3".parse().unwrap(), 2);
        assert_eq!(cluster.state.members_in(&"zone3".parse().unwrap()).len(), 2);
    }

    #[test]
    fn members_on_disk_are_those_of_all_databases_also_of_removed_ones() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        cluster.state.further_databases.push(further("sales", &["zone2"]));
        for name in ["zone1", "sales.zone2", "sales.zone1", "etcd", "log", "old.zone1/tls", "zone7/tls"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["old.zone1", "zone7"] {
            fs::write(dir.path().join(name).join("tls/server.key"), "").unwrap();
        }
        let found = shown(&cluster, &cluster.members_on_disk());
        let expected = [
            "zone1 of database app",
            "zone1 of database old",
            "zone2 of database sales",
            "zone7 of database app",
        ];
        assert_eq!(found, expected);
        let old = &cluster.members_on_disk()[1];
        assert_eq!(cluster.layout_of(old).root(), dir.path().join("old.zone1"));
    }
}
