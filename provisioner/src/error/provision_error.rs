//! What can go wrong around a specification or a local cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::LayoutError;
use cellar_pgbackrest::{ConfigError, CredentialsError, PassphraseError};
use cellar_postgres::PostgresError;
use cellar_system::UserError;
use cellar_tls::TlsError;
use cellar_topology::StoreError;

use crate::error::cell_report::{CellReport, CellReports, Tail};
use crate::error::finding::{Finding, Findings, Listed};
use crate::error::spec_error::SpecError;

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, ProvisionError>;

/// A failure around a cluster specification or a local cluster.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The cluster specification breaks a rule. Nothing was written.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A value cannot stand in a generated `pgbackrest.conf`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Ports or paths do not work out.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The OS user cannot be had.
    #[error(transparent)]
    User(#[from] UserError),
    /// An argument is not usable.
    #[error("{argument} {value:?} is refused: {reason}")]
    Argument {
        /// The flag.
        argument: &'static str,
        /// What was given.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// A flag contradicts what the cluster was created with.
    #[error("the cluster in {} has {what} {recorded}, and {what} {wanted} was asked for", dir.display())]
    Contradiction {
        /// The flag's subject.
        what: &'static str,
        /// What was asked for.
        wanted: String,
        /// What the cluster was created with.
        recorded: String,
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// No cell can be routed to.
    #[error(
        "no cell has health endpoints, which balancers ask: their records are from before there were any"
    )]
    NoHealthPorts,
    /// The machine is not ready for it. Nothing was started or written.
    #[error("{}", Findings(.0))]
    Preflight(Vec<Finding>),
    /// Another `cellar` works on the cluster.
    #[error("another cellar works on the cluster in {} ({holder})", dir.display())]
    Locked {
        /// The cluster's directory.
        dir: PathBuf,
        /// Which one.
        holder: String,
    },
    /// There is no cluster.
    #[error("there is no cluster in {}", dir.display())]
    NoCluster {
        /// The directory that was looked at.
        dir: PathBuf,
    },
    /// A command that works on the processes of this machine was given a cluster whose cells have hosts.
    #[error("`{command}` works on a cluster of this machine, and the cells of the one in {} have hosts of their own", dir.display())]
    OnHosts {
        /// The command.
        command: &'static str,
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// No bundle was installed in the directory.
    #[error("no bundle of a host was installed in {}", dir.display())]
    NoHost {
        /// The directory that was looked at.
        dir: PathBuf,
    },
    /// A bundle cannot be installed here.
    #[error("the bundle {} is refused: {reason}", path.display())]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// The state file cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
        /// Its copy, if there is one.
        copy: Option<PathBuf>,
    },
    /// A newer release of Cellar wrote the state file. It is whole.
    #[error("{} was written by a newer release of cellar ({reason}), and this one is {version}", path.display())]
    NewerState {
        /// The file.
        path: PathBuf,
        /// What is not known here.
        reason: String,
        /// This release.
        version: &'static str,
    },
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was being done, such as `write`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The provisioner's copy of the repository's passphrase cannot be used.
    #[error(transparent)]
    Passphrase(#[from] PassphraseError),
    /// There are no credentials for the repository's store, or they are of no use.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A file of credentials was given for a repository that is a directory.
    #[error("credentials were given for the repository {repository}, which is in no store")]
    NoStore {
        /// The repository.
        repository: String,
    },
    /// A passphrase was given for a repository that is not encrypted.
    #[error("the repository of the cluster in {} is not encrypted, and a passphrase was given", dir.display())]
    NotEncrypted {
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// The passphrase is not the one that the cluster was made with.
    #[error("the repository of the cluster in {} is encrypted with another passphrase than the one given", dir.display())]
    OtherPassphrase {
        /// The cluster's directory.
        dir: PathBuf,
    },
    /// The repository lies where something is to be removed.
    #[error("the repository {} lies in {}, which is to be removed with all that is in it", repository.display(), directory.display())]
    RepositoryInside {
        /// The repository's directory.
        repository: PathBuf,
        /// What is to be removed.
        directory: PathBuf,
    },
    /// A certificate could not be made or loaded.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// etcd did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in etcd is not what this cluster would write.
    #[error("the record {key} in etcd is {found}, and this cluster would write {wanted}")]
    RecordDiffers {
        /// The key.
        key: String,
        /// Its content.
        found: String,
        /// What this cluster would write.
        wanted: String,
    },
    /// The directory was put back from a copy of before a revocation.
    #[error("{} is older than the cluster: certificates of cell {cell} were revoked {recorded} times, and it knows of {known}", dir.display())]
    OlderDirectory {
        /// The cluster's directory.
        dir: PathBuf,
        /// The cell.
        cell: String,
        /// How often, by etcd's record.
        recorded: u32,
        /// The same by the directory.
        known: u32,
    },
    /// etcd runs, and its data is to be replaced.
    #[error("etcd of the cluster in {} runs (process {pid}), and its data is to be replaced", dir.display())]
    EtcdRuns {
        /// The cluster's directory.
        dir: PathBuf,
        /// etcd's process.
        pid: u32,
    },
    /// etcd works, and its data is to be replaced.
    #[error("etcd of the cluster in {} has a majority that works, and its data is to be replaced", dir.display())]
    EtcdWorks {
        /// The operator's directory of the cluster.
        dir: PathBuf,
    },
    /// A restore of etcd was prepared, and it is not known whether it was installed.
    #[error("a restore of etcd was prepared in {}, and etcd does not answer whether its members began with it: no bundles are issued, as they might make a member begin anew that must not", dir.display())]
    RestoreUnsettled {
        /// The operator's directory of the cluster.
        dir: PathBuf,
    },
    /// A snapshot of etcd did not arrive whole.
    #[error("the snapshot of etcd is not whole: {reason}; {} was not written", path.display())]
    BadSnapshot {
        /// The file that was to be written.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A member of etcd must not be replaced, taken out or added.
    #[error("etcd's members stay as they are, and {name} too: {reason}")]
    MemberStays {
        /// The member's name.
        name: String,
        /// Why not.
        reason: String,
    },
    /// Hosts do not use the certificates that were issued for them.
    #[error("not every host uses its new certificates yet, so nothing is revoked: {reason}")]
    HostsBehind {
        /// Which, and how that is known.
        reason: String,
    },
    /// The programs of this host are not exchanged now. Nothing has changed.
    #[error("this host is not upgraded: {reason}")]
    UpgradeRefused {
        /// Why not.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// Something is not well after the programs of this host were exchanged.
    #[error("{what} is not well with the new programs: {reason}; {outcome}")]
    UpgradeFailed {
        /// What.
        what: String,
        /// How it is.
        reason: String,
        /// What was done then.
        outcome: String,
    },
    /// etcd's data on this host is not what the host's bundle says.
    #[error("etcd is not started: its data in {} is {found}, and its bundle expects {wanted}", data.display())]
    OtherEtcdData {
        /// etcd's data directory.
        data: PathBuf,
        /// What it is.
        found: String,
        /// What the bundle says.
        wanted: String,
        /// What to do.
        hint: &'static str,
    },
    /// A program that others make failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// The program.
        program: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// PostgreSQL did not do what it was asked.
    #[error("PostgreSQL of cell {cell}: {source}")]
    Postgres {
        /// The cell.
        cell: String,
        /// Why not.
        #[source]
        source: PostgresError,
    },
    /// A program could not be started.
    #[error("cannot start {what}")]
    Start {
        /// The program and whose it is.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A program that was started ended again.
    #[error("{what} ended right after it was started ({status}){}", Tail(.log, .tail))]
    Ended {
        /// The program and whose it is.
        what: String,
        /// How it ended.
        status: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// A process does not end, not even when killed.
    #[error("{what} (process {pid}) does not end")]
    WillNotEnd {
        /// The program and whose it is.
        what: String,
        /// Its process id.
        pid: u32,
    },
    /// A service did not answer in time.
    #[error("{what} did not answer within {} s ({reason}){}", after.as_secs(), Tail(.log, .tail))]
    NoAnswer {
        /// The service.
        what: String,
        /// How long the wait was.
        after: Duration,
        /// The last error.
        reason: String,
        /// Its log.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// multiadmin refused or failed a call.
    #[error("{}", .0.message())]
    Rpc(Box<tonic::Status>),
    /// The first full backup did not succeed.
    #[error("the first full backup of {database} failed: {message}")]
    FirstBackup {
        /// The database.
        database: String,
        /// The last job's error, or why there was no job.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// Servers on hosts do not answer by the deadline.
    #[error("the cluster is not well after {} s: {reason}{}", after.as_secs(), Listed(.servers))]
    Silent {
        /// How long the wait was.
        after: Duration,
        /// What is not reached.
        reason: String,
        /// The servers, each with what to do.
        servers: Vec<Finding>,
    },
    /// A cell on a host of its own has left the topology, and its removal has not ended.
    #[error("the removal of cell {cell} was interrupted")]
    HalfRemoved {
        /// The cell.
        cell: String,
    },
    /// Some cells are not as they should be by the deadline.
    #[error("after {} s {what}{}", after.as_secs(), CellReports(.cells))]
    NotStreaming {
        /// What is not reached.
        what: String,
        /// How long the wait was.
        after: Duration,
        /// The cells that are not well.
        cells: Vec<CellReport>,
    },
}

impl ProvisionError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl From<tonic::Status> for ProvisionError {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}
