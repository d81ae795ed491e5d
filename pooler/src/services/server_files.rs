//! Which files pgBackRest's server and its sessions may use.
//!
//! pgBackRest (2.45) asks a client for a certificate and a stanza. What the session then does, and with which files, the
//! client decides by its own options, and the session may do with them whatever this OS user may. So the kernel is told
//! what the server is for:
//!
//! - Backups that run on another host read this cell's instance: its data directory, and what in it leads elsewhere. For
//!   its config and its keys the server needs the rest of the cell's directory: these are replaced by others of the same
//!   name, and the kernel's rules are for files, not for names.
//! - Where this host alone has the repository, the other cells read and write it through this server. Then backups run here,
//!   and the instance is not read through it.
//! - Sessions hold pgBackRest's locks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellLayout, CellName, Repository};
use cellar_system::{FileAccess, PresentFiles};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::data_layout::places_elsewhere;

/// What a server says that the kernel does not keep to its files.
pub(crate) const UNCONFINED: &str = "this kernel has no Landlock, so whoever has the key of any cell of the cluster can read and write through this cell's pgBackRest server what its OS user can; run a kernel with Landlock (5.13 or later, and `landlock` among those that the boot option `lsm=` names)";

/// Where programs and their libraries are. Those of Nix and Guix lie apart.
const PROGRAMS: [&str; 8] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"];

/// What every program reads: libraries, names of users and hosts, the settings of OpenSSL.
const SYSTEM_FILES: [&str; 15] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/passwd",
    "/etc/group",
    "/etc/nsswitch.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/resolv.conf",
    "/etc/gai.conf",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
    "/etc/pki/tls/openssl.cnf",
    "/etc/crypto-policies",
    "/dev/random",
    "/dev/urandom",
];

/// How often to look again whether the server has the files that are there now.
const CURRENT_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long whoever is about to use it waits for that.
const CURRENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The files that the server of this cell may use.
pub(crate) fn access(layout: &CellLayout, repository: &Repository, cell: &CellName) -> FileAccess {
    with_those_of_the_system(own(layout, repository, cell))
}

fn with_those_of_the_system(mut access: FileAccess) -> FileAccess {
    access.programs.extend(PROGRAMS.map(PathBuf::from));
    access.readable.extend(SYSTEM_FILES.map(PathBuf::from));
    access.writable.push(PathBuf::from("/dev/null"));
    access
}

/// Those among them that are the cluster's. Of the system's some are replaced now and then, which sessions that work need
/// not end for.
pub(crate) fn own(layout: &CellLayout, repository: &Repository, cell: &CellName) -> FileAccess {
    let mut access = FileAccess {
        readable: vec![layout.root().to_owned()],
        writable: vec![layout.lock()],
        ..FileAccess::default()
    };
    if repository.home() == Some(cell) {
        access.writable.extend(repository.directory_in(cell).map(Path::to_owned));
    } else {
        access.readable.extend(places_elsewhere(layout.root(), &layout.data()));
    }
    access
}

/// Whether a server that was given these files would be given others now.
pub(crate) fn differ(agent: &Agent, files: &PresentFiles) -> bool {
    present(agent).is_some_and(|(_, all)| all != *files)
}

/// What the server would be given now: the cluster's files, and these with the system's. None while this cell has no record.
pub(crate) fn present(agent: &Agent) -> Option<(PresentFiles, PresentFiles)> {
    let (_, database) = agent.assignment().ok()?;
    let own = own(&agent.layout, &database.repository, &agent.cell);
    Some((own.present(), with_those_of_the_system(own).present()))
}

