//! What can go wrong around a local cluster, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::LayoutError;
use cellar_pgbackrest::{ConfigError, PassphraseError};
use cellar_postgres::PostgresError;
use cellar_system::UserError;
use cellar_tls::TlsError;
use cellar_topology::StoreError;

use crate::preflight::checks::Finding;
use crate::spec::cluster_spec::SpecError;

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
    /// The remembered state cannot be read.
    #[error("{} cannot be read: {reason}", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
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
    /// A certificate could not be made or loaded.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// etcd did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record in etcd is not what this cluster would write.
    #[error("the record {key} in etcd says {found}, and this cluster says {wanted}")]
    RecordDiffers {
        /// The key.
        key: String,
        /// Its content.
        found: String,
        /// What this cluster would write.
        wanted: String,
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
        /// How long was waited.
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
        /// What the last job says, or why there was none.
        message: String,
        /// What to do next.
        hint: String,
    },
    /// Some cells are not as they should be by the deadline.
    #[error("after {} s {what}{}", after.as_secs(), CellReports(.cells))]
    NotStreaming {
        /// What is not reached.
        what: String,
        /// How long was waited.
        after: Duration,
        /// The cells that are not well.
        cells: Vec<CellReport>,
    },
}

/// What is wrong with one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellReport {
    /// The cell.
    pub cell: String,
    /// Its state in a few words, with the pooler's message.
    pub state: String,
    /// Its pooler's log.
    pub log: PathBuf,
    /// The log's last lines.
    pub tail: String,
}

/// The kinds of failure that a caller acts on differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// Wrong usage or argument.
    Usage,
    /// Refused in the present state; nothing was changed.
    Refused,
    /// A service could not be reached.
    Unreachable,
    /// Not permitted.
    NotPermitted,
    /// Anything else.
    Failed,
}

impl ProvisionError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::User(UserError::NotPermitted { .. }) => FailureKind::NotPermitted,
            Self::Spec(_) | Self::Config(_) | Self::Layout(_) | Self::Argument { .. } | Self::User(_) => {
                FailureKind::Usage
            }
            Self::Contradiction { .. }
            | Self::Preflight(_)
            | Self::Locked { .. }
            | Self::Passphrase(_)
            | Self::NotEncrypted { .. }
            | Self::OtherPassphrase { .. }
            | Self::RecordDiffers { .. } => FailureKind::Refused,
            Self::NoCluster { .. } | Self::NoAnswer { .. } => FailureKind::Unreachable,
            Self::Store(error) if error.is_retryable() => FailureKind::Unreachable,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                FailureKind::NotPermitted
            }
            Self::Rpc(status) => match cellar_api::exit_code(status.code()) {
                2 => FailureKind::Usage,
                3 => FailureKind::Refused,
                4 => FailureKind::Unreachable,
                5 => FailureKind::NotPermitted,
                _ => FailureKind::Failed,
            },
            _ => FailureKind::Failed,
        }
    }

    /// What to do next, where there is something useful to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Contradiction { dir, .. } => Some(format!(
                "leave the flag out to use the cluster as it is, name another directory with --dir, or remove it with `cellar down --destroy --dir {}`",
                dir.display()
            )),
            Self::Preflight(findings) => match findings.as_slice() {
                [one] => one.hint.clone(),
                _ => None,
            },
            Self::Locked { .. } => Some("wait until it has ended, then repeat the command".to_owned()),
            Self::NoCluster { .. } => Some(
                "make one with `cellar up`, or name where it is with --dir, --cluster or --admin".to_owned(),
            ),
            Self::BadState { .. } => {
                Some("restore the file from a copy; it says which cells and ports the cluster has".to_owned())
            }
            Self::RecordDiffers { .. } => Some(
                "the directory and its etcd do not belong together: put the matching etcd data back, or make a new cluster elsewhere (--dir)"
                    .to_owned(),
            ),
            Self::Passphrase(PassphraseError::Exposed { .. }) => None,
            Self::Passphrase(_) => Some(
                "put your copy of it back there, with mode 0600; every cell has one too, in secrets/repo-cipher-pass of its directory"
                    .to_owned(),
            ),
            Self::NotEncrypted { .. } => Some(
                "encryption is chosen when a cluster is made: leave the passphrase out, or make another cluster (--dir)"
                    .to_owned(),
            ),
            Self::OtherPassphrase { .. } => Some(
                "leave it out: the cluster knows its own; it cannot be changed, because all that is in the repository is encrypted with it"
                    .to_owned(),
            ),
            Self::Rpc(status) => cellar_api::hint_of(status),
            Self::FirstBackup { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            Self::FirstBackup { .. } | Self::Ended { .. } | Self::NoAnswer { .. } => {
                Some("mend the cause and run `cellar up` again: it goes on where it stopped".to_owned())
            }
            Self::NotStreaming { .. } => Some(
                "the cells go on by themselves: look at `cellar status`, mend what the messages name and run `cellar up` again, with a longer --timeout if they only need more time"
                    .to_owned(),
            ),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => Some(
                "run it as the user who made the cluster, or as root; or name another directory with --dir"
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

impl From<tonic::Status> for ProvisionError {
    fn from(status: tonic::Status) -> Self {
        Self::Rpc(Box::new(status))
    }
}

struct Findings<'a>(&'a [Finding]);

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [one] => write!(f, "{}", one.message),
            several => {
                write!(f, "{} things are in the way; nothing was started", several.len())?;
                several.iter().try_for_each(|finding| {
                    write!(f, "\n  - {}", finding.message)?;
                    finding.hint.iter().try_for_each(|hint| write!(f, "\n    ({hint})"))
                })
            }
        }
    }
}

struct Tail<'a>(&'a Path, &'a str);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            return Ok(());
        }
        write!(f, "\n  the last lines of {}:", self.0.display())?;
        self.1.lines().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

struct CellReports<'a>(&'a [CellReport]);

impl fmt::Display for CellReports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in self.0 {
            write!(f, "\n  cell {}: {}{}", report.cell, report.state, Tail(&report.log, &report.tail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_that_is_not_well_is_described() {
        let error = ProvisionError::NotStreaming {
            what: "not every cell streams".into(),
            after: Duration::from_secs(300),
            cells: vec![CellReport {
                cell: "zone2".into(),
                state: "seeding: restoring 20260301-101500F".into(),
                log: "/c/zone2/log/multipooler.log".into(),
                tail: "one\ntwo".into(),
            }],
        };
        assert_eq!(
            error.to_string(),
            "after 300 s not every cell streams\n  cell zone2: seeding: restoring 20260301-101500F\n  the last lines of /c/zone2/log/multipooler.log:\n    one\n    two"
        );
        assert_eq!(error.kind(), FailureKind::Failed);
    }

    #[test]
    fn findings_read_well_alone_and_together() {
        let finding = |message: &str| Finding { message: message.into(), hint: Some("mend it".into()) };
        let one = ProvisionError::Preflight(vec![finding("a")]);
        assert_eq!((one.to_string().as_str(), one.hint().as_deref()), ("a", Some("mend it")));
        let two = ProvisionError::Preflight(vec![finding("a"), finding("b")]);
        assert_eq!(
            two.to_string(),
            "2 things are in the way; nothing was started\n  - a\n    (mend it)\n  - b\n    (mend it)"
        );
        assert_eq!(two.hint(), None);
    }
}
