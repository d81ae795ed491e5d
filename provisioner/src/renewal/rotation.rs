//! New keys and certificates for everything that runs, without stopping any of it.
//!
//! Servers look at their files every second, take up what is new, and are asked from outside whether they did. The
//! authority itself is replaced in steps of which each leaves a cluster that works, and of which the directory `ca`
//! tells how far they have come: trust both, sign with the new one, trust the new one alone.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_tls::{CA_CERTIFICATE, CA_KEY, Ca, exchange, forget_previous, generate_ca};

use crate::certificates::authority::OLD_AUTHORITY;
use crate::certificates::listing::ListedCertificate;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::paths::ISSUED;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::renewal::tls_port::Expected;

impl Cluster {
    /// New keys and certificates everywhere, and proof that they are served.
    pub(crate) async fn renew_leaves(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let (ca, trusted) = (Ca::load(&self.layout.ca())?, self.trusted()?);
        let (sets, ports) = (self.certificate_sets()?, self.tls_ports()?);
        for set in &sets {
            set.renew(&ca, &trusted)?;
        }
        steps.step(&format!("{} sets of keys and certificates are replaced", sets.len()));
        self.wait_for_ports(&ports, &ca, Expected::Serves, deadline).await?;
        steps.step("every server serves its new certificate");
        for set in &sets {
            forget_previous(&set.directory)?;
        }
        Ok(())
    }

    /// Tells everybody whom to trust. etcd reads that only at its start, so it is started again.
    async fn spread_trust(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let trusted = self.trusted()?;
        let _ = self.sign_revoked(&BTreeSet::new())?;
        for set in self.certificate_sets()? {
            set.trust(&trusted)?;
        }
        self.install_etcd_revocations()?;
        // An earlier run may have been ended while etcd was stopped.
        let runs = self.processes().iter().any(|process| process.pid.is_some());
        if self.stop_etcd().await? || runs {
            let started = self.start_etcd()?;
            let _ = self.wait_for_etcd(started, deadline).await?;
            steps.step("etcd is started again, which is how it reads whom to trust");
        }
        if self.haproxy_pid().is_some() {
            // So is HAProxy, which verifies whom it asks.
            self.ensure_route(steps, deadline).await?;
        }
        self.publish_revoked().await
    }

    /// Replaces the authority; goes on from wherever an earlier run was ended. Tells whether all other keys and
    /// certificates were replaced, too.
    pub(crate) async fn renew_authority(&self, deadline: Instant, steps: &Steps) -> Result<bool> {
        let directory = self.layout.ca();
        let (next, old) = (self.next_authority(), directory.join(OLD_AUTHORITY));
        // Else the last step was interrupted: all that is left is to trust the old one no more.
        let signs_anew = self.former_authority()?.is_none() || old.exists() || next.exists();
        if signs_anew {
            self.install_new_authority(deadline, steps).await?;
            self.renew_leaves(deadline, steps).await?;
            remove(&old)?;
        }
        let former = self.former_authority()?.map(|before| Ca::load(&before)).transpose()?;
        self.spread_trust(deadline, steps).await?;
        self.wait_for_ports(&self.tls_ports()?, &Ca::load(&directory)?, Expected::Trusts, deadline).await?;
        if let Some(former) = former {
            self.wait_for_ports(&self.tls_ports()?, &former, Expected::Refuses, deadline).await?;
        }
        self.forget_issued_before()?;
        forget_previous(&directory)?;
        steps.step("nothing trusts the old authority any more, and its key is removed");
        Ok(signs_anew)
    }

    /// The first half: a new authority that everybody trusts beside the old one, and that signs from then on.
    async fn install_new_authority(&self, deadline: Instant, steps: &Steps) -> Result<()> {
        let directory = self.layout.ca();
        let (next, old) = (self.next_authority(), directory.join(OLD_AUTHORITY));
        if !old.exists() {
            let new = generate_ca(&next, &self.state.cluster)?;
            self.spread_trust(deadline, steps).await?;
            self.wait_for_ports(&self.tls_ports()?, &new, Expected::Trusts, deadline).await?;
            steps.step("every server trusts the old authority and the new one");
            self.let_next_sign()?;
            steps.step("the new authority signs");
        }
        self.issue_delegate(&Ca::load(&directory)?)
    }

    /// Puts the next authority into the place of the present one, which stays trusted. Copies of what the present one
    /// issued to people and programs go along in the same step: that is valid, and must be listed and revocable, as long
    /// as its authority is trusted.
    fn let_next_sign(&self) -> Result<()> {
        let (directory, next) = (self.layout.ca(), self.next_authority());
        let present = Ca::load(&directory)?;
        exchange(&directory, None, |to| {
            for (file, mode) in [(CA_KEY, 0o600), (CA_CERTIFICATE, 0o644)] {
                copy(&next.join(file), &to.join(file), mode)?;
            }
            for (from, name) in files(&self.issued())? {
                let copies = to.join(ISSUED);
                make_directory(&copies, 0o700, None)?;
                copy(&from, &copies.join(name), 0o644)?;
            }
            replace(&to.join(OLD_AUTHORITY), present.pem(), 0o644, None)
        })
    }

