//! `cellar cluster init` and `cellar cluster bundle`: from a specification to an authority, certificates, and one bundle
//! for each host. Nothing is started, and nothing is sent anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, ClusterLayout, HostName, RepoCipher, Secret};
use cellar_system::addresses_of;

use crate::cluster::database::ClusterDatabase;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::lock::ClusterLock;
use crate::cluster::state::ClusterState;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::error::spec_error::SpecError;
use crate::file::make_directory;
use crate::hosts::host::HostState;
use crate::local::secrets::{self, GivenCredentials};
use crate::spec::cluster_spec::ClusterSpec;
use crate::spec::databases::{SpecifiedDatabase, allotted};

/// How long another `cellar` on the same directory is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// How many etcd members a cluster may have: an even number tolerates no more failures than one less.
const MEMBERS: [usize; 3] = [1, 3, 5];

/// What was issued: the cluster, and each cell's bundle.
#[derive(Debug, Clone)]
pub struct Bundles {
    /// The cluster as the operator's directory has it.
    pub cluster: Cluster,
    /// Where each cell's bundle is.
    pub bundles: BTreeMap<CellName, PathBuf>,
}

fn field(field: impl Into<String>, value: impl Into<String>, reason: &str) -> ProvisionError {
    SpecError::Field { field: field.into(), value: value.into(), reason: reason.to_owned() }.into()
}

/// The state of a new cluster on hosts, or of the one whose state is `recorded`: the ports of its databases stay.
///
/// # Errors
/// When the specification has what hosts cannot have, naming the field.
pub(crate) fn state_of(spec: &ClusterSpec, recorded: Option<&ClusterState>) -> Result<ClusterState> {
    if let Some(placed) = spec.placed.first() {
        let reason = "on hosts every file is below `directory` and every port follows `port_offset`; \
                      only `cellar config generate` takes this field: leave it out";
        return Err(field(placed, "", reason));
    }
    let mut seen: BTreeMap<&HostName, &CellName> = BTreeMap::new();
    for (host, pooler) in spec.hosts.iter().zip(&spec.poolers) {
        if let Some(other) = seen.insert(&host.host, &pooler.cell) {
            return Err(SpecError::Collision {
                first: format!("cells.{other}.host"),
                second: format!("cells.{}.host", pooler.cell),
                value: host.host.to_string(),
            }
            .into());
        }
    }
    let members = spec.hosts.iter().filter(|host| host.etcd).count();
    if !MEMBERS.contains(&members) {
        let reason = "etcd has 1, 3 or 5 members: set `etcd` of the cells accordingly";
        return Err(field("cells.etcd", members.to_string(), reason));
    }
    if !spec.hosts.iter().any(|host| host.multiadmin) {
        return Err(field("cells.multiadmin", "false", "at least one cell needs a multiadmin"));
    }
    let cells = spec.poolers.iter().map(|pooler| pooler.cell.clone()).collect();
    let database = &spec.database;
    let state = ClusterState::new(
        spec.cluster.clone(),
        u16::try_from(database.port_offset).unwrap_or(u16::MAX),
        database.name.clone(),
        database.stanza.clone(),
        database.repository.clone(),
        spec.os_user.clone(),
        cells,
    );
    let mut state = state.ok_or_else(|| ProvisionError::from(SpecError::CellCount(0)))?;
    state.first_database.retention_full = Some(database.retention.full);
    state.first_database.cells.clone_from(&database.cells);
    state.first_database.bootstrap_cell.clone_from(&database.bootstrap_cell);
    for (cell, host) in state.cells.iter_mut().zip(&spec.hosts) {
        cell.host = Some(host.clone());
    }
    for specified in spec.databases.iter().skip(1) {
        let further = further_database(specified, spec, &state, recorded)?;
        state.further_databases.push(further);
    }
    Ok(state)
}

