//! Putting a snapshot back into the etcd of a cluster on hosts that has lost its majority. On the operator's machine the
//! snapshot's records are brought up to the present with an etcd that nobody else sees, and become another snapshot; all
//! members then begin with that one, each when its bundle is installed.
//!
//! A majority of the hosts must have begun with it before anything can be written, so members with the old data, wherever
//! they come back, are too few for a majority of their own.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::Key;
use cellar_system::clock;
use cellar_tls::install_revocations;

use crate::cluster::blocking::blocking;
use crate::cluster::etcd_origin::{EtcdBeginning, EtcdOrigin, FormerEtcd};
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::records::RepairedRecords;
use crate::etcd::restore::{RestoreMark, check_whole};
use crate::etcd::status::{EtcdHealth, etcd_health};
use crate::etcd::tool::SnapshotContent;
use crate::file::make_directory;
use crate::hosts::init::Bundles;
use crate::local::down::remove_tree;

/// What was prepared for the hosts.
#[derive(Debug, Clone)]
pub struct PreparedEtcd {
    /// What the snapshot holds that was given.
    pub content: SnapshotContent,
    /// What was changed in its records.
    pub repaired: RepairedRecords,
    /// The snapshot that all members begin with.
    pub snapshot: PathBuf,
    /// Where each host's bundle is.
    pub bundles: Bundles,
}

/// Prepares a snapshot and all bundles, with which the members of etcd begin anew. Nothing is changed on any host. Repeating
/// it prepares another restore, and what was installed of the earlier one is to be installed again.
///
/// # Errors
/// When etcd has a majority, the file is no whole snapshot, or its records cannot be brought up to the present.
pub async fn restore_etcd_on_hosts(
    dir: &Path,
    snapshot: &Path,
    timeout: Duration,
    steps: &Steps,
) -> Result<PreparedEtcd> {
    let deadline = Instant::now() + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    let endpoints = cluster.etcd_status().await?;
    if !matches!(etcd_health(&endpoints), EtcdHealth::Lost(_)) {
        return Err(ProvisionError::EtcdWorks { dir: dir.to_owned() });
    }
    let file = snapshot.to_owned();
    blocking(move || check_whole(&file)).await?;
    cluster.issue_private_etcd()?;
    let (content, restored) = cluster.make_restored_data(snapshot, deadline).await?;
    steps.step(&format!("the snapshot can be read (revision {})", content.revision));
    let prepared = cluster.layout.root().join("bundles").join("etcd.db");
    make_directory(&cluster.layout.root().join("bundles"), 0o700, None)?;
    let mark = RestoreMark { id: clock::new_id() };
    let repaired = cluster.repair_restored(&restored, Some((&prepared, &mark)), deadline).await?;
    steps.step("its records fit the cells that are there");
    remove_tree(&cluster.layout.etcd())?;
    let file = prepared.clone();
    let sha256 = blocking(move || check_whole(&file)).await?;
    cluster.adopt_restore(mark.id, &sha256);
    cluster.state.save(&cluster.layout)?;
    let cells: Vec<_> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&cells, false)?;
    Ok(PreparedEtcd { content, repaired, snapshot: prepared, bundles: Bundles { cluster, bundles } })
}

impl Cluster {
    /// Records that all members are to begin with a restore, and what they began with before.
    fn adopt_restore(&mut self, restore: uuid::Uuid, sha256: &str) {
        let members: Vec<_> = self.etcd_hosts().into_iter().map(|(cell, _)| cell.clone()).collect();
        let origin = |cell| (cell, EtcdOrigin::restored(restore.to_string(), sha256.to_owned()));
        let origins =
            std::mem::replace(&mut self.state.etcd_origins, members.into_iter().map(origin).collect());
        let restore = self.state.etcd_restore.replace(restore);
        self.state.former_etcd.push(FormerEtcd { restore, origins });
    }

