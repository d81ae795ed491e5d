//! Which certificates the hosts of a cluster use, as the operator's machine finds: those that were issued last, or others
//! still.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::SystemTime;

use cellar_model::{Cell, CellName, DatabaseName, HostName, Key, PoolerStatus, Ports, timestamp_ms};
use cellar_tls::{CertificateInfo, ClientTls, ProbeProtocol, SERVER_CERTIFICATE};
use cellar_topology::Store;
use futures_util::future::try_join_all;

use crate::certificates::set::CertificateSet;
use crate::certificates::sets::ADMIN_CERTIFICATE;
use crate::cluster::cell_host::CellHost;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::servers::probe_server;

/// Which certificate a server of a host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Use {
    /// The newest.
    Newest,
    /// Another one.
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
    /// Whether something of the host has answered, be it with the newest.
    pub(crate) answers: bool,
}

impl Behind {
    fn of(found: impl IntoIterator<Item = Use>) -> Self {
        let mut behind = Self::default();
        for one in found {
            behind.answers |= !matches!(one, Use::Silent(_));
            match one {
                Use::Newest => {}
                Use::Other(text) => behind.other.push(text),
                Use::Silent(text) => behind.silent.push(text),
            }
        }
        behind
    }

    fn is_none(&self) -> bool {
        self.other.is_empty() && self.silent.is_empty()
    }

    /// Whether nothing of the host has answered. Where something does, what is silent may only not report, and its PostgreSQL
    /// go on accepting what is revoked.
    pub(crate) fn is_silent(&self) -> bool {
        !self.answers && !self.silent.is_empty()
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.other.iter().chain(&self.silent).map(String::as_str).collect();
        f.write_str(&all.join(", and "))
    }
}

impl Cluster {
    /// Whether something is here that a cell's host is given: nothing is when its removal or addition was interrupted.
    pub(super) fn has_files_of(&self, cell: &CellName) -> bool {
        self.for_host(cell).root().exists()
    }

    /// A problem for each cell whose host's certificates are not here.
    pub(super) fn unissued(&self) -> Vec<Finding> {
        let on_hosts = self.state.cells.iter().filter(|cell| cell.host.is_some()).map(|cell| &cell.name);
        let finding = |cell: &CellName| Finding {
            message: format!(
                "cell {cell}: the certificates of its host are not here: its removal or addition was interrupted"
            ),
            hint: Some(format!(
                "`cellar cells remove {cell}` finishes its removal; if it is to stay, `cellar cluster bundle {cell}` issues them"
            )),
        };
        let sets = self.certificate_sets().unwrap_or_default();
        let lacks = |cell: &CellName| {
            let own = self.for_host(cell).root().to_owned();
            let of_cell = sets.iter().filter(|set| set.directory.starts_with(&own));
            of_cell.flat_map(CertificateSet::certificates).any(|file| !file.exists())
        };
        on_hosts.filter(|cell| lacks(cell)).map(finding).collect()
    }

