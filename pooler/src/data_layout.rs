//! How the files of a data directory lie on the host's file systems, and what that makes impossible.
//!
//! A restore keeps the old data by renaming the data directory, and makes the new data beside it. That needs a plain
//! directory whose files are all in it.

use std::fs::DirEntry;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cellar_api::v1::RestoreObstacle;
use cellar_model::{Code, Refusal};
use cellar_system::mount_points;

/// The directory of the WAL in a data directory. It may be a link to another disk (`initdb --waldir`).
const WAL: &str = "pg_wal";

/// A property of a data directory that a restore cannot work with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Obstacle {
    /// What it is, as a sentence without an end.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) remedy: String,
    /// Whether a restore over the old data cannot work with it either, which renames nothing.
    pub(crate) in_place_too: bool,
}

impl Obstacle {
    /// What an operator should know of it before a restore is needed.
    pub(crate) fn note(&self) -> String {
        format!("a restore will be refused: {}; {}", self.what, self.remedy)
    }

    /// The refusal of a job that cannot work with it.
    pub(crate) fn refusal(&self) -> Refusal {
        Refusal::new(Code::Unsupported, self.what.clone()).hint(self.remedy.clone())
    }
}

impl From<Obstacle> for RestoreObstacle {
    fn from(Obstacle { what, remedy, in_place_too }: Obstacle) -> Self {
        Self { what, remedy, in_place_too }
    }
}

impl From<RestoreObstacle> for Obstacle {
    fn from(RestoreObstacle { what, remedy, in_place_too }: RestoreObstacle) -> Self {
        Self { what, remedy, in_place_too }
    }
}

/// What keeps a restore of the database in this cell from working; empty when there is no data directory, or nothing is.
pub(crate) fn obstacles(data: &Path) -> Vec<Obstacle> {
    let mut found = layout_obstacles(data);
    for (_, place) in tablespaces(data) {
        found.push(Obstacle {
            what: format!("the database has a tablespace in {}, which the old and the restored data would share", place.display()),
            remedy: "drop the tablespace and take a backup, or restore by hand with `pgbackrest restore --tablespace-map`; a drill (`cellar drill`) of a backup that has the tablespace works".to_owned(),
            in_place_too: true,
        });
    }
    found
}

/// What keeps this data directory from being moved or replaced alone.
pub(crate) fn layout_obstacles(data: &Path) -> Vec<Obstacle> {
    let mounts = match mount_points() {
        Ok(mounts) => mounts,
        Err(error) => {
            tracing::warn!(%error, "the mount points cannot be read");
            Vec::new()
        }
    };
    layout_among(data, &mounts)
}

fn layout_among(data: &Path, mounts: &[PathBuf]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let shown = data.display();
    if let Ok(place) = std::fs::read_link(data) {
        found.push(Obstacle {
            what: format!(
                "{shown} is a symbolic link to {}, so the data cannot be kept beside it",
                place.display()
            ),
            remedy:
                "restore with `--in-place`, or make the cell's directory a link rather than pg_data in it"
                    .to_owned(),
            in_place_too: false,
        });
    }
    let Ok(real) = data.canonicalize() else { return found };
    for mount in mounts {
        if *mount == real {
            found.push(Obstacle {
                what: format!("{shown} is a mount point, which cannot be renamed to keep the old data"),
                remedy: "restore with `--in-place`, or mount the file system at the cell's directory rather than at pg_data in it".to_owned(),
                in_place_too: false,
            });
        } else if let Ok(below) = mount.strip_prefix(&real) {
            found.push(Obstacle {
                what: format!("a file system is mounted at {} in the data directory", below.display()),
                remedy: format!("stop the cell, move what is in {} into the data directory's own file system, and unmount it", mount.display()),
                in_place_too: true,
            });
        }
    }
    for (name, place) in links(&real) {
        found.push(Obstacle {
            what: format!("{name} in {shown} is a symbolic link to {}, and the restored data would not be there", place.display()),
            remedy: format!("restore with `--in-place` if it is pg_wal, which then stays there; or stop the cell, and replace the link {name} by the directory that it leads to"),
            in_place_too: name != WAL,
        });
    }
    found
}

/// The symbolic links in a directory. Nothing but the directory is read: file systems tell the type of an entry with its name.
fn links_in(directory: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
}

/// The directories of the data directory that lie elsewhere, tablespaces apart: name and place.
fn links(data: &Path) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = links_in(data)
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| {
            Some((entry.file_name().to_string_lossy().into_owned(), std::fs::read_link(entry.path()).ok()?))
        })
        .collect();
    found.sort();
    found
}

/// Where the WAL of a data directory is, when `pg_wal` is a link.
pub(crate) fn wal_directory(data: &Path) -> Option<PathBuf> {
    std::fs::read_link(data.join(WAL)).ok()
}

