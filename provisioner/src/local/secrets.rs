//! The passphrase of an encrypted repository and the credentials of a store: remembered once for the cluster, and given to
//! each cell.
//!
//! The copy in `<dir>/state/secrets` belongs to the user who runs the provisioner, and cells that are added later get
//! theirs from it. The state file only records that there is one.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use cellar_model::{ClusterLayout, Secret};
use cellar_pgbackrest::{Credentials, read_passphrase};

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};

/// Mode of the directory: only its owner may see whether there is a passphrase.
const DIRECTORY_MODE: u32 = 0o700;

const FILE_MODE: u32 = 0o600;

/// Refuses a passphrase that is not the one that the cluster was made with. pgBackRest cannot change it afterwards.
pub(crate) fn check_agreement(
    layout: &ClusterLayout,
    state: &ClusterState,
    given: Option<&Secret>,
) -> Result<()> {
    let dir = || layout.root().to_owned();
    if state.repo_cipher.is_none() {
        return given.map_or(Ok(()), |_| Err(ProvisionError::NotEncrypted { dir: dir() }));
    }
    // Also when none is given: what is started needs it.
    let remembered = read_passphrase(&layout.repo_cipher_pass())?;
    match given {
        Some(given) if *given != remembered => Err(ProvisionError::OtherPassphrase { dir: dir() }),
        _ => Ok(()),
    }
}

impl Cluster {
    /// Remembers the passphrase of a new cluster, before the state file that records that there is one.
    pub(crate) fn remember_passphrase(&self, secret: &Secret) -> Result<()> {
        make_directory(&self.layout.secrets(), DIRECTORY_MODE, None)?;
        replace(&self.layout.repo_cipher_pass(), &line(secret), FILE_MODE, None)
    }

    /// Remembers the credentials of a store.
    pub(crate) fn remember_credentials(&self, credentials: &Credentials) -> Result<()> {
        make_directory(&self.layout.secrets(), DIRECTORY_MODE, None)?;
        replace(&self.layout.repo_credentials(), &credentials.kept_text(), FILE_MODE, None)
    }

    /// Gives a member its copies of the secrets. What it runs reads them anew, so they take effect without a restart.
    pub(crate) fn install_secrets(&self, member: &Member) -> Result<()> {
        self.install_passphrase(member)?;
        let Some(store) = self.state.repo.store() else { return Ok(()) };
        let credentials = Credentials::read_kept(store, &self.layout.repo_credentials())?;
        let (layout, owner) = (self.keys_of(member), self.owner());
        make_directory(&layout.secrets(), DIRECTORY_MODE, owner)?;
        replace(&layout.repo_credentials(), &credentials.kept_text(), FILE_MODE, owner)
    }

    /// Gives a member its copy of the passphrase.
    fn install_passphrase(&self, member: &Member) -> Result<()> {
        if self.state.repo_cipher.is_none() {
            return Ok(());
        }
        let secret = read_passphrase(&self.layout.repo_cipher_pass())?;
        let (layout, owner) = (self.keys_of(member), self.owner());
        make_directory(&layout.secrets(), DIRECTORY_MODE, owner)?;
        // What is there is not looked at: its directory is the service user's.
        replace(&layout.repo_cipher_pass(), &line(&secret), FILE_MODE, owner)
    }
}

/// Where credentials of a store are taken from.
#[derive(Debug, Clone, Default)]
pub struct GivenCredentials {
    /// A file of lines `NAME=VALUE`; absolute.
    pub file: Option<PathBuf>,
    /// The environment of the command, as far as it is text. Used when there is no file and the cluster has no credentials
    /// yet: later it may be meant for something else.
    pub environment: Environment,
}

/// Names and values. `Debug` shows none.
#[derive(Clone, Default)]
pub struct Environment(pub Vec<(String, String)>);

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} variables>", self.0.len())
    }
}

impl GivenCredentials {
    /// Those that this process was given in its environment, or else in `file`.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let text =
            |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Self { file, environment: Environment(std::env::vars_os().filter_map(text).collect()) }
    }
}

/// The credentials that a cluster is to have from now on, with those that it has; none when its repository is no store.
///
/// # Errors
/// When there are none, or they are of no use; or a file of them was given for a repository that is no store.
pub(crate) fn credentials_of(
    layout: &ClusterLayout,
    state: &ClusterState,
    given: &GivenCredentials,
) -> Result<Option<Credentials>> {
    let Some(store) = state.repo.store() else {
        return match given.file {
            None => Ok(None),
            Some(_) => Err(ProvisionError::NoStore { repository: state.repo.to_string() }),
        };
    };
    if let Some(file) = &given.file {
        return Ok(Some(Credentials::read_given(store, file)?));
    }
    let kept = layout.repo_credentials();
    if kept.exists() {
        return Ok(Some(Credentials::read_kept(store, &kept)?));
    }
    let these = Credentials::of_names(store, given.environment.0.iter().cloned(), false)?;
    these.check(store)?;
    Ok(Some(these))
}

