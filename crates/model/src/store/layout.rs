//! Directories and ports: where everything of a cluster is.

use std::path::{Path, PathBuf};

use crate::records::job::id::JobId;
use crate::records::pooler::Pooler;
use crate::records::topology::{Cell, Database};
use crate::store::layout_error::{LayoutError, SOCKET_PATH_LIMIT};
use crate::store::ports::Ports;
use crate::types::name::{CellName, DatabaseName};
use crate::types::path_rule::path_fault;

/// File name of the repository's passphrase in a directory of secrets.
const REPO_CIPHER_PASS: &str = "repo-cipher-pass";

/// File name of the credentials of the repository's store in a directory of secrets.
const REPO_CREDENTIALS: &str = "repo-credentials";

/// The directory of one local cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterLayout {
    root: PathBuf,
}

impl ClusterLayout {
    /// The layout below `root`, which must be absolute.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The cluster's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The certificate authority; the only place its key ever is.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// etcd's data and certificates.
    #[must_use]
    pub fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    /// The default repository.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.root.join("repo")
    }

    /// multiadmin's certificates.
    #[must_use]
    pub fn multiadmin(&self) -> PathBuf {
        self.root.join("multiadmin")
    }

    /// What a client needs: `ca.crt`, `client.crt`, `client.key`, `endpoint`.
    #[must_use]
    pub fn client(&self) -> PathBuf {
        self.root.join("client")
    }

    /// The config of the cluster's own HAProxy. No cell can have this name: it has a dot.
    #[must_use]
    pub fn haproxy_config(&self) -> PathBuf {
        self.root.join("haproxy.cfg")
    }

    /// Pid files of etcd and multiadmin.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.root.join("pid")
    }

    /// Logs of etcd and multiadmin.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// What the provisioner remembers of the cluster (name, offset, versions).
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// The provisioner's own copies of what each cell's pooler must know; 0700.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.state().join("secrets")
    }

    /// The provisioner's copy of the repository's passphrase, for cells that are added later; 0600.
    #[must_use]
    pub fn repo_cipher_pass(&self) -> PathBuf {
        self.secrets().join(REPO_CIPHER_PASS)
    }

    /// The provisioner's copy of the credentials of the repository's store, for cells that are added later; 0600.
    #[must_use]
    pub fn repo_credentials(&self) -> PathBuf {
        self.secrets().join(REPO_CREDENTIALS)
    }

    /// The directory of a database's member in a cell; `qualifier` is as in [`Database::qualifier`].
    #[must_use]
    pub fn member(&self, qualifier: Option<&DatabaseName>, cell: &CellName) -> CellLayout {
        match qualifier {
            None => self.cell(cell),
            Some(name) => CellLayout::new(self.root.join(format!("{name}.{cell}"))),
        }
    }

    /// One cell's directory.
    #[must_use]
    pub fn cell(&self, cell: &CellName) -> CellLayout {
        CellLayout::new(self.root.join(cell.as_str()))
    }
}

/// What the names of directories beside a data directory begin with; the rest is a job's id.
const RESTORED: &str = "pg_data.restored-";
const KEPT: &str = "pg_data.before-";

/// The directory of one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellLayout {
    root: PathBuf,
}

impl CellLayout {
    /// The layout below `root`, which must be absolute.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory of a database's member in a cell, on the cell's host: the cell's own, or one beside it for a database
    /// whose name is in it.
    #[must_use]
    pub fn of_member(database: &Database, cell: &Cell) -> Self {
        let directory = Path::new(&cell.directory);
        match database.qualifier() {
            None => Self::new(directory),
            Some(name) => Self::new(directory.with_file_name(format!("{name}.{}", cell.name))),
        }
    }

