//! Adding a cell: its record, and a pooler in it for every database that is to have one there.

use std::net::IpAddr;
use std::path::{Component, Path};

use cellar_model::{
    Cell, CellLayout, CellName, Code, Durability, HostName, HostNameError, Key, PORT_SPAN, Pooler, Refusal,
    next_index, path_fault,
};
use cellar_topology::{Store, View};

use crate::admin::Admin;
use crate::cluster::cells::order::{MAX_DATABASES_PER_STEP, OrderingRecord};
use crate::cluster::durability::check_member_name;
use crate::deadline::Deadline;
use crate::refusal::{self, invalid};
use crate::tries::Tries;

/// A requested cell, parsed.
#[derive(Debug, Clone)]
pub(crate) struct NewCell {
    name: CellName,
    host: HostName,
    directory: String,
    listen: String,
}

impl NewCell {
    pub(crate) fn parse(name: CellName, host: &str, directory: &str, listen: &str) -> Result<Self, Refusal> {
        Ok(Self {
            name,
            host: host.parse().map_err(|error: HostNameError| invalid("host", error.to_string()))?,
            directory: check_directory(directory)?,
            listen: check_listen(listen)?,
        })
    }
}

fn check_directory(directory: &str) -> Result<String, Refusal> {
    let bad = |why: &str| {
        Err(invalid("directory", format!("the directory {directory:.120?} is not usable: {why}")))
    };
    if !directory.starts_with('/') {
        return bad("it must be absolute");
    }
    let path = Path::new(directory);
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return bad("it must not contain '..'");
    }
    if path.components().count() < 2 {
        return bad("the root directory cannot be a cell's");
    }
    // Normalized: no doubled or trailing slashes.
    let directory = path.components().collect::<std::path::PathBuf>().to_string_lossy().into_owned();
    path_fault(&directory).map_or(Ok(directory), bad)
}

fn check_listen(listen: &str) -> Result<String, Refusal> {
    if listen.is_empty() {
        return Ok("0.0.0.0".to_owned());
    }
    match listen.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(invalid("listen", format!("{listen:.80?} is not an IP address to listen on"))),
    }
}

/// The next step of the addition.
enum Step {
    /// The cell and its poolers are recorded.
    Done(Cell),
    /// These records are to be written.
    Write { cell: Cell, is_new: bool, poolers: Vec<Pooler>, ordering: Box<OrderingRecord> },
}

impl Admin {
    /// Adds the cell. Repeating the request is safe, and completes an addition that was interrupted.
    pub(crate) async fn add_cell(&self, new: &NewCell, deadline: Deadline) -> Result<Cell, Refusal> {
        let mut tries = Tries::of("the cells", deadline);
        loop {
            let _ = tries.begin()?;
            self.fresh(deadline).await?;
            let step = plan(&self.view(), &self.store, new)?;
            let (cell, is_new, poolers, ordering) = match step {
                Step::Done(cell) => return Ok(cell),
                Step::Write { cell, is_new, poolers, ordering } => (cell, is_new, poolers, ordering),
            };
            let cell_key = Key::Cell(cell.name.clone());
            let mut transaction = self
                .store
                .transaction()
                .expect(&ordering.key(), ordering.revision)
                .put(&ordering.key(), &ordering.database);
            if is_new {
                transaction = transaction.expect_absent(&cell_key).put(&cell_key, &cell);
            }
            for pooler in &poolers {
                let key = Key::Pooler(pooler.database.clone(), pooler.cell.clone());
                transaction = transaction.expect_absent(&key).put(&key, pooler);
            }
            let decided_on = Some((&ordering.key(), ordering.revision));
            if self.commit(&mut tries, transaction, decided_on).await? && is_new {
                tracing::info!(cell = %cell.name, index = cell.index, host = %cell.host, "added a cell");
            }
        }
    }
}

