//! Which logs there are, and where.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cellar_model::{CellName, ClusterLayout, DatabaseName};
use cellar_provisioner::ProvisionError;
use cellar_system::logs_in;
use clap::ValueEnum;

use crate::failure::{Failure, Outcome};

/// A kind of log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum LogKind {
    /// The agent of a cell
    Multipooler,
    /// PostgreSQL of a cell
    Postgres,
    /// The pgBackRest server of a cell
    PgbackrestServer,
    /// The PgBouncer of a cell
    Pgbouncer,
    /// What pgBackRest's commands wrote in a cell, a log for each
    Pgbackrest,
    /// The cluster's API
    Multiadmin,
    /// The cluster's store of records
    Etcd,
    /// Every call that changed something
    Audit,
}

impl LogKind {
    const OF_CELL: [Self; 5] =
        [Self::Multipooler, Self::Postgres, Self::PgbackrestServer, Self::Pgbouncer, Self::Pgbackrest];
    const OF_CLUSTER: [Self; 2] = [Self::Multiadmin, Self::Etcd];

    fn is_of_cell(self) -> bool {
        Self::OF_CELL.contains(&self)
    }

    /// Its name on the command line, which is that of its file.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Whose logs are shown.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    pub(crate) cell: Option<CellName>,
    /// The database of a cell's multipooler, unless it is the cluster's first.
    further: Option<DatabaseName>,
    /// The directory of the logs.
    directory: PathBuf,
}

/// A log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// What its lines are marked with.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: LogKind,
    /// The unit of systemd whose output it is where there is no file.
    pub(crate) unit: Option<String>,
}

/// Why a log is not shown.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) message: String,
    pub(crate) hint: String,
    is_denied: bool,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::NoLog { message: problem.message, hint: problem.hint, is_denied: problem.is_denied }
    }
}

