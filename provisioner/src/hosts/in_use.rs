//! Which certificates the hosts of a cluster use, as the operator's machine finds: those that were issued last, or others
//! still; and until when.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cellar_model::{CellName, HostName, Key, PoolerStatus, Ports, timestamp_ms};
use cellar_tls::{CA_CERTIFICATE, CertificateInfo, SERVER_CERTIFICATE};
use cellar_topology::Store;

use crate::certificates::set::CertificateSet;
use crate::certificates::sets::ADMIN_CERTIFICATE;
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;
use crate::hosts::host::open_host;

impl Cluster {
    /// Cells whose hosts do not use what was issued for them last, each with why.
    ///
    /// etcd and multiadmin are asked what they serve. A pooler tells until when the certificates are valid that it, PostgreSQL
    /// and pgBackRest use; each issue ends at another second.
    pub(crate) async fn hosts_behind(&self, store: &Store) -> Result<BTreeMap<CellName, String>> {
        let mut behind = BTreeMap::new();
        for cell in &self.state.cells {
            let Some(host) = &cell.host else { continue };
            let (name, directories) = (&cell.name, self.for_host(&cell.name));
            let mut problem = None;
            if host.etcd {
                let file = directories.etcd().join("tls").join(SERVER_CERTIFICATE);
                problem = self.not_in_use("etcd", &host.host, Ports::ETCD_CLIENT, &file).await?;
            }
            if host.multiadmin && problem.is_none() {
                let file = directories.multiadmin().join(ADMIN_CERTIFICATE);
                problem = self.not_in_use("multiadmin", &host.host, Ports::ADMIN_GRPC, &file).await?;
            }
            if problem.is_none() {
                let key = Key::Status(self.state.database.clone(), name.clone());
                let status = store.get::<PoolerStatus>(&key).await?.map(|found| found.record);
                problem = pooler_problem(status.as_ref(), self.first_end(name));
            }
            behind.extend(problem.map(|problem| (name.clone(), problem)));
        }
        Ok(behind)
    }

    /// Why a server of a host does not use the certificate in `issued`, or why that is not known; none when it uses it.
    async fn not_in_use(
        &self,
        what: &str,
        host: &HostName,
        port: u16,
        issued: &Path,
    ) -> Result<Option<String>> {
        let newest = CertificateInfo::from_file(issued)?.serial;
        Ok(match self.served_at(host, port).await {
            Ok(served) if served.serial == newest => None,
            Ok(served) => Some(format!(
                "its {what} uses the certificate {} and not {newest}, the newest",
                served.serial
            )),
            Err(reason) => Some(format!("its {what} cannot be asked which certificate it uses: {reason}")),
        })
    }

    /// Problems with the certificates of hosts: those that do not use the newest, and those that end soon. Nothing but people
    /// renews them, since no host has a key that signs.
    pub async fn certificate_findings(&self) -> Vec<Finding> {
        if self.is_local() {
            return Vec::new();
        }
        let mut findings = self.certificates_due(SystemTime::now());
        let behind = async { self.hosts_behind(&self.store().await?).await };
        let behind = behind.await.unwrap_or_else(|error| {
            findings.push(Finding {
                message: format!("it is not known whether the hosts use their newest certificates: {error}"),
                hint: Some("repeat the command when etcd answers (`cellar etcd status`)".to_owned()),
            });
            BTreeMap::new()
        });
        for (cell, why) in behind {
            let bundle = self.bundle_path(&cell);
            findings.push(Finding {
                message: format!("cell {cell}: {why}"),
                hint: Some(format!(
                    "scp {} root@{}: and there `cellar host install {cell}.bundle`",
                    bundle.display(),
                    self.host_of(&cell)
                )),
            });
        }
        findings
    }

    /// The hosts for which certificates were issued that end soon.
    #[must_use]
    pub fn certificates_due(&self, now: SystemTime) -> Vec<Finding> {
        let mut findings = Vec::new();
        let sets = self.certificate_sets().unwrap_or_default();
        for cell in self.state.cells.iter().filter(|cell| cell.host.is_some()).map(|cell| &cell.name) {
            let own = self.for_host(cell).root().to_owned();
            let files = sets
                .iter()
                .filter(|set| set.directory.starts_with(&own))
                .flat_map(CertificateSet::certificates);
            if let Some(text) = due_text(files, now) {
                findings
                    .push(Finding { message: format!("cell {cell}: {text}"), hint: Some(renewal_of(cell)) });
            }
        }
        findings
    }

    /// When the first of the certificates ends that were issued for a cell.
    fn first_end(&self, cell: &CellName) -> Option<SystemTime> {
        let set = self.cell_set(cell);
        let infos = set.certificates().filter_map(|file| CertificateInfo::from_file(&file).ok());
        infos.map(|info| info.not_after).min()
    }
}