fn plan(view: &View, store: &Store, new: &NewCell) -> Result<Step, Refusal> {
    // Refused without a database: the cell would have no pooler, and no record would order changes of the cells.
    let Some(ordering) = OrderingRecord::of(view) else {
        return Err(Refusal::new(Code::UnknownDatabase, "the cluster has no database yet")
            .hint("create one with `cellar up`")
            .about("cell", &new.name));
    };
    // The index of a cell that cannot be read could be assigned twice.
    let cells = store.keys().kind("cells");
    if let Some((key, reason)) = view.unreadable.iter().find(|(key, _)| key.starts_with(&cells)) {
        return Err(refusal::unreadable(key, reason));
    }
    let (cell, is_new) = match view.cells.get(&new.name) {
        Some(cell) if cell.host == new.host && cell.directory == new.directory => (cell.clone(), false),
        Some(cell) => {
            return Err(Refusal::new(
                Code::AlreadyExists,
                format!("there is a cell {} already, at {}:{}", cell.name, cell.host, cell.directory),
            )
            .hint("choose another name")
            .about("cell", &cell.name));
        }
        None => (next_cell(view, new)?, true),
    };
    let mut poolers = Vec::new();
    for database in view.databases.values().filter(|database| database.is_wanted_in(&cell.name)) {
        if database.durability == Durability::Quorum {
            check_member_name(&cell.name)?;
        }
        let id = (database.name.clone(), cell.name.clone());
        if let Some(pooler) = view.poolers.get(&id).filter(|pooler| pooler.listen != new.listen) {
            let message = format!("cell {} is there already and listens on {}", cell.name, pooler.listen);
            return Err(Refusal::new(Code::AlreadyExists, message)
                .hint("remove the cell first to change its address (`cellar cells remove`)")
                .about("cell", &cell.name));
        }
        let known = view.revision(&Key::Pooler(id.0.clone(), id.1.clone())) != 0;
        if !known && poolers.len() < MAX_DATABASES_PER_STEP {
            let pooler = CellLayout::of_member(database, &cell).pooler(database, &cell, &new.listen);
            poolers.push(
                pooler.map_err(|error| invalid("directory", error.to_string()).about("cell", &cell.name))?,
            );
        }
    }
    if !is_new && poolers.is_empty() {
        return Ok(Step::Done(cell));
    }
    Ok(Step::Write { cell, is_new, poolers, ordering: Box::new(ordering) })
}

fn next_cell(view: &View, new: &NewCell) -> Result<Cell, Refusal> {
    let (host, directory) = (&new.host, &new.directory);
    let shares = |cell: &&Cell| {
        let (ours, theirs) = (Path::new(directory), Path::new(&cell.directory));
        cell.host == *host && (ours.starts_with(theirs) || theirs.starts_with(ours))
    };
    if let Some(other) = view.cells.values().find(shares) {
        return Err(invalid(
            "directory",
            format!("{directory} on {host} overlaps with {} of cell {}", other.directory, other.name),
        )
        .hint("each cell needs a directory of its own"));
    }
    let index = next_index(view.cells.values());
    if index >= u32::from(PORT_SPAN) {
        return Err(invalid(
            "name",
            format!("a cluster has at most {PORT_SPAN} cell indexes, and all are used"),
        )
        .hint("an index becomes free again when the cell with the highest one is removed"));
    }
    Ok(Cell { name: new.name.clone(), index, host: host.clone(), directory: directory.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone4() -> CellName {
        "zone4".parse().unwrap()
    }

    fn field(host: &str, directory: &str, listen: &str) -> String {
        let refusal = NewCell::parse(zone4(), host, directory, listen).unwrap_err();
        assert_eq!(refusal.code, Code::InvalidArgument);
        refusal.about["field"].clone()
    }

    #[test]
    fn a_refusal_names_the_bad_field() {
        for host in ["", "10.0.0.1", "::1", "a b", "-a", "a..b", "a;b", "1.2.3", "a\n", "a_b"] {
            assert_eq!(field(host, "/d", ""), "host", "{host:?}");
        }
        for directory in ["", "d", "/", "//", "/a/../b", "/a\n", "/a;b", "/a[1]", "/a ", "/#"] {
            assert_eq!(field("h", directory, ""), "directory", "{directory:?}");
        }
        for listen in ["x", "0.0.0.0:1", "*", " "] {
            assert_eq!(field("h", "/d", listen), "listen", "{listen:?}");
        }
    }

    #[test]
    fn host_and_directory_are_normalized() {
        let new = NewCell::parse(zone4(), "Zone4.Example.ORG", "//a//b/", "").unwrap();
        assert_eq!((new.host.as_str(), new.directory.as_str()), ("zone4.example.org", "/a/b"));
        assert_eq!(new.listen, "0.0.0.0");
    }

    proptest! {
        #[test]
        fn no_accepted_text_breaks_a_config(host in ".{0,20}", directory in "/.{0,40}", listen in ".{0,20}") {
            if let Ok(new) = NewCell::parse(zone4(), &host, &directory, &listen) {
                for text in [new.host.to_string(), new.directory, new.listen] {
                    prop_assert!(!text.contains(['\n', '\r', ';', '#', '[', ']']));
                }
            }
        }
    }
}
