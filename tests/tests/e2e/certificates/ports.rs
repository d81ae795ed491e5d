//! The ports of a cluster, and what each answers to whoever has a certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::PgbackrestName;
use cellar_model::access::METHODS;
use cellar_system::{addresses_of, has_address};
use cellar_tests::{
    Cluster, Finished, as_user, block_on, command_line, give_to_postgres, postgres_user, run,
};
use cellar_tls::{ClientTls, probe, unchecked_client};

use super::issuer::Service::{EtcdClient, EtcdPeer, Multiadmin, Pgbackrest, Pooler, Postgres};
use super::issuer::{HOST, KeyPair, Service};

/// Longest that any server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// A port of the cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) service: Service,
    pub(super) address: SocketAddr,
}

/// Every port that the cluster's records know of.
pub(super) fn ports_of(cluster: &Cluster) -> BTreeMap<SocketAddr, Service> {
    let addresses = loopback();
    let port_of =
        |text: &str| text.rsplit(':').next().and_then(|port| port.trim().parse().ok()).expect("a port");
    let arguments = command_line(cluster.pid("pid/etcd.pid"));
    let etcd = |flag: &str| port_of(arguments.iter().find(|word| word.starts_with(flag)).expect("a flag"));
    let endpoint = std::fs::read_to_string(cluster.directory().join("client/endpoint")).expect("an endpoint");
    let mut services = vec![
        (etcd("--listen-client-urls="), EtcdClient),
        (etcd("--listen-peer-urls="), EtcdPeer),
        (port_of(&endpoint), Multiadmin),
    ];
    for pooler in cluster.poolers().into_iter().filter_map(|view| view.pooler) {
        let of_cell = [
            (pooler.grpc_port, Pooler),
            (pooler.postgres_port, Postgres),
            (pooler.pgbackrest_port, Pgbackrest),
        ];
        services.extend(of_cell.map(|(port, service)| (port.try_into().expect("a port"), service)));
    }
    // pgBackRest's server listens on one address.
    let count = |service| if service == Pgbackrest { 1 } else { addresses.len() };
    let at = |(port, service)| {
        addresses.iter().take(count(service)).map(move |address| (SocketAddr::new(*address, port), service))
    };
    services.into_iter().flat_map(at).collect()
}

/// Every port that answers anybody: the health endpoints.
pub(super) fn open_ports_of(cluster: &Cluster) -> BTreeSet<SocketAddr> {
    let ports = cluster.poolers().into_iter().filter_map(|view| Some(view.pooler?.health_port));
    let at = |port: u32| {
        let port = port.try_into().expect("a port");
        loopback().into_iter().map(move |address| SocketAddr::new(address, port))
    };
    ports.flat_map(at).collect()
}

/// The addresses of `localhost` on this machine, the first one first.
pub(crate) fn loopback() -> Vec<IpAddr> {
    let named = addresses_of("localhost").expect("localhost has an address");
    named.into_iter().filter(|address| has_address(*address)).collect()
}

/// Whether the service lets the key pair in, as far as its own protocol goes, or why not.
pub(super) async fn connect_as(
    cluster: &Cluster,
    port: Port,
    key_pair: Option<&KeyPair>,
) -> Result<(), String> {
    let authorities = cluster.directory().join("ca/ca.crt");
    let pair = key_pair.map(|key_pair| (key_pair.certificate.as_path(), key_pair.key.as_path()));
    let tls = unchecked_client(&authorities, pair).expect("a client");
    let probed = probe(port.address, HOST, port.service.protocol(), tls, ANSWER_TIMEOUT).await;
    let probed =
        probed.unwrap_or_else(|error| panic!("{port:?}: {error}: {:?}", std::error::Error::source(&error)));
    probed.accepted?;
    let Some(key_pair) = key_pair else { return Ok(()) };
    // The handshake was good; what remains is who may do what.
    match port.service {
        Multiadmin | Pooler => call(port, &authorities, key_pair).await,
        Pgbackrest => list_served(cluster, port.address.port(), &key_pair.certificate, &key_pair.key, "app"),
        EtcdClient | EtcdPeer | Postgres => Ok(()),
    }
}

pub(super) fn channel(tls: &ClientTls, port: u16) -> tonic::transport::Channel {
    tls.endpoint(&format!("{HOST}:{port}"), Some(ANSWER_TIMEOUT)).expect("an address").connect_lazy()
}

/// What a pooler says to `GetLiveStatus` from whoever has the certificate.
pub(crate) fn ask_pooler(tls: &ClientTls, port: u32) -> Result<(), tonic::Status> {
    let port = port.try_into().expect("a port");
    block_on(async {
        let mut client = MultiPoolerClient::new(channel(tls, port));
        client.get_live_status(v1::GetLiveStatusRequest::default()).await.map(drop)
    })
}

