//! The passphrase of an encrypted repository: remembered once for the cluster, and given to each cell.
//!
//! The copy in `<dir>/state/secrets` belongs to the user who runs the provisioner, and cells that are added later get
//! theirs from it. The state file only records that there is one.

use cellar_model::{ClusterLayout, Secret};
use cellar_pgbackrest::read_passphrase;

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

    /// Gives a member its copy.
    pub(crate) fn install_passphrase(&self, member: &Member) -> Result<()> {
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