    /// Cells whose hosts are not known to use what was issued for them last. Where nothing is, nothing is known.
    ///
    /// etcd and multiadmin are asked what they serve. A pooler tells until when the certificates are valid that it, PostgreSQL
    /// and pgBackRest use; each issue ends at another second.
    pub(crate) async fn hosts_behind(&self, store: &Store) -> Result<BTreeMap<CellName, Behind>> {
        let on_hosts = self.state.cells.iter().filter_map(|cell| Some((&cell.name, cell.host.as_ref()?)));
        // All at once: each that is silent takes some seconds.
        let on_hosts = on_hosts.filter(|(cell, _)| self.has_files_of(cell));
        let looked = try_join_all(on_hosts.map(|(cell, host)| async move {
            Ok::<_, ProvisionError>((cell.clone(), self.host_behind(store, cell, host).await?))
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
                true => {
                    let port = self.port(Ports::ETCD_CLIENT)?;
                    self.certificate_use("etcd", &host.host, port, ProbeProtocol::Grpc, &files.0)
                        .await
                        .map(Some)
                }
                false => Ok(None),
            }
        };
        let multiadmin = async {
            match host.multiadmin {
                true => {
                    let port = self.port(Ports::ADMIN_GRPC)?;
                    let protocol = ProbeProtocol::Grpc;
                    self.certificate_use("multiadmin", &host.host, port, protocol, &files.1).await.map(Some)
                }
                false => Ok(None),
            }
        };
        let members = self.state.members_in(cell);
        let poolers = try_join_all(members.iter().map(|member| self.uses_of_member(store, member, host)));
        let (etcd, multiadmin, poolers) = tokio::join!(etcd, multiadmin, poolers);
        let all = [etcd?, multiadmin?].into_iter().flatten().chain(poolers?.into_iter().flatten());
        Ok(Behind::of(all))
    }

    /// Which certificates the pooler of a member uses, and its PostgreSQL where the pooler does not report.
    async fn uses_of_member(&self, store: &Store, member: &Member, host: &CellHost) -> Result<Vec<Use>> {
        let Member { cell, database } = member;
        let key = Key::Status(database.clone(), cell.clone());
        let status = store.get::<PoolerStatus>(&key).await?.map(|found| found.record);
        let pooler = match status {
            None if store.get::<Cell>(&Key::Cell(cell.clone())).await?.is_none() => Use::Silent(format!(
                "the topology does not have it (`cellar cells remove {cell}` finishes a removal that was interrupted)"
            )),
            _ => use_of_pooler(&self.of_database(database), status.as_ref(), self.first_end(member)),
        };
        let postgres = match status {
            Some(_) => None,
            None => self.use_of_postgres(member, host).await?,
        };
        Ok([Some(pooler), postgres].into_iter().flatten().collect())
    }

    /// What completes the name of a program of a host: of which database it is, where there are several.
    fn of_database(&self, database: &DatabaseName) -> String {
        match self.state.has_several_databases() {
            false => String::new(),
            true => format!(" of database {database}"),
        }
    }

    /// Which certificate a server of a host uses, against the one in `issued`.
    async fn certificate_use(
        &self,
        what: &str,
        host: &HostName,
        port: u16,
        protocol: ProbeProtocol,
        issued: &Path,
    ) -> Result<Use> {
        // Part of them may have been removed, and it is not known of what its host uses that it is the newest.
        let newest = match CertificateInfo::from_file(issued) {
            Ok(info) => info.serial,
            Err(error) => {
                return Ok(Use::Other(format!("what was issued for its {what} is not known: {error}")));
            }
        };
        let client = ClientTls::from_dir(&self.etcd_client_tls())?;
        Ok(match probe_server(host, port, protocol, &client).await.map(|probed| probed.served.serial) {
            Ok(served) if served == newest => Use::Newest,
            Ok(served) => {
                Use::Other(format!("its {what} uses the certificate {served} and not {newest}, the newest"))
            }
            Err(reason) => {
                Use::Silent(format!("its {what} cannot be asked which certificate it uses: {reason}"))
            }
        })
    }

    /// Which certificate the PostgreSQL of a member uses whose multipooler does not report: it may run without it. None when it
    /// does not answer.
    async fn use_of_postgres(&self, member: &Member, host: &CellHost) -> Result<Option<Use>> {
        let known = (self.state.cell(&member.cell), self.state.database(&member.database));
        let (Some(cell), Some(database)) = known else { return Ok(None) };
        let port = self.pooler(database, cell)?.postgres_port;
        let issued = self.keys_of(member).tls().join(SERVER_CERTIFICATE);
        let what = format!("PostgreSQL{}", self.of_database(&member.database));
        let found = self.certificate_use(&what, &host.host, port, ProbeProtocol::Postgres, &issued).await?;
        Ok((!matches!(found, Use::Silent(_))).then_some(found))
    }

    /// Problems with the certificates of hosts: those that do not use the newest, and those that end soon. What is silent is
    /// no problem of its certificates, unless it was off when some were revoked.
    pub async fn certificate_findings(&self) -> Vec<Finding> {
        if self.is_local() {
            return Vec::new();
        }
        let mut findings = self.certificates_due(SystemTime::now());
        findings.extend(self.unissued());
        let behind = async { self.hosts_behind(&self.store().await?).await };
        let behind = behind.await.unwrap_or_else(|error| {
            findings.push(unknown_use(&error));
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

    /// When the first of the certificates ends that were issued for a member.
    fn first_end(&self, member: &Member) -> Option<SystemTime> {
        let set = self.member_set(member);
        let infos = set.certificates().filter_map(|file| CertificateInfo::from_file(&file).ok());
        infos.map(|info| info.not_after).min()
    }
}

/// That the hosts could not be looked at.
pub(super) fn unknown_use(error: &ProvisionError) -> Finding {
    Finding {
        message: format!("it is not known whether the hosts use their newest certificates: {error}"),
        hint: Some("repeat the command when etcd answers (`cellar etcd status`)".to_owned()),
    }
}

fn use_of_pooler(of_database: &str, status: Option<&PoolerStatus>, wanted: Option<SystemTime>) -> Use {
    let Some(status) = status else {
        return Use::Silent(format!("its multipooler{of_database} does not report"));
    };
    let wanted = wanted.and_then(|end| jiff::Timestamp::try_from(end).ok()).map(timestamp_ms);
    if status.certificate_expiry == wanted && wanted.is_some() {
        return Use::Newest;
    }
    let shown = status.certificate_expiry.map_or_else(|| "an unknown time".to_owned(), |end| end.to_string());
    Use::Other(format!(
        "its multipooler{of_database} uses certificates that end at {shown}, and not the newest"
    ))
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
        let other = |status: Option<&PoolerStatus>, wanted| match use_of_pooler("", status, wanted) {
            Use::Other(text) => text,
            found => panic!("{found:?}"),
        };
        let shown = jiff::Timestamp::try_from(end).unwrap().to_string();
        assert_eq!(use_of_pooler("", Some(&status(&shown)), Some(end)), Use::Newest);
        let later = Some(end + Duration::from_secs(1));
        assert!(other(Some(&status(&shown)), later).contains(&shown));
        assert!(other(Some(&status(&shown)), None).contains("not the newest"));
        let silent = use_of_pooler("", None, later);
        assert!(matches!(silent, Use::Silent(text) if text.contains("does not report")));
    }

    #[test]
    fn host_is_silent_only_when_nothing_of_it_answers() {
        let silent = |text: &str| Use::Silent(text.to_owned());
        let no_report = || silent("its multipooler does not report");
        assert!(Behind::of([silent("no etcd"), no_report()]).is_silent());
        for answer in [Use::Newest, Use::Other("an old one".to_owned())] {
            let behind = Behind::of([answer, no_report()]);
            assert!(!behind.is_silent() && !behind.is_none(), "its PostgreSQL may run: {behind:?}");
        }
    }

    #[tokio::test]
    async fn cell_whose_removal_was_interrupted_is_named_and_holds_nothing_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::on_hosts(dir.path(), &["zone1", "zone2", "zone3"]);
        let [zone1, zone2, zone3] = ["zone1", "zone2", "zone3"].map(|cell| cell.parse::<CellName>().unwrap());
        // As far as `cells remove` comes before it forgets the cell: of zone3; of zone2, before it deletes what is here.
        std::fs::remove_dir_all(cluster.for_host(&zone3).root()).unwrap();
        let store = Store::new(std::sync::Arc::new(cellar_topology::MemoryKv::default()), cluster.keys());
        let record = cluster.cell(cluster.state.cell(&zone1).unwrap());
        let _ = store.transaction().put(&Key::Cell(zone1.clone()), &record).commit().await.unwrap();
        let behind = cluster.hosts_behind(&store).await.unwrap();
        assert_eq!(behind.keys().collect::<Vec<_>>(), [&zone1, &zone2]);
        assert!(behind[&zone2].to_string().contains("`cellar cells remove zone2`"), "{behind:?}");
        assert!(!behind[&zone1].to_string().contains("cells remove"), "{behind:?}");
        let told = cluster.unissued();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].hint.as_ref().unwrap().contains("`cellar cells remove zone3`"), "{told:?}");

        // Ended in the middle of that.
        let partly = cluster.for_host(&zone2).multiadmin();
        std::fs::rename(&partly, dir.path().join("aside")).unwrap();
        let behind = cluster.hosts_behind(&store).await.unwrap();
        assert!(!behind[&zone2].is_silent(), "its host may use anything: {behind:?}");
        assert_eq!(cluster.unissued().len(), 2);
        std::fs::rename(dir.path().join("aside"), &partly).unwrap();

        // A revocation with which all cells change their names makes no keys for a cell that goes.
        let of_zone1 = cluster.keys_of(&cluster.state.members()[0]).tls().join(SERVER_CERTIFICATE);
        let steps = crate::cluster::steps::Steps::new(|_, _| {});
        let serial = CertificateInfo::from_file(&of_zone1).unwrap().serial;
        cluster.begin_revocation(&serial, &steps).unwrap();
        let mut revoking = cluster.state.revoking.clone().unwrap();
        let ca = cellar_tls::Ca::load(&cluster.layout.ca()).unwrap();
        cluster.reissue_renamed(&revoking, &ca).unwrap();
        cluster.replace_compromised(&mut revoking, &ca, &steps).unwrap();
        assert_eq!(cluster.concerned(&revoking).unwrap(), [zone1, zone2]);
        assert!(!cluster.for_host(&zone3).root().exists());
    }

    #[test]
    fn silent_host_is_no_problem_of_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::sample(dir.path(), &["zone1", "zone2", "zone3"]);
        let other = |text: &str| Use::Other(text.to_owned());
        let silent = |text: &str| Use::Silent(text.to_owned());
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
        let silent = |cell: &str| (cell.parse().unwrap(), Behind::of([Use::Silent("no report".to_owned())]));
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