    /// The cell's directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// PostgreSQL's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.root.join("pg_data")
    }

    /// Where a restore makes the new data beside the old.
    #[must_use]
    pub fn restored(&self, job: JobId) -> PathBuf {
        self.root.join(format!("{RESTORED}{job}"))
    }

    /// Where the old data is kept after a restore.
    #[must_use]
    pub fn kept(&self, job: JobId) -> PathBuf {
        self.root.join(format!("{KEPT}{job}"))
    }

    /// The job whose restore made the entry of this name beside the data directory: see [`CellLayout::restored`].
    #[must_use]
    pub fn restored_by(name: &str) -> Option<JobId> {
        name.strip_prefix(RESTORED)?.parse().ok()
    }

    /// The job before which the data was kept in the entry of this name: see [`CellLayout::kept`].
    #[must_use]
    pub fn kept_by(name: &str) -> Option<JobId> {
        name.strip_prefix(KEPT)?.parse().ok()
    }

    /// What a job needs only while it runs: sockets, locks and spool of a private instance.
    ///
    /// The name is as long as that of [`CellLayout::sockets`], so that a socket fits here if it fits there.
    #[must_use]
    pub fn scratch(&self, job: JobId) -> PathBuf {
        let text = job.to_string();
        self.temporary().join(&text[text.len() - 6..])
    }

    /// Below which every [`CellLayout::scratch`] is.
    #[must_use]
    pub fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Below which a drill restores; one directory per job.
    #[must_use]
    pub fn drills(&self) -> PathBuf {
        self.root.join("drills")
    }

    /// What a drill restored, in its directory below [`CellLayout::drills`].
    #[must_use]
    pub fn drill_data(drill: &Path) -> PathBuf {
        drill.join("data")
    }

    /// Directory of PostgreSQL's socket.
    #[must_use]
    pub fn sockets(&self) -> PathBuf {
        self.root.join("pg_sockets")
    }

    /// The generated config.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("pgbackrest.conf")
    }

    /// Logs: `postgres.log`, `multipooler.log`, `pgbackrest-server.log`, `jobs/<id>.log`.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    /// pgBackRest's spool.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// pgBackRest's locks, and the pooler's own.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The cell's certificates and its one key.
    #[must_use]
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// Secrets of the pooler; 0700.
    #[must_use]
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The passphrase of an encrypted repository; 0600.
    #[must_use]
    pub fn repo_cipher_pass(&self) -> PathBuf {
        self.secrets().join(REPO_CIPHER_PASS)
    }

    /// The credentials of the repository's store; 0600.
    #[must_use]
    pub fn repo_credentials(&self) -> PathBuf {
        self.secrets().join(REPO_CREDENTIALS)
    }

    /// The key file of a Google service account, which pgBackRest takes as a file only; 0600, written by the pooler.
    #[must_use]
    pub fn repo_gcs_key(&self) -> PathBuf {
        self.secrets().join("repo-gcs-key.json")
    }

    /// Pid files.
    #[must_use]
    pub fn pid(&self) -> PathBuf {
        self.root.join("pid")
    }

    /// What the multipooler remembers from one process to the next.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// What a member of a database with quorum commit must not forget: its promise, its term, and which copy of the data it has.
    #[must_use]
    pub fn availability(&self) -> PathBuf {
        self.state().join("availability.json")
    }

    /// The request that another cell shall have the primary: see [`crate::records::hand_over::HandOverRequest`].
    #[must_use]
    pub fn hand_over(&self) -> PathBuf {
        self.state().join("hand-over.json")
    }

    /// What this machine remembers of its claims on the cell: see [`crate::records::cell_claim::OwnClaims`].
    #[must_use]
    pub fn own_claims(&self) -> PathBuf {
        self.state().join("claims.json")
    }

    /// Why the multipooler does not run the cell, while it does not: another machine does.
    #[must_use]
    pub fn not_claimed(&self) -> PathBuf {
        self.state().join("not-claimed")
    }

    /// The marker of a restore into the data directory that was begun and not finished.
    #[must_use]
    pub fn seeding_marker(&self) -> PathBuf {
        self.state().join("seeding")
    }

    /// The marker of a cell that has seen its database's stanza in the repository.
    #[must_use]
    pub fn stanza_marker(&self) -> PathBuf {
        self.state().join("stanza")
    }

    /// The marker of a cell that has once had its data.
    #[must_use]
    pub fn seeded_marker(&self) -> PathBuf {
        self.state().join("seeded")
    }

    /// The WAL that only this cell has, saved from a restore over its data directory.
    #[must_use]
    pub fn received_wal(&self) -> PathBuf {
        self.root.join("received-wal")
    }

    /// The WAL that only a former primary had, by its term, kept from before its data was replaced.
    #[must_use]
    pub fn left_wal(&self) -> PathBuf {
        self.root.join("left-wal")
    }

    /// The config of the cell's PgBouncer.
    #[must_use]
    pub fn pool_config(&self) -> PathBuf {
        self.root.join("pgbouncer.ini")
    }

    /// Whom the cell's PgBouncer lets in, with what PostgreSQL keeps of their passwords; 0600.
    #[must_use]
    pub fn pool_users(&self) -> PathBuf {
        self.secrets().join("pgbouncer-users.txt")
    }

    /// Where the cell's PgBouncer writes its process id.
    #[must_use]
    pub fn pool_pid_file(&self) -> PathBuf {
        self.pid().join("pgbouncer.pid")
    }

    /// Configs of running jobs and output of finished ones.
    #[must_use]
    pub fn jobs(&self) -> PathBuf {
        self.root.join("jobs")
    }

    /// The address card of this cell's pooler for `database`, listening on `listen`.
    ///
    /// # Errors
    /// When a port is above 65535, a path is not text, or the socket path is too long.
    pub fn pooler(&self, database: &Database, cell: &Cell, listen: &str) -> Result<Pooler, LayoutError> {
        let text = |path: PathBuf| match path.to_str() {
            None => Err(LayoutError::PathNotText(path.clone())),
            Some(text) => match path_fault(text) {
                None => Ok(text.to_owned()),
                Some(reason) => Err(LayoutError::PathMisread { path: text.to_owned(), reason }),
            },
        };
        let port = |base: u16| {
            let high = LayoutError::PortTooHigh { base, index: cell.index, offset: database.port_offset };
            let offset = u16::try_from(database.port_offset).map_err(|_| high)?;
            Ports::new(offset).of_cell(base, cell.index)
        };
        let postgres_port = port(Ports::POSTGRES)?;
        check_socket_path(&self.sockets(), postgres_port)?;
        Ok(Pooler {
            database: database.name.clone(),
            cell: cell.name.clone(),
            index: cell.index,
            host: cell.host.clone(),
            postgres_port,
            pgbackrest_port: port(Ports::PGBACKREST)?,
            grpc_port: port(Ports::POOLER_GRPC)?,
            health_port: port(Ports::POOLER_HEALTH)?,
            pool_port: 0,
            listen: listen.to_owned(),
            data_directory: text(self.data())?,
            socket_directory: text(self.sockets())?,
            config_path: text(self.config())?,
            tls_directory: text(self.tls())?,
            log_directory: text(self.log())?,
            lock_directory: text(self.lock())?,
            spool_directory: text(self.spool())?,
            revocations: 0,
        })
    }
}

