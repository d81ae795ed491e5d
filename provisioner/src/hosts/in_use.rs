//! Which certificates the hosts of a cluster use, as the operator's machine finds: those that were issued last, or others
//! still.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use cellar_model::{CellName, HostName, Key, PoolerStatus, Ports, timestamp_ms};
use cellar_tls::{CertificateInfo, SERVER_CERTIFICATE};
use cellar_topology::Store;
use futures_util::future::try_join_all;

use crate::certificates::sets::ADMIN_CERTIFICATE;
use crate::cluster::cell_host::CellHost;
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::Result;

/// Why a server of a host is not known to use the newest certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Deviation {
    /// It uses another one.
    Other(String),
    /// It cannot be asked.
    Silent(String),
}

/// What of a host is not known to use the certificates that were issued for it last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// What uses another certificate, each with which.
    pub(crate) other: Vec<String>,
    /// What cannot be asked, each with why: it does not run, or the host is off or cut off.
    pub(crate) silent: Vec<String>,
}

impl Behind {
    fn of(deviations: impl IntoIterator<Item = Deviation>) -> Self {
        let mut behind = Self::default();
        for deviation in deviations {
            match deviation {
                Deviation::Other(text) => behind.other.push(text),
                Deviation::Silent(text) => behind.silent.push(text),
            }
        }
        behind
    }

    fn is_none(&self) -> bool {
        self.other.is_empty() && self.silent.is_empty()
    }

    /// Whether nothing is known to use another certificate, and something cannot be asked.
    pub(crate) fn is_silent(&self) -> bool {
        self.other.is_empty() && !self.silent.is_empty()
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.other.iter().chain(&self.silent).map(String::as_str).collect();
        f.write_str(&all.join(", and "))
    }
}

impl Cluster {
    /// Cells whose hosts are not known to use what was issued for them last.
    ///
    /// etcd and multiadmin are asked what they serve. A pooler tells until when the certificates are valid that it, PostgreSQL
    /// and pgBackRest use; each issue ends at another second.
    pub(crate) async fn hosts_behind(&self, store: &Store) -> Result<BTreeMap<CellName, Behind>> {
        let on_hosts = self.state.cells.iter().filter_map(|cell| Some((&cell.name, cell.host.as_ref()?)));
        // All at once: each that is silent takes some seconds.
        let looked = try_join_all(on_hosts.map(|(cell, host)| async move {
            Ok::<_, crate::error::provision_error::ProvisionError>((
                cell.clone(),
                self.host_behind(store, cell, host).await?,
            ))
        }));
        Ok(looked.await?.into_iter().filter(|(_, behind)| !behind.is_none()).collect())
    }

    async fn host_behind(&self, store: &Store, cell: &CellName, host: &CellHost) -> Result<Behind> {
        let directories = self.for_host(cell);
        let files = (
            directories.etcd().join("tls").join(SERVER_CERTIFICATE),
            directories.multiadmin().join(ADMIN_CERTIFICATE),
        );
        let etcd = async {
            match host.etcd {
                true => self.not_in_use("etcd", &host.host, Ports::ETCD_CLIENT, &files.0).await,
                false => Ok(None),
            }
        };
        let multiadmin = async {
            match host.multiadmin {
                true => self.not_in_use("multiadmin", &host.host, Ports::ADMIN_GRPC, &files.1).await,
                false => Ok(None),
            }
        };
        let key = Key::Status(self.state.database.clone(), cell.clone());
        let (etcd, multiadmin, status) = tokio::join!(etcd, multiadmin, store.get::<PoolerStatus>(&key));
        let status = status?.map(|found| found.record);
        let pooler = pooler_deviation(status.as_ref(), self.first_end(cell));
        Ok(Behind::of([etcd?, multiadmin?, pooler].into_iter().flatten()))
    }

    /// Why a server of a host is not known to use the certificate in `issued`; none when it uses it.
    async fn not_in_use(
        &self,
        what: &str,
        host: &HostName,
        port: u16,
        issued: &Path,
    ) -> Result<Option<Deviation>> {
        let newest = CertificateInfo::from_file(issued)?.serial;
        Ok(match self.served_at(host, port).await {
            Ok(served) if served.serial == newest => None,
            Ok(served) => Some(Deviation::Other(format!(
                "its {what} uses the certificate {} and not {newest}, the newest",
                served.serial
            ))),
            Err(reason) => Some(Deviation::Silent(format!(
                "its {what} cannot be asked which certificate it uses: {reason}"
            ))),
        })
    }