/// A further database as it is specified. Its ports are those that it has been given before, or else free ones.
fn further_database(
    specified: &SpecifiedDatabase,
    spec: &ClusterSpec,
    state: &ClusterState,
    recorded: Option<&ClusterState>,
) -> Result<ClusterDatabase> {
    let known = recorded.and_then(|recorded| recorded.database(&specified.name));
    let given = spec.databases.iter().filter_map(|database| database.port_offset);
    let present = state.databases().chain(recorded.into_iter().flat_map(ClusterState::databases));
    let taken: Vec<u16> = given.chain(present.map(|database| database.port_offset)).collect();
    let chosen = specified.port_offset.or(known.map(|known| known.port_offset));
    let no_ports = || {
        let reason = "no range of ports below 65536 is free for it: give it a `port_offset`";
        field(format!("databases.{}.port_offset", specified.name), "", reason)
    };
    let first_cell = || state.cells.iter().map(|cell| &cell.name).min();
    Ok(ClusterDatabase {
        name: specified.name.clone(),
        stanza: specified.stanza.clone(),
        bootstrap_cell: specified
            .cells
            .first()
            .or_else(first_cell)
            .ok_or_else(|| ProvisionError::from(SpecError::CellCount(0)))?
            .clone(),
        cells: specified.cells.clone(),
        port_offset: chosen.or_else(|| allotted(state.port_offset, &taken)).ok_or_else(no_ports)?,
        retention_full: Some(specified.retention_full),
        first_backup: None,
    })
}

/// Hosts whose names lead nowhere, or where another one's leads.
pub(crate) fn check_names(
    state: &ClusterState,
    look_up: impl Fn(&str) -> std::io::Result<Vec<IpAddr>>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut owners: BTreeMap<IpAddr, &CellName> = BTreeMap::new();
    for cell in &state.cells {
        let Some(host) = &cell.host else { continue };
        let name = &host.host;
        let found = match look_up(name) {
            Ok(found) if !found.is_empty() => found,
            found => {
                let why = found.err().map_or_else(String::new, |error| format!(" ({error})"));
                findings.push(Finding {
                    message: format!("the host {name} of cell {} has no address{why}", cell.name),
                    hint: Some("let DNS or /etc/hosts name it here and on every host".to_owned()),
                });
                continue;
            }
        };
        for address in found.into_iter().collect::<BTreeSet<_>>() {
            if let Some(other) = owners.insert(address, &cell.name) {
                findings.push(Finding {
                    message: format!(
                        "the hosts of cells {other} and {} have the same address {address}",
                        cell.name
                    ),
                    hint: Some(
                        "cells protect each other only on hosts of their own: give each its own".to_owned(),
                    ),
                });
            }
        }
    }
    findings
}

/// What is asked of [`init_hosts`].
#[derive(Debug)]
pub struct InitOptions {
    /// The operator's directory.
    pub dir: PathBuf,
    /// The specification.
    pub spec: ClusterSpec,
    /// Encrypts the repository of a new cluster.
    pub passphrase: Option<Secret>,
    /// Where the credentials of the repository's store are taken from.
    pub credentials: GivenCredentials,
}

/// Makes the authority, all certificates and one bundle a host in the operator's directory. Repeating it with the same
/// specification finishes one that was interrupted, and issues the bundles again.
///
/// # Errors
/// When the specification cannot be, its hosts cannot be resolved, or the directory has another cluster.
pub async fn init_hosts(options: &InitOptions, steps: &Steps) -> Result<Bundles> {
    let layout = ClusterLayout::new(&options.dir);
    if HostState::is_in(&layout) {
        return Err(ProvisionError::Argument {
            argument: "--dir",
            value: layout.root().display().to_string(),
            reason: "it is the directory of this machine as a host: the operator's must be another one"
                .to_owned(),
        });
    }
    let mut wanted = state_of(&options.spec, ClusterState::load(&layout)?.as_ref())?;
    let findings = check_names(&wanted, addresses_of);
    if !findings.is_empty() {
        return Err(ProvisionError::Preflight(findings));
    }
    make_directory(layout.root(), 0o700, None)?;
    let _lock = ClusterLock::acquire(&layout, LOCK_TIMEOUT, steps).await?;
    let state = match ClusterState::load(&layout)? {
        Some(state) => {
            check_same(&layout, &wanted, &state)?;
            secrets::check_agreement(&layout, &state, options.passphrase.as_ref())?;
            state
        }
        None => {
            wanted.repo_cipher = options.passphrase.as_ref().map(|_| RepoCipher::Aes256Cbc);
            wanted.with_new_id()
        }
    };
    let credentials = secrets::credentials_of(&layout, &state, &options.credentials)?;
    let mut cluster = Cluster::assemble(layout, state)?;
    // Ports above 65535 and paths that pgBackRest would misread, before anything is written.
    cluster.check_members()?;
    cluster.require_settled_restore(steps).await?;
    if let Some(secret) = &options.passphrase {
        cluster.remember_passphrase(secret)?;
    }
    if let Some(credentials) = &credentials {
        cluster.remember_credentials(credentials)?;
    }
    cluster.state.save(&cluster.layout)?;
    let cells: Vec<CellName> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
    let bundles = cluster.issue_bundles(&cells, false)?;
    Ok(Bundles { cluster, bundles })
}

