//! Whether etcd's data on a host is what its bundle says. A member that was taken out of etcd may have left data behind,
//! and what takes its place must not begin with that.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_system::{clock, read_text};

use crate::cluster::etcd_origin::{EtcdBeginning, EtcdOrigin};
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::restore::check_whole;
use crate::file::{make_directory, replace};
use crate::local::down::remove_tree;

/// How long a snapshot may take to become data.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(300);

/// The file in etcd's data directory that says how its member came by it; none for a member that began with the cluster.
/// It is in there so that it is gone when the data is.
const ORIGIN: &str = "cellar.origin";

/// What to do about data that is lost, or of a member that was replaced.
const REPLACE_HINT: &str = "if it is lost, replace the member (`cellar etcd replace` on the operator's machine), and install the newest bundle here (`cellar host install`)";

/// What to do about data from before a restore.
const RESTORE_HINT: &str = "install the bundle again with the snapshot that `cellar etcd restore` wrote on the operator's machine (`cellar host install BUNDLE --etcd-snapshot FILE`)";

/// What etcd's data on a host is, against what its bundle says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// As it should be.
    Right,
    /// None.
    Nothing,
    /// That of another member, or of another time.
    Other(String),
}

impl Cluster {
    fn etcd_origin_file(&self) -> PathBuf {
        self.etcd_data().join(ORIGIN)
    }

    fn etcd_data_found(&self, origin: &EtcdOrigin) -> Result<Found> {
        let path = self.etcd_origin_file();
        let written = match read_text(&path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(ProvisionError::io("read", &path)(error)),
        };
        Ok(match (self.has_etcd_data(), written == origin.mark()) {
            (true, true) => Found::Right,
            // Prepared, and not started yet.
            (false, true) if written.is_some() && !origin.started => Found::Right,
            (false, _) => Found::Nothing,
            (true, false) => Found::Other(written.unwrap_or_else(|| "that of a member before".to_owned())),
        })
    }

    /// Whether there is data of a member, whoever's.
    pub(super) fn has_etcd_data(&self) -> bool {
        // What etcd makes first.
        self.etcd_data().join("member").exists()
    }

    /// Refuses to start etcd with data that is not what the bundle says, before etcd does what it can with it.
    pub(super) fn check_etcd_data(&self) -> Result<()> {
        let Some(origin) = self.own_etcd_origin() else { return Ok(()) };
        let found = match self.etcd_data_found(origin)? {
            Found::Right => return Ok(()),
            Found::Nothing => "gone".to_owned(),
            Found::Other(found) => found,
        };
        let hint = match (origin.from, origin.started) {
            (EtcdBeginning::Restored, false) => RESTORE_HINT,
            _ => REPLACE_HINT,
        };
        Err(ProvisionError::OtherEtcdData { data: self.etcd_data(), found, wanted: origin.to_string(), hint })
    }

    /// What keeps the data from becoming what the bundle says. Nothing is changed.
    pub(super) fn etcd_data_obstacle(&self, snapshot: Option<&Path>) -> Result<Option<Finding>> {
        let Some(origin) = self.own_etcd_origin() else { return Ok(None) };
        let found = self.etcd_data_found(origin)?;
        if found == Found::Right {
            return Ok(None);
        }
        let finding =
            |message: String, hint: &str| Ok(Some(Finding { message, hint: Some(hint.to_owned()) }));
        if origin.started {
            return finding(
                format!(
                    "the data of this host's etcd member is lost ({} does not have it), and it must not begin anew under \
                     the same id",
                    self.etcd_data().display()
                ),
                "on the operator's machine: `cellar etcd replace`, which issues another bundle",
            );
        }
        if let Some(sha256) = &origin.snapshot {
            let Some(given) = snapshot else {
                return finding(
                    "this host's etcd member is to begin with a snapshot, and none was given".to_owned(),
                    "copy the one that `cellar etcd restore` wrote on the operator's machine, and name it with --etcd-snapshot",
                );
            };
            if check_whole(given)? != *sha256 {
                return finding(
                    format!("{} is not the snapshot that the bundle was issued with", given.display()),
                    "copy the one that `cellar etcd restore` wrote on the operator's machine last",
                );
            }
        }
        match self.etcd_pid() {
            Some(pid) if found != Found::Nothing => finding(
                format!("etcd runs here (process {pid}), and its data is to be replaced"),
                "end it alone: `kill` that process, or `systemctl stop` its unit if that has started it; PostgreSQL goes on",
            ),
            _ => Ok(None),
        }
    }