/// Makes the link `pg_wal` this user's, if it is a link. pgBackRest changes the owner of the links that it restores, and
/// only root may do so with a link that root has made.
pub(crate) fn own_wal_link(data: &Path) -> std::io::Result<()> {
    let link = data.join(WAL);
    let Ok(place) = std::fs::read_link(&link) else { return Ok(()) };
    if std::fs::symlink_metadata(&link)?.uid() == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    let new = data.join("pg_wal.cellar-link");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(place, &new)?,
    }
    cellar_system::rename(&new, &link)
}

/// The tablespaces of a data directory that lie outside it: the link, and where it leads.
pub(crate) fn tablespaces(data: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found: Vec<(PathBuf, PathBuf)> = links_in(&data.join("pg_tblspc"))
        .filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?)))
        .collect();
    found.sort();
    found
}

/// Where the files of a data directory are that are not in the directory of its cell, as far as they are there: the data
/// itself, what links in it lead to, and its tablespaces.
pub(crate) fn places_elsewhere(cell: &Path, data: &Path) -> Vec<PathBuf> {
    let itself = Some(data.to_owned()).filter(|data| data.is_symlink());
    let inside = links_in(data).chain(links_in(&data.join("pg_tblspc"))).map(|entry| entry.path());
    let links = itself.into_iter().chain(inside);
    let mut found: Vec<PathBuf> = links.filter_map(|link| link.canonicalize().ok()).collect();
    let cell = cell.canonicalize().unwrap_or_else(|_| cell.to_owned());
    // What the cell itself is in has more than one's own in it.
    found.retain(|place| !place.starts_with(&cell) && !cell.starts_with(place));
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn found(data: &Path, mounts: &[PathBuf]) -> Vec<(String, bool)> {
        layout_among(data, mounts).into_iter().map(|one| (one.what, one.in_place_too)).collect()
    }

    #[test]
    fn data_directory_that_cannot_be_renamed_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let data = root.join("pg_data");
        std::fs::create_dir_all(data.join("pg_wal")).unwrap();
        std::fs::create_dir(data.join("pg_tblspc")).unwrap();
        assert_eq!(found(&data, &[root.clone(), root.join("pg_data.old")]), []);
        let [(what, false)] = &found(&data, std::slice::from_ref(&data))[..] else { panic!() };
        assert!(what.contains("mount point"), "{what}");
        let [(what, true)] = &found(&data, &[data.join("pg_wal")])[..] else { panic!() };
        assert!(what.contains("mounted at pg_wal"), "{what}");
        let link = root.join("link");
        symlink(&data, &link).unwrap();
        let [(what, false)] = &found(&link, &[])[..] else { panic!() };
        assert!(what.contains("symbolic link"), "{what}");
        assert_eq!(found(&root.join("missing"), &[]), []);
    }

    #[test]
    fn files_that_lie_outside_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("pg_data");
        std::fs::create_dir_all(data.join("pg_tblspc/1")).unwrap();
        std::fs::create_dir(dir.path().join("wal")).unwrap();
        std::fs::write(dir.path().join("x.conf"), "").unwrap();
        symlink(dir.path().join("wal"), data.join("pg_wal")).unwrap();
        symlink(dir.path().join("x.conf"), data.join("postgresql.conf")).unwrap();
        symlink("/srv/gone", data.join("pg_tblspc/16389")).unwrap();
        let found = obstacles(&data);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].what.contains("pg_wal") && !found[0].in_place_too, "{found:?}");
        assert!(found[1].what.contains("/srv/gone") && found[1].in_place_too, "{found:?}");
        assert_eq!(wal_directory(&data), Some(dir.path().join("wal")));
    }

    #[test]
    fn places_of_files_outside_the_cell_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (cell, data) = (root.join("zone1"), root.join("zone1/pg_data"));
        for place in ["zone1/pg_data/pg_tblspc", "zone1/inside", "wal", "space", "moved"] {
            std::fs::create_dir_all(root.join(place)).unwrap();
        }
        std::fs::write(root.join("x.conf"), "").unwrap();
        assert_eq!(places_elsewhere(&cell, &data), [""; 0].map(PathBuf::from));
        symlink(root.join("wal"), data.join("pg_wal")).unwrap();
        symlink("../../x.conf", data.join("postgresql.conf")).unwrap();
        symlink(root.join("space"), data.join("pg_tblspc/1")).unwrap();
        symlink(root.join("missing"), data.join("pg_tblspc/2")).unwrap();
        symlink(root.join("zone1/inside"), data.join("pg_tblspc/3")).unwrap();
        symlink(&root, data.join("pg_tblspc/4")).unwrap();
        let (space, wal, file) = (root.join("space"), root.join("wal"), root.join("x.conf"));
        assert_eq!(places_elsewhere(&cell, &data), [space.clone(), wal.clone(), file.clone()]);
        // Data that was moved to another disk.
        std::fs::rename(&data, root.join("moved/data")).unwrap();
        symlink(root.join("moved/data"), &data).unwrap();
        assert_eq!(places_elsewhere(&cell, &data)[0], root.join("moved/data"));
    }
}