/// Refuses a specification of another cluster than the directory has.
fn check_same(layout: &ClusterLayout, wanted: &ClusterState, recorded: &ClusterState) -> Result<()> {
    let hosts = |state: &ClusterState| {
        let cells = state.cells.iter().map(|cell| format!("{} on {:?}", cell.name, cell.host));
        cells.collect::<Vec<_>>().join(", ")
    };
    let kept = |state: &ClusterState| {
        let each = state.databases().map(|database| database.retention_full.unwrap_or_default().to_string());
        each.collect::<Vec<_>>().join(", ")
    };
    let further = |state: &ClusterState| {
        let each = state.databases().map(|one| {
            let cells: Vec<&str> = one.cells.iter().map(CellName::as_str).collect();
            format!(
                "{} (stanza {}, port offset {}, cells {:?})",
                one.name, one.stanza, one.port_offset, cells
            )
        });
        each.collect::<Vec<_>>().join(", ")
    };
    let pairs = [
        ("cluster name", wanted.cluster.to_string(), recorded.cluster.to_string()),
        ("database", wanted.first_database.name.to_string(), recorded.first_database.name.to_string()),
        ("stanza", wanted.first_database.stanza.to_string(), recorded.first_database.stanza.to_string()),
        ("repository", wanted.repo.to_string(), recorded.repo.to_string()),
        ("OS user", wanted.os_user.clone(), recorded.os_user.clone()),
        ("number of full backups kept", kept(wanted), kept(recorded)),
        ("port offset", wanted.port_offset.to_string(), recorded.port_offset.to_string()),
        ("cells", hosts(wanted), hosts(recorded)),
        ("databases", further(wanted), further(recorded)),
    ];
    match pairs.into_iter().find(|(_, wanted, recorded)| wanted != recorded) {
        None => Ok(()),
        Some((what, wanted, recorded)) => {
            Err(ProvisionError::Contradiction { what, wanted, recorded, dir: layout.root().to_owned() })
        }
    }
}

/// Issues the bundles of these cells' hosts again, of all when none is named; with `new_keys` their keys are replaced.
///
/// # Errors
/// When the directory has no cluster on hosts, or a cell is not in it.
pub async fn bundle_hosts(dir: &Path, cells: &[CellName], new_keys: bool, steps: &Steps) -> Result<Bundles> {
    let (mut cluster, _lock) = Cluster::open_locked(dir, LOCK_TIMEOUT, steps).await?;
    if cluster.is_local() {
        return Err(ProvisionError::Argument {
            argument: "--dir",
            value: dir.display().to_string(),
            reason: "the cluster there is on this machine and needs no bundles".to_owned(),
        });
    }
    if let Some(unknown) = cells.iter().find(|cell| cluster.state.cell(cell).is_none()) {
        return Err(ProvisionError::Argument {
            argument: "the cell",
            value: unknown.to_string(),
            reason: "the cluster has no cell of that name".to_owned(),
        });
    }
    cluster.require_settled_restore(steps).await?;
    let named = match cells {
        [] => cluster.state.cells.iter().map(|cell| cell.name.clone()).collect(),
        cells => cells.to_vec(),
    };
    let bundles = cluster.issue_bundles(&named, new_keys)?;
    Ok(Bundles { cluster, bundles })
}

impl Cluster {
    fn check_members(&self) -> Result<()> {
        self.check_configs(&self.poolers(&self.state.cells)?)?;
        self.check_ports_of_hosts(&self.state.cells)?;
        let _ = (self.etcd_urls()?, self.admin_addresses()?);
        Ok(())
    }