/// Whether PostgreSQL can bind its socket in `directory`, and its clients can name it.
///
/// # Errors
/// When `<directory>/.s.PGSQL.<port>` is longer than [`SOCKET_PATH_LIMIT`], or has a comma.
pub fn check_socket_path(directory: &Path, port: u16) -> Result<(), LayoutError> {
    let path = directory.join(format!(".s.PGSQL.{port}"));
    let length = path.as_os_str().len();
    if length > SOCKET_PATH_LIMIT {
        return Err(LayoutError::SocketPathTooLong { path: path.display().to_string(), length });
    }
    let path = path.display().to_string();
    // In `unix_socket_directories` and in libpq's `host`.
    if path.contains(',') {
        return Err(LayoutError::PathMisread {
            path,
            reason: "PostgreSQL takes a comma for the end of one socket directory and the beginning of another",
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_derive_from_the_index() {
        assert_eq!(Ports::new(0).of_cell(Ports::PGBACKREST, 2), Ok(8434));
        assert_eq!(Ports::new(100).of_cell(Ports::PGBACKREST, 2), Ok(8534));
        assert!(Ports::new(60000).of_cell(Ports::POSTGRES, 0).is_err());
    }

    #[test]
    fn member_of_a_further_database_has_a_directory_beside_the_cells() {
        let cell = serde_json::json!({ "name": "zone1", "host": "h", "directory": "/d/zone1" });
        let cell: Cell = serde_json::from_value(cell).unwrap();
        let first = serde_json::json!({
            "name": "sales", "stanza": "sales", "repoPath": "/r", "bootstrapCell": "zone1",
        });
        let first: Database = serde_json::from_value(first).unwrap();
        let further = Database { is_qualified: true, cells: vec!["zone2".parse().unwrap()], ..first.clone() };
        assert!(first.is_wanted_in(&cell.name) && !further.is_wanted_in(&cell.name));
        for (database, directory) in [(first, "/d/zone1"), (further, "/d/sales.zone1")] {
            let layout = CellLayout::of_member(&database, &cell);
            assert_eq!(layout.root(), Path::new(directory));
            assert_eq!(ClusterLayout::new("/d").member(database.qualifier(), &cell.name), layout);
        }
    }

    #[test]
    fn socket_path_with_a_comma_is_refused() {
        let error = check_socket_path(Path::new("/a,b/c"), 5432).unwrap_err().to_string();
        assert!(error.contains("comma"), "{error}");
    }

    #[test]
    fn a_socket_path_may_have_107_bytes() {
        let fits = "/".to_owned() + &"a".repeat(SOCKET_PATH_LIMIT - 1 - "/.s.PGSQL.25432".len());
        assert!(check_socket_path(Path::new(&fits), 25432).is_ok());
        assert!(check_socket_path(Path::new(&(fits + "b")), 25432).is_err());
    }
}