    /// Problems with the certificates of hosts: those that do not use the newest, and those that end soon. What is silent is
    /// no problem of its certificates, unless it was off when some were revoked.
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
        findings.extend(self.other_findings(&behind));
        findings
    }

    /// A problem for each host that is known to use other certificates than the newest, or may need them to be let in.
    fn other_findings(&self, behind: &BTreeMap<CellName, Behind>) -> Vec<Finding> {
        let message = |(cell, behind): (&CellName, &Behind)| match behind.other.as_slice() {
            [] if self.state.not_waited_for.contains(cell) => Some(format!(
                "its host was off when a certificate was revoked, and has not been seen to use new ones since: {behind}"
            )),
            [] => None,
            other => Some(other.join(", and ")),
        };
        let finding = |one: (&CellName, &Behind)| {
            let message = format!("cell {}: {}", one.0, message(one)?);
            Some(Finding { message, hint: Some(self.installation_of(one.0)) })
        };
        behind.iter().filter_map(finding).collect()
    }

    /// Forgets that hosts were off when a certificate was revoked which use new ones now; whether there were any.
    pub(crate) fn note_not_waited_for(&mut self, behind: &BTreeMap<CellName, Behind>) -> bool {
        let before = self.state.not_waited_for.len();
        self.state.not_waited_for.retain(|cell| behind.contains_key(cell));
        self.state.not_waited_for.len() != before
    }

    /// When the first of the certificates ends that were issued for a cell.
    fn first_end(&self, cell: &CellName) -> Option<SystemTime> {
        let set = self.cell_set(cell);
        let infos = set.certificates().filter_map(|file| CertificateInfo::from_file(&file).ok());
        infos.map(|info| info.not_after).min()
    }
}

fn pooler_deviation(status: Option<&PoolerStatus>, wanted: Option<SystemTime>) -> Option<Deviation> {
    let Some(status) = status else {
        return Some(Deviation::Silent("its multipooler does not report".to_owned()));
    };
    let wanted = wanted.and_then(|end| jiff::Timestamp::try_from(end).ok()).map(timestamp_ms);
    (status.certificate_expiry != wanted || wanted.is_none()).then(|| {
        let shown =
            status.certificate_expiry.map_or_else(|| "an unknown time".to_owned(), |end| end.to_string());
        Deviation::Other(format!("its multipooler uses certificates that end at {shown}, and not the newest"))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn pooler_is_known_by_the_end_of_its_certificates() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let status = |expiry: &str| -> PoolerStatus {
            let text = serde_json::json!({
                "database": "app", "cell": "zone1", "epoch": "e", "certificateExpiry": expiry,
            });
            serde_json::from_value(text).unwrap()
        };
        let other = |status: Option<&PoolerStatus>, wanted| match pooler_deviation(status, wanted) {
            Some(Deviation::Other(text)) => text,
            found => panic!("{found:?}"),
        };
        let shown = jiff::Timestamp::try_from(end).unwrap().to_string();
        assert_eq!(pooler_deviation(Some(&status(&shown)), Some(end)), None);
        let later = Some(end + Duration::from_secs(1));
        assert!(other(Some(&status(&shown)), later).contains(&shown));
        assert!(other(Some(&status(&shown)), None).contains("not the newest"));
        let silent = pooler_deviation(None, later);
        assert!(matches!(silent, Some(Deviation::Silent(text)) if text.contains("does not report")));
    }

    #[test]
    fn silent_host_is_no_problem_of_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::sample(dir.path(), &["zone1", "zone2", "zone3"]);
        let other = |text: &str| Deviation::Other(text.to_owned());
        let silent = |text: &str| Deviation::Silent(text.to_owned());
        let behind = [
            ("zone1", Behind::of([silent("no etcd"), silent("no report")])),
            ("zone2", Behind::of([silent("no etcd"), other("an old one")])),
        ];
        let behind = behind.map(|(cell, behind)| (cell.parse().unwrap(), behind)).into();
        let found = cluster.other_findings(&behind);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].message, "cell zone2: an old one");
        let hint = found[0].hint.as_deref().unwrap();
        assert!(hint.contains("`cellar host install zone2.bundle && rm zone2.bundle`"), "{hint}");
    }

    #[test]
    fn host_that_was_off_during_a_revocation_is_named_until_it_uses_new_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1", "zone2"]);
        let silent =
            |cell: &str| (cell.parse().unwrap(), Behind::of([Deviation::Silent("no report".to_owned())]));
        let behind: BTreeMap<CellName, Behind> = [silent("zone1"), silent("zone2")].into();
        cluster.state.not_waited_for.insert("zone2".parse().unwrap());
        assert!(!cluster.note_not_waited_for(&behind));
        let found = cluster.other_findings(&behind);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].message.starts_with("cell zone2: its host was off"), "{found:?}");
        let hosts = serde_json::to_string(&cluster.state.for_hosts()).unwrap();
        assert!(!hosts.contains("notWaitedFor"), "an older cellar on a host reads it: {hosts}");
        assert!(cluster.note_not_waited_for(&BTreeMap::new()));
        assert!(cluster.other_findings(&behind).is_empty());
    }
}