/// The cells of a cluster's directory: what has logs or a certificate of its own below it.
fn cells_in(root: &Path) -> Vec<String> {
    let is_cell = |path: &Path| path.join("log").is_dir() && path.join("tls").is_dir();
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let mut cells: Vec<String> = entries
        .filter(|entry| is_cell(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    cells.sort();
    cells
}

impl Place {
    /// A cell, or what does not belong to one. `further` is the database of which the cell's logs are, unless it is the
    /// cluster's first.
    pub(crate) fn new(root: PathBuf, cell: Option<CellName>, further: Option<DatabaseName>) -> Outcome<Self> {
        let layout = ClusterLayout::new(&root);
        let directory = match &cell {
            Some(cell) => layout.member(further.as_ref(), cell).log(),
            None => layout.log(),
        };
        // What this user may not look at is there.
        let is_there = |path: &Path| path.try_exists().unwrap_or(true);
        if !is_there(&root) || (!is_there(&layout.log()) && !is_there(&layout.state())) {
            return Err(ProvisionError::NoCluster { dir: root }.into());
        }
        if let Some(name) = &cell
            && !is_there(layout.member(further.as_ref(), name).root())
        {
            let cells = cells_in(&root);
            let hint = match cells.as_slice() {
                [] => "no cell has a directory here: its logs are on the machine where it runs".to_owned(),
                cells => format!(
                    "those here are {}; a cell that runs on another machine has its logs there",
                    cells.join(", ")
                ),
            };
            let of_database = further.map_or_else(String::new, |database| format!(" of database {database}"));
            let message = format!("there is no cell {name}{of_database} in {}", root.display());
            return Err(Failure::usage(message, hint));
        }
        Ok(Self { root, cell, further, directory })
    }

    /// The name by which systemd knows the cluster.
    fn instance(&self) -> Option<&str> {
        self.root.file_name().and_then(|name| name.to_str())
    }

    fn source(&self, kind: LogKind) -> Source {
        let name = kind.name();
        let unit = match kind {
            LogKind::Multipooler | LogKind::Multiadmin | LogKind::Etcd => {
                let further = self.further.as_ref().filter(|_| kind == LogKind::Multipooler);
                let further = further.map_or_else(String::new, |database| format!(":{database}"));
                self.instance().map(|instance| format!("cellar-{name}@{instance}{further}"))
            }
            _ => None,
        };
        Source { path: self.directory.join(format!("{name}.log")), name, kind, unit }
    }
}

/// The logs to show, those that are not there among them. An error for a log that this place cannot have.
pub(crate) fn sources(place: &Place, kinds: &[LogKind]) -> Outcome<Vec<Source>> {
    let defaults: &[LogKind] = if place.cell.is_some() { &LogKind::OF_CELL } else { &LogKind::OF_CLUSTER };
    let mut wanted = if kinds.is_empty() { defaults.to_vec() } else { kinds.to_vec() };
    wanted.sort_unstable();
    wanted.dedup();
    if let Some(foreign) = wanted.iter().find(|kind| kind.is_of_cell() != place.cell.is_some()) {
        let name = foreign.name();
        return Err(if foreign.is_of_cell() {
            Failure::usage(
                format!("{name} has a log in each cell"),
                format!("name the cell: `cellar logs CELL --of {name}`"),
            )
        } else {
            Failure::usage(
                format!("{name} belongs to no cell"),
                format!("leave the cell out: `cellar logs --of {name}`"),
            )
        });
    }
    let mut all = Vec::new();
    for kind in wanted {
        // Only who asks for it needs to know that a cell has no PgBouncer.
        let is_left_out = kinds.is_empty() && kind == LogKind::Pgbouncer && !place.source(kind).path.exists();
        if is_left_out {
            continue;
        }
        if kind == LogKind::Pgbackrest {
            all.extend(of_pgbackrest(place));
        } else {
            all.push(place.source(kind));
        }
    }
    if all.is_empty() {
        // A cell in which no command of pgBackRest has written one yet, or whose directory this user may not read.
        all.push(place.source(LogKind::Pgbackrest));
    }
    Ok(all)
}

/// pgBackRest names its logs `<stanza>-<command>.log`.
pub(crate) fn of_pgbackrest(place: &Place) -> Vec<Source> {
    // pgBackRest's server writes what it prints to a file of its own once more.
    let own = LogKind::OF_CELL.map(|kind| format!("{}.log", kind.name())).into_iter();
    let own: Vec<String> = own.chain(["all-server.log".to_owned()]).collect();
    let logs = logs_in(&place.directory).into_iter();
    let logs = logs.filter(|path| !own.iter().any(|name| path.ends_with(name)));
    logs.map(|path| Source {
        name: path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        path,
        kind: LogKind::Pgbackrest,
        unit: None,
    })
    .collect()
}

/// The name of the user who owns the nearest directory above a path that can be looked at.
fn owner_above(path: &Path) -> Option<String> {
    let found = path.ancestors().skip(1).find_map(|directory| std::fs::metadata(directory).ok())?;
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(found.uid())).ok()??;
    Some(user.name)
}

impl Source {
    /// Why it cannot be shown, and what to do.
    pub(crate) fn problem(&self, error: &std::io::Error) -> Problem {
        let (what, path) = (&self.name, self.path.display());
        let is_denied = error.kind() == ErrorKind::PermissionDenied;
        if error.kind() == ErrorKind::NotFound {
            let hint = match (self.kind, &self.unit) {
                (LogKind::Pgbackrest, _) => {
                    "no command of pgBackRest has written one here; what it wrote for a job shows `cellar jobs logs ID`"
                        .to_owned()
                }
                (_, Some(unit)) => format!(
                    "it has not run from this directory; `cellar up` starts it, and as a unit of systemd its lines are in `journalctl -u {unit}`"
                ),
                _ => "what writes it has not run here yet; `cellar status` shows what runs".to_owned(),
            };
            return Problem { message: format!("there is no log of {what} at {path}"), hint, is_denied };
        }
        let hint = if is_denied {
            match owner_above(&self.path) {
                Some(owner) => format!("run this as root or as the user {owner}"),
                None => "run this as root".to_owned(),
            }
        } else {
            "look at what is there with `ls -l`".to_owned()
        };
        Problem { message: format!("cannot read the log of {what} at {path}: {error}"), hint, is_denied }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(place: &Place, kinds: &[LogKind]) -> Vec<String> {
        sources(place, kinds).unwrap().into_iter().map(|source| source.name).collect()
    }

    #[test]
    fn each_place_has_its_logs() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("demo");
        for directory in ["log", "zone1/log", "zone1/tls"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        for log in
            ["app-backup.log", "postgres.log", "app-expire.log", "app-backup.log.old", "all-server.log"]
        {
            std::fs::write(root.join("zone1/log").join(log), "").unwrap();
        }
        let place =
            |cell: Option<&str>| Place::new(root.clone(), cell.map(|cell| cell.parse().unwrap()), None);
        let (cell, shared) = (place(Some("zone1")).unwrap(), place(None).unwrap());
        let all = ["multipooler", "postgres", "pgbackrest-server", "app-backup", "app-expire"];
        assert_eq!(names(&cell, &[]), all);
        std::fs::write(root.join("zone1/log/pgbouncer.log"), "").unwrap();
        assert_eq!(names(&cell, &[])[3..], ["pgbouncer", "app-backup", "app-expire"]);
        assert_eq!(names(&shared, &[]), ["multiadmin", "etcd"]);
        assert_eq!(names(&shared, &[LogKind::Audit, LogKind::Etcd, LogKind::Audit]), ["etcd", "audit"]);
        assert_eq!(names(&cell, &[LogKind::Pgbackrest]), ["app-backup", "app-expire"]);
        let unit = sources(&cell, &[LogKind::Multipooler]).unwrap().remove(0).unit;
        assert_eq!(unit.as_deref(), Some("cellar-multipooler@demo"));
        for (place, kind) in [(&cell, LogKind::Etcd), (&shared, LogKind::Postgres)] {
            let refused = sources(place, &[kind]).unwrap_err();
            assert!(refused.exit_code() == 2 && refused.hint().is_some(), "{refused}");
        }
        let unknown = place(Some("zone9")).unwrap_err();
        assert!(unknown.exit_code() == 2 && unknown.hint().unwrap().contains("zone1"), "{unknown}");
        let nowhere = Place::new(dir.path().join("none"), None, None).unwrap_err();
        assert_eq!(nowhere.exit_code(), 4);
    }

    #[test]
    fn missing_and_unreadable_logs_are_said_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        let place = Place::new(dir.path().to_owned(), None, None).unwrap();
        let source = place.source(LogKind::Multiadmin);
        let missing = source.problem(&ErrorKind::NotFound.into());
        assert!(missing.message.contains("multiadmin.log") && missing.hint.contains("journalctl"));
        assert_eq!(Failure::from(missing).exit_code(), 1);
        let denied = source.problem(&ErrorKind::PermissionDenied.into());
        let me = nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name;
        assert!(denied.hint.contains(&me), "{}", denied.hint);
        assert_eq!(Failure::from(denied).exit_code(), 5);
    }
}