fn line(secret: &Secret) -> String {
    format!("{}\n", secret.expose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::RepoCipher;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "correct horse battery staple";

    fn cluster(dir: &std::path::Path, encrypted: bool) -> Cluster {
        let mut cluster = Cluster::sample(dir, &["zone1"]);
        cluster.state.repo_cipher = encrypted.then_some(RepoCipher::Aes256Cbc);
        cluster
    }

    #[test]
    fn passphrase_reaches_each_cell_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = cluster(dir.path(), true);
        let secret = Secret::passphrase(TEXT).unwrap();
        let member = cluster.state.members().remove(0);
        let missing = cluster.install_passphrase(&member).unwrap_err();
        assert!(missing.to_string().contains("state/secrets/repo-cipher-pass"), "{missing}");
        cluster.remember_passphrase(&secret).unwrap();
        cluster.install_passphrase(&member).unwrap();
        let layout = cluster.layout_of(&member);
        assert_eq!(read_passphrase(&layout.repo_cipher_pass()).unwrap(), secret);
        for directory in [cluster.layout.secrets(), layout.secrets()] {
            let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&directory), mode(&directory.join("repo-cipher-pass"))), (0o700, 0o600));
        }
        let state = serde_json::to_string(&cluster.state).unwrap();
        assert!(state.contains("REPO_CIPHER_AES_256_CBC") && !state.contains("battery"), "{state}");
    }

    #[test]
    fn credentials_reach_each_cell_and_the_environment_counts_only_at_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = cluster(dir.path(), false);
        let with = |key: &str| GivenCredentials {
            file: None,
            environment: Environment(
                [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", "hunter2")]
                    .map(|(name, value)| (name.to_owned(), value.to_owned()))
                    .into(),
            ),
        };
        assert!(!format!("{:?}", with("K")).contains("hunter2"));
        let of = |cluster: &Cluster, given: &GivenCredentials| {
            credentials_of(&cluster.layout, &cluster.state, given)
        };
        assert_eq!(of(&cluster, &with("K")).unwrap(), None);
        let file = GivenCredentials { file: Some("/nowhere".into()), ..GivenCredentials::default() };
        assert!(of(&cluster, &file).unwrap_err().to_string().contains("no store"));
        cluster.state.repo = "s3://backups/p?region=r".parse().unwrap();
        let missing = of(&cluster, &GivenCredentials::default()).unwrap_err();
        assert!(missing.to_string().contains("AWS_ACCESS_KEY_ID"), "{missing}");
        let first = of(&cluster, &with("K")).unwrap().unwrap();
        cluster.remember_credentials(&first).unwrap();
        assert_eq!(of(&cluster, &with("OTHER")).unwrap(), Some(first.clone()));
        assert!(of(&cluster, &file).unwrap_err().to_string().contains("/nowhere"));
        let member = cluster.state.members().remove(0);
        cluster.install_secrets(&member).unwrap();
        let copy = cluster.layout_of(&member).repo_credentials();
        assert_eq!(std::fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Credentials::read_kept(cluster.state.repo.store().unwrap(), &copy).unwrap(), first);
        let state = serde_json::to_string(&cluster.state).unwrap();
        assert!(
            state.contains("\"repoUrl\":\"s3://backups/p?region=r\"") && !state.contains("hunter2"),
            "{state}"
        );
        assert_eq!(serde_json::from_str::<ClusterState>(&state).unwrap(), cluster.state);
    }

    #[test]
    fn another_passphrase_is_refused_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let encrypted = cluster(dir.path(), true);
        let (secret, other) =
            (Secret::passphrase(TEXT).unwrap(), Secret::passphrase("another battery staple").unwrap());
        encrypted.remember_passphrase(&secret).unwrap();
        let check = |cluster: &Cluster, given| check_agreement(&cluster.layout, &cluster.state, given);
        check(&encrypted, None).unwrap();
        check(&encrypted, Some(&secret)).unwrap();
        let plain = cluster(dir.path(), false);
        check(&plain, None).unwrap();
        for refused in [check(&encrypted, Some(&other)), check(&plain, Some(&other))] {
            let error = refused.unwrap_err();
            assert!(!format!("{error} {error:?} {:?}", error.hint()).contains("battery"), "{error}");
            assert_eq!(error.kind(), crate::error::advice::FailureKind::Refused);
        }
    }
}