    /// Makes the data directory the one that the bundle's member begins with; gives where the data is that was there.
    pub(super) async fn prepare_etcd_data(&self, snapshot: Option<&Path>) -> Result<Option<PathBuf>> {
        let Some(origin) = self.own_etcd_origin() else { return Ok(None) };
        let found = self.etcd_data_found(origin)?;
        let Some(mark) = origin.mark().filter(|_| found != Found::Right && !origin.started) else {
            return Ok(None);
        };
        // Again: since it was looked at, a service manager or somebody else may have started etcd with the data that is there.
        // From now on none is started with it, because the record of this host asks for another one.
        if let Some(finding) = self.etcd_data_obstacle(snapshot)? {
            return Err(ProvisionError::Preflight(vec![finding]));
        }
        let owner = self.owner();
        make_directory(&self.layout.etcd(), 0o700, owner)?;
        let new = match (snapshot, &origin.snapshot) {
            (Some(snapshot), Some(_)) => {
                let (own, members) = self.etcd_peers()?;
                let token = format!("{}-{}", self.etcd_token(), origin.id);
                let deadline = Instant::now() + RESTORE_TIMEOUT;
                self.make_data_of(snapshot, &own, &members, &token, deadline).await?.1
            }
            _ => {
                let new = self.restored_etcd();
                remove_tree(&new)?;
                make_directory(&new, 0o700, owner)?;
                new
            }
        };
        replace(&new.join(ORIGIN), &format!("{mark}\n"), 0o600, owner)?;
        let data = self.etcd_data();
        let mut kept = None;
        if found == Found::Nothing {
            remove_tree(&data)?;
        } else {
            let aside = self.layout.etcd().join(format!("before-{}", clock::new_id()));
            fs::rename(&data, &aside).map_err(ProvisionError::io("rename", &data))?;
            kept = Some(aside);
        }
        fs::rename(&new, &data).map_err(ProvisionError::io("rename", &new))?;
        remove_tree(&self.restored_etcd())?;
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::cell_host::CellHost;

    fn on_host(dir: &Path, origin: Option<&EtcdOrigin>) -> Cluster {
        let mut cluster = Cluster::sample(dir, &["zone1"]);
        let cell = cluster.state.cells[0].name.clone();
        cluster.state.cells[0].host = Some(CellHost {
            host: "db1.example".parse().unwrap(),
            listen: "0.0.0.0".parse().unwrap(),
            directory: dir.to_owned(),
            etcd: true,
            multiadmin: true,
        });
        if let Some(origin) = origin {
            cluster.state.etcd_origins.insert(cell.clone(), origin.clone());
        }
        let host = Cluster::assemble_on_host(cluster.layout, cluster.state, cell).unwrap();
        make_directory(&host.layout.etcd(), 0o700, None).unwrap();
        host
    }

    fn joined(id: &str) -> EtcdOrigin {
        EtcdOrigin::joined(id.to_owned())
    }

    fn make_data(cluster: &Cluster) {
        fs::create_dir_all(cluster.etcd_data().join("member")).unwrap();
    }

    #[tokio::test]
    async fn data_of_a_member_that_began_with_the_cluster_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = on_host(dir.path(), None);
        make_data(&cluster);
        cluster.check_etcd_data().unwrap();
        assert_eq!(cluster.prepare_etcd_data(None).await.unwrap(), None);
        assert!(cluster.etcd_data().join("member").exists());
    }