/// How the certificates of a cell's host are renewed.
fn renewal_of(cell: &CellName) -> String {
    format!(
        "on the operator's machine `cellar cluster bundle {cell}`, and on the host `cellar host install {cell}.bundle`"
    )
}

/// When the first of these certificates ends, if that is soon.
fn due_text(files: impl Iterator<Item = PathBuf>, now: SystemTime) -> Option<String> {
    let due = files.filter_map(|file| CertificateInfo::from_file(&file).ok());
    let first = due.filter(|info| info.warning(now).is_some()).min_by_key(|info| info.not_after)?;
    let left = first.not_after.duration_since(now).unwrap_or_default().as_secs() / 3600;
    Some(match left {
        0 => "the certificates of its host have ended, or end within the hour".to_owned(),
        1..48 => format!("the certificates of its host end in {left} hours"),
        _ => format!("the certificates of its host end in {} days", left / 24),
    })
}

/// What there is to say of the certificates that are installed on this host: those that end soon, and what to do.
///
/// # Errors
/// When nothing is installed there.
pub fn installed_certificates_due(dir: &Path, now: SystemTime) -> Result<Option<String>> {
    let (cluster, cell) = open_host(dir)?;
    let tls = cluster.layout.cell(&cell).tls();
    let directories = [cluster.etcd_tls(), cluster.layout.multiadmin(), tls];
    let entries = directories.iter().flat_map(|one| std::fs::read_dir(one).into_iter().flatten().flatten());
    let files = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "crt") && !path.ends_with(CA_CERTIFICATE));
    Ok(due_text(files, now).map(|text| format!("{text}: {}", renewal_of(&cell))))
}

fn pooler_problem(status: Option<&PoolerStatus>, wanted: Option<SystemTime>) -> Option<String> {
    let Some(status) = status else { return Some("its multipooler does not report".to_owned()) };
    let wanted = wanted.and_then(|end| jiff::Timestamp::try_from(end).ok()).map(timestamp_ms);
    (status.certificate_expiry != wanted || wanted.is_none()).then(|| {
        let shown =
            status.certificate_expiry.map_or_else(|| "an unknown time".to_owned(), |end| end.to_string());
        format!("its multipooler uses certificates that end at {shown}, and not the newest")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::cell_host::CellHost;

    #[test]
    fn hosts_whose_certificates_end_soon_are_named_with_the_commands() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        for (n, cell) in cluster.state.cells.iter_mut().enumerate() {
            cell.host = Some(CellHost {
                host: format!("db{n}.test").parse().unwrap(),
                listen: "0.0.0.0".parse().unwrap(),
                directory: "/var/lib/cellar/demo".into(),
                etcd: n == 0,
                multiadmin: true,
            });
        }
        let (ca, trusted) = (cluster.authority().unwrap(), cluster.trusted().unwrap());
        for set in cluster.certificate_sets().unwrap() {
            set.ensure(&ca, &trusted).unwrap();
        }
        let day = Duration::from_secs(24 * 3600);
        let said = |days: u32| {
            let findings = cluster.certificates_due(SystemTime::now() + days * day);
            findings.into_iter().map(|one| (one.message, one.hint.unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(said(0), []);
        assert_eq!(said(330), []);
        let soon = said(345);
        assert_eq!(soon.len(), 2, "{soon:?}");
        assert!(soon[1].0.starts_with("cell zone2: the certificates of its host end in"), "{soon:?}");
        assert!(soon[1].1.contains("`cellar cluster bundle zone2`"), "{soon:?}");
        assert!(soon[1].1.contains("`cellar host install zone2.bundle`"), "{soon:?}");
        assert!(said(400)[0].0.contains("have ended"));
        // One that is renewed is not named any more.
        let _ = std::fs::remove_dir_all(cluster.for_host(&"zone1".parse().unwrap()).root());
        assert_eq!(said(345).len(), 1);
    }

    #[test]
    fn pooler_is_known_by_the_end_of_its_certificates() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let status = |expiry: &str| -> PoolerStatus {
            let text = serde_json::json!({
                "database": "app", "cell": "zone1", "epoch": "e", "certificateExpiry": expiry,
            });
            serde_json::from_value(text).unwrap()
        };
        let shown = jiff::Timestamp::try_from(end).unwrap().to_string();
        assert_eq!(pooler_problem(Some(&status(&shown)), Some(end)), None);
        let other = Some(end + Duration::from_secs(1));
        assert!(pooler_problem(Some(&status(&shown)), other).unwrap().contains(&shown));
        assert!(pooler_problem(None, other).unwrap().contains("does not report"));
        assert!(pooler_problem(Some(&status(&shown)), None).is_some());
    }
}