/// Waits until the server has the files that are there now, since a tablespace may have been made a moment ago. Not for
/// long, and not for a server that does not run: whoever needs it learns that from pgBackRest.
pub(crate) async fn until_current(agent: &Agent) {
    let deadline = Instant::now() + CURRENT_TIMEOUT;
    let is_outdated = || agent.server_files.borrow().as_ref().is_some_and(|files| differ(agent, files));
    while is_outdated() && Instant::now() < deadline {
        tokio::time::sleep(CURRENT_POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A cell with a tablespace and a WAL directory elsewhere.
    fn cell() -> (tempfile::TempDir, CellLayout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = CellLayout::new(dir.path().canonicalize().unwrap().join("zone1"));
        for place in ["wal", "space", "later", "repo", "zone1/lock", "zone1/tls", "zone1/pg_data/pg_tblspc"] {
            std::fs::create_dir_all(layout.root().parent().unwrap().join(place)).unwrap();
        }
        symlink(layout.root().parent().unwrap().join("wal"), layout.data().join("pg_wal")).unwrap();
        symlink(layout.root().parent().unwrap().join("space"), layout.data().join("pg_tblspc/16389"))
            .unwrap();
        (dir, layout)
    }

    /// Whether it may read, and whether it may write, what is at a path.
    fn rights(access: &FileAccess, path: &Path) -> (bool, bool) {
        let within = |places: &[PathBuf]| places.iter().any(|place| path.starts_with(place));
        let writes = within(&access.writable);
        (writes || within(&access.readable) || within(&access.programs), writes)
    }

    #[test]
    fn server_of_an_instance_reads_its_cell_and_no_repository() {
        let (_dir, layout) = cell();
        let cluster = layout.root().parent().unwrap();
        let repositories = [
            cluster.join("repo").display().to_string().parse().unwrap(),
            Repository::in_cell(
                "zone3".parse().unwrap(),
                cluster.join("repo").display().to_string().parse().unwrap(),
            ),
        ];
        for repository in repositories {
            let access = access(&layout, &repository, &"zone1".parse().unwrap());
            let of = |path: &str| rights(&access, &cluster.join(path));
            for path in [
                "zone1/pg_data/base/1/2",
                "zone1/tls/server.key",
                "zone1/pgbackrest.conf",
                "wal/0",
                "space/PG_15/1",
            ] {
                assert_eq!(of(path), (true, false), "{path}");
            }
            assert_eq!(of("zone1/lock/app.lock"), (true, true));
            for path in
                ["zone2/tls/server.key", "multiadmin/multiadmin.key", "etcd", "ca", "repo/backup", "later/x"]
            {
                assert_eq!(of(path), (false, false), "{path}");
            }
            for path in
                ["/etc/ssl/private/key", "/etc/shadow", "/root/x", "/home/x", "/proc/1/environ", "/tmp/x"]
            {
                assert_eq!(rights(&access, Path::new(path)), (false, false), "{path}");
            }
        }
    }

    #[test]
    fn server_of_a_repository_writes_it_and_reads_no_tablespace() {
        let (_dir, layout) = cell();
        let cluster = layout.root().parent().unwrap();
        let zone1: CellName = "zone1".parse().unwrap();
        let repository =
            Repository::in_cell(zone1.clone(), cluster.join("repo").display().to_string().parse().unwrap());
        let access = access(&layout, &repository, &zone1);
        let of = |path: &str| rights(&access, &cluster.join(path));
        assert_eq!(of("repo/archive/app"), (true, true));
        assert_eq!(of("zone1/pgbackrest.conf"), (true, false));
        for path in ["space/PG_15/1", "wal/0", "zone2/pgbackrest.conf", "etcd"] {
            assert_eq!(of(path), (false, false), "{path}");
        }
    }

    #[test]
    fn new_tablespace_is_noticed_and_a_replaced_config_needs_no_new_rules() {
        let (_dir, layout) = cell();
        let (cluster, zone1) = (layout.root().parent().unwrap(), "zone1".parse().unwrap());
        let repository = "/repo".parse().unwrap();
        let present = || access(&layout, &repository, &zone1).present();
        let before = present();
        for text in ["one", "two"] {
            std::fs::write(layout.root().join("new"), text).unwrap();
            std::fs::rename(layout.root().join("new"), layout.config()).unwrap();
            assert_eq!(present(), before);
        }
        symlink(cluster.join("later"), layout.data().join("pg_tblspc/16390")).unwrap();
        assert_ne!(present(), before);
        std::fs::remove_file(layout.data().join("pg_tblspc/16390")).unwrap();
        assert_eq!(present(), before);
    }
}