    #[tokio::test]
    async fn new_member_begins_with_nothing_and_the_old_ones_data_is_kept_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        make_data(&on_host(dir.path(), None));
        let new = on_host(dir.path(), Some(&joined("8e9e")));
        assert!(matches!(new.check_etcd_data(), Err(ProvisionError::OtherEtcdData { .. })));
        let kept = new.prepare_etcd_data(None).await.unwrap().unwrap();
        assert!(kept.join("member").exists() && !new.etcd_data().join("member").exists());
        new.check_etcd_data().unwrap();
        // It has run since, and the bundle is installed again.
        make_data(&new);
        assert_eq!(new.prepare_etcd_data(None).await.unwrap(), None);
        assert!(new.etcd_data().join("member").exists());
        new.check_etcd_data().unwrap();
        // It is replaced once more.
        let next = on_host(dir.path(), Some(&joined("77")));
        assert!(next.check_etcd_data().unwrap_err().to_string().contains("joined 8e9e"));
        assert!(next.prepare_etcd_data(None).await.unwrap().is_some());
        next.check_etcd_data().unwrap();
    }

    #[tokio::test]
    async fn restored_member_begins_with_the_snapshot_of_its_bundle_only() {
        let dir = tempfile::tempdir().unwrap();
        let restored = on_host(dir.path(), Some(&EtcdOrigin::restored("r1".to_owned(), "00ff".to_owned())));
        make_data(&restored);
        let hint = |snapshot| restored.etcd_data_obstacle(snapshot).unwrap().unwrap().hint.unwrap();
        assert!(hint(None).contains("--etcd-snapshot"));
        let other = dir.path().join("s");
        let data = vec![7; 100];
        fs::write(&other, [&data[..], &<sha2::Sha256 as sha2::Digest>::digest(&data)].concat()).unwrap();
        assert!(hint(Some(&other)).contains("wrote on the operator's machine last"));
        fs::write(&other, "no snapshot").unwrap();
        assert!(restored.etcd_data_obstacle(Some(&other)).is_err());
        let refused = restored.check_etcd_data().unwrap_err().hint().unwrap();
        assert!(refused.contains("--etcd-snapshot") && !refused.contains("replace"), "{refused}");
    }

    #[tokio::test]
    async fn member_that_has_run_does_not_begin_anew_when_its_data_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let first = on_host(dir.path(), Some(&joined("8e9e")));
        assert_eq!(first.etcd_data_obstacle(None).unwrap(), None);
        first.prepare_etcd_data(None).await.unwrap();
        make_data(&first);
        let seen = on_host(dir.path(), Some(&EtcdOrigin { started: true, ..joined("8e9e") }));
        assert_eq!(seen.etcd_data_obstacle(None).unwrap(), None);
        // What etcd made is lost, and the file beside it is not.
        fs::remove_dir_all(seen.etcd_data().join("member")).unwrap();
        assert!(seen.etcd_data_obstacle(None).unwrap().is_some());
        assert!(seen.check_etcd_data().is_err());
        fs::remove_dir_all(seen.etcd_data()).unwrap();
        let hint = seen.etcd_data_obstacle(None).unwrap().unwrap().hint.unwrap();
        assert!(hint.contains("cellar etcd replace"), "{hint}");
        assert_eq!(seen.prepare_etcd_data(None).await.unwrap(), None);
        assert!(matches!(seen.check_etcd_data(), Err(ProvisionError::OtherEtcdData { .. })));
    }

    #[tokio::test]
    async fn member_that_began_with_the_cluster_and_was_seen_to_run_does_not_begin_anew() {
        let dir = tempfile::tempdir().unwrap();
        let first = on_host(dir.path(), None);
        assert_eq!(first.etcd_data_obstacle(None).unwrap(), None);
        first.check_etcd_data().unwrap();
        make_data(&first);
        let seen = on_host(dir.path(), Some(&EtcdOrigin::of_cluster("8e9e".to_owned())));
        assert_eq!(seen.etcd_data_obstacle(None).unwrap(), None);
        assert_eq!(seen.prepare_etcd_data(None).await.unwrap(), None);
        seen.check_etcd_data().unwrap();
        fs::remove_dir_all(seen.etcd_data()).unwrap();
        let hint = seen.etcd_data_obstacle(None).unwrap().unwrap().hint.unwrap();
        assert!(hint.contains("cellar etcd replace"), "{hint}");
        assert_eq!(seen.prepare_etcd_data(None).await.unwrap(), None);
        assert!(seen.check_etcd_data().unwrap_err().to_string().contains("gone"));
    }
}