    /// Removes the copies of what the old authority issued: nothing accepts the certificates any more.
    fn forget_issued_before(&self) -> Result<()> {
        let Some(former) = self.former_authority()? else { return Ok(()) };
        for (_, name) in files(&former.join(ISSUED))? {
            let copied = self.issued().join(name);
            match std::fs::remove_file(&copied) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(ProvisionError::io("remove", &copied)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// The files of a directory and their names; none when there is no such directory.
fn files(directory: &Path) -> Result<Vec<(PathBuf, OsString)>> {
    match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => {
            let entries = entries.map_err(ProvisionError::io("read", directory))?.flatten();
            Ok(entries.map(|entry| (entry.path(), entry.file_name())).collect())
        }
    }
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let text = std::fs::read_to_string(from).map_err(ProvisionError::io("read", from))?;
    replace(to, &text, mode, None)
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(ProvisionError::io("remove", path))
}

/// New keys and certificates for the cluster in `dir`, and with `authority` a new authority too. Repeating it after it
/// was ended goes on from there.
///
/// # Errors
/// When a server does not take its new certificates up by the deadline; the old ones go on being served then.
pub async fn rotate(
    dir: &Path,
    authority: bool,
    timeout: Duration,
    steps: &Steps,
) -> Result<Vec<ListedCertificate>> {
    let deadline = Instant::now() + timeout;
    let (cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    cluster.check_is_local("cellar certs rotate")?;
    let ca = cluster.layout.ca();
    let halfway = [cluster.next_authority(), ca.join(OLD_AUTHORITY)].iter().any(|path| path.exists())
        || cluster.former_authority()?.is_some();
    if halfway {
        steps.step("the authority is being replaced: going on");
    }
    let renewed = match authority || halfway {
        true => cluster.renew_authority(deadline, steps).await?,
        false => false,
    };
    // Whatever was left of an earlier run, who asks for new keys gets them.
    if !renewed {
        cluster.renew_leaves(deadline, steps).await?;
    }
    Ok(cluster.certificates())
}

#[cfg(test)]
mod tests {
    use cellar_model::OperatorRole;
    use cellar_tls::leftovers;

    use super::*;

    #[test]
    fn what_the_old_authority_issued_is_listed_until_it_is_forgotten() {
        for ended_right_after_the_exchange in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let cluster = Cluster::sample(dir.path(), &["zone1"]);
            let directory = cluster.layout.ca();
            let old = cluster.authority().unwrap();
            let issue = |name: &str| {
                let out = dir.path().join(name);
                cluster.issue_operator(OperatorRole::Viewer, &[], name, None, &out).unwrap().serial
            };
            let listed = || {
                let listed = cluster.certificates().into_iter().map(|one| one.info.unwrap());
                let people = listed.filter(|info| !info.authority);
                people.map(|info| info.serial).collect::<BTreeSet<_>>()
            };
            let signers = || -> Vec<String> {
                cluster.signers().unwrap().iter().map(|ca| ca.pem().to_owned()).collect()
            };
            let before = issue("before");
            let new = generate_ca(&cluster.next_authority(), &cluster.state.cluster).unwrap();
            // What an exchange that was ended before it exchanged anything leaves is no authority.
            let [previous, next] = leftovers(&directory);
            std::fs::create_dir(&next).unwrap();
            for file in [CA_KEY, CA_CERTIFICATE] {
                copy(&cluster.next_authority().join(file), &next.join(file), 0o600).unwrap();
                assert_eq!(cluster.former_authority().unwrap(), None);
            }

            cluster.let_next_sign().unwrap();
            if ended_right_after_the_exchange {
                std::fs::rename(&previous, &next).unwrap();
            }
            assert_eq!(
                cluster.former_authority().unwrap(),
                Some(if next.exists() { next } else { previous })
            );
            assert_eq!(listed(), [before.clone()].into());
            assert_eq!(signers(), [new.pem(), old.pem()]);
            let after = issue("after");
            assert_eq!(listed(), [before, after.clone()].into());
            remove(&directory.join(OLD_AUTHORITY)).unwrap();
            for _ in 0..2 {
                cluster.forget_issued_before().unwrap();
                assert_eq!(listed(), [after.clone()].into());
            }
            // Ended in the middle of the removal of what is the old authority's.
            let former = cluster.former_authority().unwrap().unwrap();
            let [_, next] = leftovers(&directory);
            if former != next {
                std::fs::rename(&former, &next).unwrap();
            }
            remove(&next.join(CA_KEY)).unwrap();
            assert_eq!(cluster.former_authority().unwrap(), None);
            forget_previous(&directory).unwrap();
            cluster.forget_issued_before().unwrap();
            assert_eq!(listed(), [after].into());
            assert!(!next.exists());
            assert_eq!(cluster.former_authority().unwrap(), None);
        }
    }
}
