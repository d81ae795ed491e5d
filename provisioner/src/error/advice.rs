//! What a caller and a person do about a failure: its kind, and the hint that is shown with it.

use cellar_pgbackrest::{CredentialsError, PassphraseError, PrivateFileError};
use cellar_system::UserError;
use cellar_topology::StoreError;

use crate::error::provision_error::ProvisionError;

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
            | Self::NoHealthPorts
            | Self::Locked { .. }
            | Self::Passphrase(_)
            | Self::Credentials(_)
            | Self::NoStore { .. }
            | Self::NotEncrypted { .. }
            | Self::OtherPassphrase { .. }
            | Self::RepositoryInside { .. }
            | Self::EtcdRuns { .. }
            | Self::EtcdWorks { .. }
            | Self::RestoreUnsettled { .. }
            | Self::MemberStays { .. }
            | Self::OtherEtcdData { .. }
            | Self::OnHosts { .. }
            | Self::UpgradeRefused { .. }
            | Self::Bundle { .. }
            | Self::HalfRemoved { .. }
            | Self::NewerState { .. }
            | Self::OlderDirectory { .. }
            | Self::RecordDiffers { .. } => FailureKind::Refused,
            Self::NoCluster { .. }
            | Self::NoHost { .. }
            | Self::NoAnswer { .. }
            | Self::Silent { .. }
            | Self::HostsBehind { .. } => FailureKind::Unreachable,
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

    /// What to do next, where there is useful advice.
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
            Self::NoHealthPorts => {
                Some("`cellar up`, on hosts `cellar cluster wait`, gives every cell a port for them".to_owned())
            }
            Self::Locked { .. } => Some("wait until it has ended, then repeat the command".to_owned()),
            Self::NoCluster { .. } => Some(
                "make one with `cellar up`, or name where it is with --dir, --cluster or --admin".to_owned(),
            ),
            Self::OnHosts { .. } => Some(
                "run `cellar host start`, `stop` or `status` on each host, and `cellar cluster wait` here; `cellar cluster bundle` issues certificates again"
                    .to_owned(),
            ),
            Self::NoHost { .. } => Some(
                "install the host's bundle (`cellar host install BUNDLE`), or name where it was installed with --dir"
                    .to_owned(),
            ),
            Self::Bundle { hint, .. } => Some((*hint).to_owned()),
            Self::HostsBehind { .. } => Some(
                "install the bundle of each host that is named (bundles/CELL.bundle in the operator's directory) and start what does not run there (`cellar host start`), then repeat the command: it goes on. If a thief has one of them, switch it off: a host of which nothing answers is not waited for"
                    .to_owned(),
            ),
            Self::UpgradeRefused { hint, .. } => Some(hint.clone()),
            Self::UpgradeFailed { .. } => Some(
                "leave the other hosts as they are until this one is well: `cellar host status` here, `cellar status` on the operator's machine"
                    .to_owned(),
            ),
            Self::NewerState { .. } => Some(
                "nothing was changed, and the file is whole: use the newer release of `cellar` here, too".to_owned(),
            ),
            Self::BadState { path, copy: Some(copy), .. } => {
                Some(format!("put its copy there: cp {} {}", copy.display(), path.display()))
            }
            Self::BadState { .. } => Some(
                "put your own copy of it there: it holds the cells and ports of the cluster, which goes on without it"
                    .to_owned(),
            ),
            Self::OlderDirectory { .. } => Some(
                "put back a copy of it that was made after the last revocation: this one has the keys that were revoked, and would let them in again. Nothing was changed, and the cluster runs on"
                    .to_owned(),
            ),
            Self::RecordDiffers { .. } => Some(
                "the directory and its etcd do not belong together: put the matching etcd data back, or make a new cluster elsewhere (--dir)"
                    .to_owned(),
            ),
            Self::Credentials(CredentialsError::File(PrivateFileError::Exposed { .. })) => None,
            Self::Credentials(_) => Some(
                "give them in a file with mode 0600, one NAME=VALUE a line: --repo-credentials-file FILE; a new cluster takes them from the environment, too"
                    .to_owned(),
            ),
            Self::NoStore { .. } => Some("leave --repo-credentials-file out".to_owned()),
            Self::Passphrase(PassphraseError::Exposed { .. }) => None,
            Self::Passphrase(_) => Some(
                "put your copy of it back there, with mode 0600; every cell has one too, in secrets/repo-cipher-pass of its directory"
                    .to_owned(),
            ),
            Self::RepositoryInside { repository, .. } => Some(format!(
                "its files were not touched. A cell can be removed with its directory kept: leave --delete-data out. Before the cluster is removed, end it (`cellar down`) and move {} elsewhere",
                repository.display()
            )),
            Self::NotEncrypted { .. } => Some(
                "encryption is chosen when a cluster is made: leave the passphrase out, or make another cluster (--dir)"
                    .to_owned(),
            ),
            Self::OtherPassphrase { .. } => Some(
                "leave it out: the cluster knows its own; it cannot be changed, because all that is in the repository is encrypted with it"
                    .to_owned(),
            ),
            Self::EtcdRuns { pid, .. } => Some(format!(
                "if its data is lost or damaged, end it alone (`kill {pid}`): PostgreSQL goes on without it. If it answers (`cellar etcd status`), there is nothing to restore"
            )),
            Self::EtcdWorks { .. } => Some(
                "there is nothing to restore: `cellar etcd status` shows the members, `cellar etcd replace` replaces one; if all of its data is of no use, end etcd on the hosts first"
                    .to_owned(),
            ),
            Self::RestoreUnsettled { .. } => Some(
                "install the bundles that were issued with the restore (docs/runbooks/lost-etcd.md), or start etcd as it was before; then `cellar cluster wait`, and repeat the command. `cellar etcd restore` issues all bundles again"
                    .to_owned(),
            ),
            Self::BadSnapshot { .. } => Some("look at etcd (`cellar etcd status`) and repeat the command".to_owned()),
            Self::MemberStays { .. } => Some("`cellar etcd status` shows how the members are".to_owned()),
            Self::OtherEtcdData { hint, .. } => Some((*hint).to_owned()),
            Self::Store(StoreError::Corrupt { .. }) => Some(
                "a newer version wrote it, or somebody by hand: run the newer version, or correct the record; docs/troubleshooting.md (a record in etcd cannot be read) has the commands"
                    .to_owned(),
            ),
            Self::Rpc(status) => cellar_api::hint_of(status),
            Self::Silent { .. } => Some(
                "what runs goes on by itself; repeat `cellar cluster wait` when the others do".to_owned(),
            ),
            Self::HalfRemoved { cell } => Some(format!("`cellar cells remove {cell}` finishes it")),
            Self::FirstBackup { hint, .. } if !hint.is_empty() => Some(hint.clone()),
            Self::FirstBackup { .. } | Self::Ended { .. } | Self::NoAnswer { .. } => {
                Some("remove the cause and run `cellar up` (on hosts `cellar cluster wait`) again: it goes on where it stopped".to_owned())
            }
            Self::NotStreaming { .. } => Some(
                "the cells go on by themselves: look at `cellar status`, remove what the messages name and run `cellar up` (on hosts `cellar cluster wait`) again, with a longer --timeout if they only need more time"
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