    /// Learns from etcd, when it works, whether the members began with the restore that was prepared last. If they did not,
    /// it is taken back: the bundles would make members begin anew whose data is there and in use. Gives whether it was.
    ///
    /// # Errors
    /// When the bundles cannot be issued again. Whether etcd answers is no concern of this.
    pub(super) async fn settle_restore(&mut self, steps: &Steps) -> Result<bool> {
        if self.state.former_etcd.is_empty() {
            return Ok(false);
        }
        let found = match self.store().await?.get::<RestoreMark>(&Key::EtcdRestore).await {
            Ok(found) => found.map(|found| found.record.id),
            Err(error) if error.is_retryable() => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let is_taken_back = self.decide_restore(found);
        self.state.save(&self.layout)?;
        if is_taken_back {
            steps.step("etcd works with data from before the restore that was prepared: that is taken back, and the bundles are issued again");
            let all: Vec<_> = self.state.cells.iter().map(|cell| cell.name.clone()).collect();
            let _ = self.issue_bundles(&all, false)?;
        }
        Ok(is_taken_back)
    }

    /// The same, before bundles are issued: as long as it is not known whether the members began with the restore, they might
    /// make one begin anew whose data is there and in use.
    ///
    /// # Errors
    /// When that is not known because etcd does not answer, too.
    pub(super) async fn require_settled_restore(&mut self, steps: &Steps) -> Result<()> {
        let _ = self.settle_restore(steps).await?;
        match self.state.former_etcd.is_empty() {
            true => Ok(()),
            false => Err(ProvisionError::RestoreUnsettled { dir: self.layout.root().to_owned() }),
        }
    }

    /// Takes what the members began with from what etcd's data says; whether the last restore is taken back.
    fn decide_restore(&mut self, found: Option<uuid::Uuid>) -> bool {
        let former = std::mem::take(&mut self.state.former_etcd);
        if found == self.state.etcd_restore {
            return false;
        }
        // Data of a restore from before such marks has none.
        let by_mark = former.iter().rev().find(|one| one.restore == found).or_else(|| former.first());
        let Some(FormerEtcd { restore, origins }) = by_mark.cloned() else { return false };
        self.state.etcd_restore = restore;
        // A member that was replaced meanwhile is the newer one.
        for (cell, origin) in std::mem::replace(&mut self.state.etcd_origins, origins) {
            if origin.from == EtcdBeginning::Joined {
                self.state.etcd_origins.insert(cell, origin);
            }
        }
        true
    }

    /// The certificates of an etcd that runs here for a moment.
    fn issue_private_etcd(&self) -> Result<()> {
        // What an interrupted restore left.
        remove_tree(&self.layout.etcd())?;
        make_directory(&self.layout.log(), 0o750, None)?;
        self.private_etcd_set().ensure(&self.authority()?, &self.trusted()?)?;
        let lists = self.sign_revoked(&std::collections::BTreeSet::new())?;
        install_revocations(&self.etcd_tls(), &lists, None)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::cells::remove_cell_on_host;
    use crate::hosts::init::bundle_hosts;
    use crate::hosts::revoke::revoke_on_hosts;

    fn on_hosts(dir: &Path) -> Cluster {
        let mut cluster = Cluster::on_hosts(dir, &["zone1", "zone2"]);
        let origins = ["1", "2"].map(|id| EtcdOrigin::of_cluster(id.to_owned()));
        let cells = cluster.state.cells.iter().map(|cell| cell.name.clone());
        cluster.state.etcd_origins = cells.zip(origins).collect();
        cluster
    }

    #[test]
    fn restore_that_no_host_has_installed_is_taken_back_when_etcd_works() {
        let dir = tempfile::tempdir().unwrap();
        let before = on_hosts(dir.path());
        let [one, two] = [1, 2].map(uuid::Uuid::from_u128);
        // The data has no mark: it is from before the first of two restores.
        let mut cluster = before.clone();
        cluster.adopt_restore(one, "00ff");
        cluster.adopt_restore(two, "11ff");
        assert!(cluster.decide_restore(None));
        assert_eq!(cluster.state, before.state);
        // The first was installed, and the second not.
        cluster.adopt_restore(one, "00ff");
        let first = cluster.state.clone();
        cluster.adopt_restore(two, "11ff");
        assert!(cluster.decide_restore(Some(one)));
        assert_eq!(cluster.state.etcd_origins, first.etcd_origins);
        assert_eq!((cluster.state.etcd_restore, cluster.state.former_etcd.len()), (Some(one), 0));
        // The last one was installed.
        cluster.adopt_restore(two, "11ff");
        let last = cluster.state.etcd_origins.clone();
        assert!(!cluster.decide_restore(Some(two)));
        assert_eq!((cluster.state.etcd_origins, cluster.state.former_etcd.len()), (last, 0));
    }

    #[tokio::test]
    async fn no_bundle_is_issued_while_it_is_not_known_whether_a_restore_was_installed() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = on_hosts(dir.path());
        let cells: Vec<_> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
        let _ = cluster.authority().unwrap();
        std::fs::create_dir_all(cluster.layout.state()).unwrap();
        let _ = cluster.issue_bundles(&cells, false).unwrap();
        cluster.adopt_restore(uuid::Uuid::from_u128(1), "00ff");
        cluster.state.save(&cluster.layout).unwrap();
        let bundle = || std::fs::read(cluster.bundle_path(&cells[0])).unwrap();
        let (before, steps) = (bundle(), Steps::new(|_, _| {}));
        let refused = [
            bundle_hosts(dir.path(), &[], false, &steps).await.map(drop),
            bundle_hosts(dir.path(), &cells[..1], true, &steps).await.map(drop),
            remove_cell_on_host(dir.path(), &cells[0], &steps).await.map(drop),
            revoke_on_hosts(dir.path(), "00ff", true, Duration::from_secs(5), &steps).await.map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert!(matches!(error, ProvisionError::RestoreUnsettled { .. }), "{error:?}");
            assert!(error.hint().unwrap().contains("`cellar cluster wait`"), "{error:?}");
        }
        assert_eq!(bundle(), before);
        assert_eq!(Cluster::open(dir.path()).unwrap().state.revoking, None);
    }

    #[test]
    fn members_of_a_restore_count_as_started_only_when_etcd_has_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = on_hosts(dir.path());
        cluster.adopt_restore(uuid::Uuid::from_u128(1), "00ff");
        let seen: Vec<_> = cluster.state.cells.iter().map(|cell| (cell.name.clone(), 7)).collect();
        assert!(!cluster.note_started_members(&seen));
        assert!(cluster.state.etcd_origins.values().all(|origin| !origin.started));
        cluster.decide_restore(Some(uuid::Uuid::from_u128(1)));
        assert!(cluster.note_started_members(&seen));
        assert!(cluster.state.etcd_origins.values().all(|origin| origin.started));
        assert!(!cluster.note_started_members(&seen), "nothing is new");
    }

    #[test]
    fn bundle_of_a_member_that_runs_never_lets_it_begin_anew_also_after_an_interruption() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = on_hosts(dir.path());
        cluster.state.etcd_origins.clear();
        let cells: Vec<_> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
        let _ = cluster.authority().unwrap();
        std::fs::create_dir_all(cluster.layout.state()).unwrap();
        let _ = cluster.issue_bundles(&cells, false).unwrap();
        assert_eq!(cluster.bundles_that_begin_anew(), []);
        // Recorded, and ended before the bundles were written.
        assert!(cluster.note_started_members(&[(cells[0].clone(), 7)]));
        cluster.state.save(&cluster.layout).unwrap();
        let mut next = Cluster::assemble(cluster.layout.clone(), cluster.state.clone()).unwrap();
        assert_eq!(next.bundles_that_begin_anew(), cells[..1]);
        let _ = next.issue_bundles(&cells[..1], false).unwrap();
        assert_eq!(next.bundles_that_begin_anew(), []);
    }
}