    /// Certificates that are missing or due, and the bundles with them.
    pub(crate) fn issue_bundles(
        &mut self,
        cells: &[CellName],
        new_keys: bool,
    ) -> Result<BTreeMap<CellName, PathBuf>> {
        let ca = self.authority()?;
        let trusted = self.trusted()?;
        for cell in cells {
            let own = self.for_host(cell).root().to_owned();
            for set in self.certificate_sets()?.iter().filter(|set| set.directory.starts_with(&own)) {
                if new_keys && set.directory.exists() {
                    set.renew(&ca, &trusted)?;
                }
                // Also of a run that was ended before it came here: what lies beside a set would be bundled with it.
                cellar_tls::forget_previous(&set.directory)?;
                set.ensure(&ca, &trusted)?;
            }
            for member in self.state.members_in(cell) {
                self.install_secrets(&member)?;
            }
        }
        self.issue_provisioner(&ca)?;
        self.issue_client(&ca)?;
        self.install_etcd_revocations()?;
        // Before the bundles: a number is never given twice.
        self.state.bundles += 1;
        self.state.save(&self.layout)?;
        let number = self.state.bundles;
        cells.iter().map(|cell| Ok((cell.clone(), self.write_bundle(cell, number)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use cellar_model::Ports;

    use super::*;

    const SPEC: &str = r#"
cluster = "demo"
[database]
name = "app"
[repo]
path = "/mnt/backup"
[[cells]]
name = "zone1"
host = "db1.example"
[[cells]]
name = "zone2"
host = "db2.example"
[[cells]]
name = "zone3"
host = "db3.example"
"#;

    fn refusal(text: &str) -> String {
        state_of(&ClusterSpec::parse(text).unwrap(), None).unwrap_err().to_string()
    }

    #[test]
    fn small_specification_is_enough() {
        let state = state_of(&ClusterSpec::parse(SPEC).unwrap(), None).unwrap();
        let hosts: Vec<_> = state.cells.iter().filter_map(|cell| cell.host.clone()).collect();
        assert_eq!(hosts.len(), 3);
        assert!(hosts.iter().all(|host| host.etcd && host.multiadmin));
        assert_eq!(hosts[0].directory, Path::new("/var/lib/cellar/demo"));
        assert_eq!((hosts[1].host.to_string().as_str(), state.os_user.as_str()), ("db2.example", "postgres"));
    }

    #[test]
    fn what_hosts_cannot_have_is_refused_by_its_field() {
        let same = refusal(&SPEC.replace("db3", "db2"));
        assert!(same.contains("cells.zone2.host and cells.zone3.host"), "{same}");
        let placed = refusal(&format!("{SPEC}log = \"/x/log\"\n"));
        assert!(placed.contains("cells.zone3.log"), "{placed}");
        let two = refusal(&format!("{SPEC}etcd = false\n"));
        assert!(two.contains("cells.etcd \"2\""), "{two}");
        let none = SPEC.replace(".example\"", ".example\"\nmultiadmin = false");
        assert!(refusal(&none).contains("cells.multiadmin"));
    }

    #[test]
    fn ports_of_a_database_are_allotted_once() {
        let parse = |further: &str| {
            let text = SPEC.replacen("[repo]", &format!("{further}\n[repo]"), 1);
            ClusterSpec::parse(&text).unwrap()
        };
        let offsets = |state: &ClusterState| {
            let all = state.databases().map(|one| format!("{} {}", one.name, one.port_offset));
            all.collect::<Vec<_>>().join(", ")
        };
        let (sales, web) = ("[[databases]]\nname = \"sales\"\n", "[[databases]]\nname = \"web\"\n");
        let first = state_of(&parse(&format!("{sales}{web}")), None).unwrap();
        assert_eq!(offsets(&first), "app 0, sales 256, web 512");
        // In another order, and with a new one before them, each keeps its own.
        let again = parse(&format!("[[databases]]\nname = \"new\"\n{web}{sales}"));
        assert_eq!(offsets(&state_of(&again, Some(&first)).unwrap()), "app 0, new 768, web 512, sales 256");
    }

    #[test]
    fn ports_that_collide_on_a_host_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        // PostgreSQL, or the health endpoints, of the one has the port of multipooler of the other.
        for port in [Ports::POSTGRES, Ports::POOLER_HEALTH] {
            let offset = port - Ports::POOLER_GRPC;
            let further = format!("[[databases]]\nname = \"sales\"\nport_offset = {offset}\n[repo]");
            let spec = ClusterSpec::parse(&SPEC.replacen("[repo]", &further, 1)).unwrap();
            cluster.state = state_of(&spec, None).unwrap();
            let refused = cluster.check_members().unwrap_err().to_string();
            assert!(refused.contains(&format!("port {port} on the host of cell zone1")), "{refused}");
            assert!(refused.contains("multipooler of cell zone1 of database sales"), "{refused}");
        }
    }

    #[test]
    fn ports_that_are_allotted_collide_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut further: String = (0..60).map(|n| format!("[[databases]]\nname = \"d{n}\"\n")).collect();
        further.push_str("[repo]");
        let spec = ClusterSpec::parse(&SPEC.replacen("[repo]", &further, 1)).unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        cluster.state = state_of(&spec, None).unwrap();
        cluster.check_members().unwrap();
        // Each of its members has ports of four kinds.
        let ports = cluster.cell_ports(&cluster.state.cells[0].clone()).unwrap();
        assert_eq!(ports.len(), 61 * 4);
    }

    #[test]
    fn a_host_is_given_a_key_for_each_member_and_none_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let further = "[[databases]]\nname = \"sales\"\ncells = [\"zone2\", \"zone3\"]\n[repo]";
        let spec = SPEC.replacen("name = \"app\"", "name = \"app\"\ncells = [\"zone1\", \"zone2\"]", 1);
        let spec = ClusterSpec::parse(&spec.replacen("[repo]", further, 1)).unwrap();
        let mut cluster = Cluster::sample(dir.path(), &["zone1"]);
        cluster.state = state_of(&spec, None).unwrap();
        let _ = cluster.authority().unwrap();
        std::fs::create_dir_all(cluster.layout.state()).unwrap();
        let cells: Vec<CellName> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
        let bundles = cluster.issue_bundles(&cells, false).unwrap();
        for (cell, members) in [
            ("zone1", vec!["zone1"]),
            ("zone2", vec!["sales.zone2", "zone2"]),
            ("zone3", vec!["sales.zone3"]),
        ] {
            let bundle =
                crate::hosts::bundle::Bundle::read(&bundles[&cell.parse::<CellName>().unwrap()]).unwrap();
            let keys: Vec<&str> =
                bundle.files.keys().filter_map(|path| path.strip_suffix("/tls/server.key")).collect();
            let expected: Vec<&str> = ["etcd"].into_iter().chain(members).collect();
            assert_eq!(keys, expected, "{cell}");
        }
        let name = |file: &str| {
            let path = cluster.for_host(&"zone2".parse().unwrap()).root().join(file);
            cellar_tls::CertificateInfo::from_file(&path).unwrap().common_name
        };
        assert_eq!(name("zone2/tls/pooler.crt"), "app.zone2");
        assert_eq!(name("zone2/tls/replication.crt"), "cellar_replication");
        assert_eq!(name("sales.zone2/tls/pooler.crt"), "sales.zone2");
        assert_eq!(name("sales.zone2/tls/replication.crt"), "cellar_replication@sales");
        assert_eq!(name("sales.zone2/tls/server.crt"), "pgbackrest@sales");
    }

    #[test]
    fn hosts_that_lead_nowhere_or_to_the_same_place_are_named() {
        let state = state_of(&ClusterSpec::parse(SPEC).unwrap(), None).unwrap();
        let addresses = |host: &str| match host {
            "db3.example" => Ok(Vec::new()),
            _ => Ok(vec!["10.0.0.1".parse().unwrap()]),
        };
        let said: Vec<String> = check_names(&state, addresses).into_iter().map(|one| one.message).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("zone1 and zone2") && said[0].contains("10.0.0.1"), "{said:?}");
        assert!(said[1].contains("db3.example"), "{said:?}");
    }
}