/// Which calls of a pooler are denied to whoever has the key pair.
pub(super) async fn denied_by_a_pooler(
    port: u16,
    authorities: &Path,
    key_pair: &KeyPair,
) -> BTreeSet<&'static str> {
    let tls = ClientTls::from_files(authorities, &key_pair.certificate, &key_pair.key).expect("a client");
    let client = MultiPoolerClient::new(channel(&tls, port));
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h, mut i, mut j, mut k, mut l, mut m] =
        [(); 13].map(|()| client.clone());
    let no_order = tokio_stream::empty::<v1::RunBackupRequest>();
    let nothing = v1::InstallCertificatesRequest::default();
    let answers = [
        ("GetLiveStatus", a.get_live_status(v1::GetLiveStatusRequest::default()).await.err()),
        ("ReadBackups", b.read_backups(v1::ReadBackupsRequest::default()).await.err()),
        ("ReadJobLog", c.read_job_log(v1::ReadJobLogRequest::default()).await.err()),
        ("GetSigningRequest", d.get_signing_request(v1::GetSigningRequestRequest::default()).await.err()),
        ("InstallCertificates", e.install_certificates(nothing).await.err()),
        ("RunBackup", f.run_backup(no_order).await.err()),
        ("ListRoles", g.list_roles(v1::ListRolesRequest::default()).await.err()),
        ("CreateRole", h.create_role(v1::CreateRoleRequest::default()).await.err()),
        ("DropRole", i.drop_role(v1::DropRoleRequest::default()).await.err()),
        ("SetRolePassword", j.set_role_password(v1::SetRolePasswordRequest::default()).await.err()),
        ("ReadSettings", k.read_settings(v1::ReadSettingsRequest::default()).await.err()),
        ("GetMemberFacts", l.get_member_facts(v1::GetMemberFactsRequest::default()).await.err()),
        ("HoldClients", m.hold_clients(v1::HoldClientsRequest::default()).await.err()),
    ];
    let denied = |status: &tonic::Status| status.code() == tonic::Code::PermissionDenied;
    let tried: BTreeSet<&str> = answers.iter().map(|(name, _)| *name).collect();
    let of_poolers = METHODS.iter().filter_map(|(path, ..)| path.strip_prefix("/cellar.v1.MultiPooler/"));
    assert_eq!(tried, of_poolers.collect(), "all methods are tried");
    answers
        .into_iter()
        .filter(|(_, error)| error.as_ref().is_some_and(denied))
        .map(|(name, _)| name)
        .collect()
}

/// The least that anybody may ask of the service.
pub(super) async fn call(port: Port, authorities: &Path, key_pair: &KeyPair) -> Result<(), String> {
    let tls = ClientTls::from_files(authorities, &key_pair.certificate, &key_pair.key).expect("a client");
    let channel = channel(&tls, port.address.port());
    let refused = |status: tonic::Status| format!("{:?}: {}", status.code(), status.message());
    if port.service == Multiadmin {
        let asked = MultiAdminClient::new(channel).list_jobs(v1::ListJobsRequest::default()).await;
        return asked.map(drop).map_err(refused);
    }
    let asked = MultiPoolerClient::new(channel).get_live_status(v1::GetLiveStatusRequest::default()).await;
    asked.map(drop).map_err(refused)
}

/// The directory of the cell whose pgBackRest server listens there. It is what the server may read, so a client can ask for
/// it as if it were a repository.
pub(crate) fn cell_of_server(cluster: &Cluster, port: u16) -> PathBuf {
    let line = format!("tls-server-port={port}");
    let cells =
        std::fs::read_dir(cluster.directory()).expect("a cluster").flatten().map(|entry| entry.path());
    let listens = |cell: &PathBuf| {
        let config = std::fs::read_to_string(cell.join("pgbackrest.conf")).unwrap_or_default();
        config.lines().any(|found| found == line)
    };
    cells.into_iter().find(listens).expect("a cell whose server listens there")
}

/// pgBackRest's own client with a certificate, asking a server for something of a directory, as if it were a repository.
pub(crate) fn repo_command(
    cluster: &Cluster,
    port: u16,
    certificate: &Path,
    key: &Path,
    stanza: &str,
    directory: &Path,
) -> Command {
    let config = cell_of_server(cluster, port).join("pgbackrest.conf");
    [certificate, key].into_iter().for_each(give_to_postgres);
    let mut command = as_user(&postgres_user(), "pgbackrest");
    command
        .args(["--config=/dev/null", "--log-level-file=off", "--log-level-console=off"])
        .arg(format!("--stanza={stanza}"))
        .args(["--log-level-stderr=error", "--io-timeout=2", "--repo1-host-type=tls"])
        .arg(format!("--repo1-host={HOST}"))
        .arg(format!("--repo1-host-port={port}"))
        .arg(format!("--repo1-host-config={}", config.display()))
        .arg(format!("--repo1-path={}", directory.display()))
        .arg(format!("--repo1-host-ca-file={}", cluster.directory().join("zone1/tls/ca.crt").display()))
        .arg(format!("--repo1-host-cert-file={}", certificate.display()))
        .arg(format!("--repo1-host-key-file={}", key.display()))
        .env("LC_ALL", "C");
    command
}

/// Whether it may list what the server has: the server looks at the name only when it has a command.
pub(crate) fn list_served(
    cluster: &Cluster,
    port: u16,
    certificate: &Path,
    key: &Path,
    stanza: &str,
) -> Result<(), String> {
    let served = cell_of_server(cluster, port);
    let Finished { code, stdout, stderr } =
        run(repo_command(cluster, port, certificate, key, stanza, &served).arg("repo-ls"));
    if code == 0 && stdout.contains("pg_data") { Ok(()) } else { Err(format!("exit code {code}: {stderr}")) }
}

/// The one name that a cell's pgBackRest server lets in.
pub(crate) fn accepted_by(cluster: &Cluster, cell: &str) -> PgbackrestName {
    let names = cluster.status(cell).map(|status| status.tls_server_accepts).unwrap_or_default();
    let [name] = names.as_slice() else { panic!("{cell} lets in {names:?}") };
    name.parse().expect("a name")
}
