//! Calls over mutual TLS, authorised, against the same calls without either.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cellar_admin::{Admin, AuditLog, serve};
use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{Key, Keyspace, Leader, Pooler, Timeline};
use cellar_tls::{
    ClientTls, Guard, MtlsListener, ReloadableServerConfig, Revoked, SERVER_CERTIFICATE, SERVER_KEY,
    ServerFiles, generate_ca, generate_server_cert, install_ring_provider,
};
use cellar_topology::{MemoryKv, Store};
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};

use super::{certify, must, runtime};
use crate::figure::{Limit, Report, note};
use crate::topology::{cell, cell_name, commit, database, database_name, name, pooler, status};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(3);

/// Calls under way at once, all on one connection.
const CALLERS: usize = 16;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

type Client = MultiAdminClient<Channel>;

/// An admin over a store in memory, and the id of the one job there.
async fn admin(directory: &Path) -> (Admin, String) {
    let store = Store::new(Arc::new(MemoryKv::default()), Keyspace::new(&name("demo")));
    let database = database(0);
    let leader = Leader {
        cell: cell_name(0),
        term: Timeline::new(1),
        system_identifier: None,
        lsn: None,
        leadership: None,
    };
    let mut records = store
        .transaction()
        .put(&Key::Database(database_name(0)), &database)
        .put(&Key::Leader(database_name(0)), &leader);
    for n in 0..2 {
        let (cell, pooler) = (cell(n), pooler(&database, &cell(n)));
        records = records
            .put(&Key::Cell(cell_name(n)), &cell)
            .put(&Key::Pooler(database_name(0), cell_name(n)), &pooler)
            .put(&Key::Status(database_name(0), cell_name(n)), &status(&pooler));
    }
    commit(records).await;
    let nobody = |_: &Pooler| Ok(Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
    let audit = must("the audit log", AuditLog::open(&directory.join("audit.log")));
    let admin = Admin::start(store, Arc::new(nobody), audit);
    assert!(admin.ready(Duration::from_secs(10)).await, "the store in memory does not answer");
    let request = v1::BackupRequest { cell: cell_name(1).to_string(), ..Default::default() };
    let job = v1::multi_admin_server::MultiAdmin::backup(&admin, Request::new(request)).await;
    (admin, must("a job", job).into_inner().id)
}

/// A client of the admin served as it is in earnest.
async fn over_tls(admin: Admin, directory: &Path) -> Client {
    install_ring_provider();
    let ca = must("an authority", generate_ca(&directory.join("ca"), &name("demo")));
    let (server, client) = (directory.join("server"), directory.join("client"));
    must("a certificate", generate_server_cert(&ca, &server, "localhost", None));
    must("the authority", ca.install_certificate(&server, None));
    certify(&ca, &client, "bench");
    let files = ServerFiles::in_dir(server, SERVER_CERTIFICATE, SERVER_KEY);
    let config = must("the server's files", ReloadableServerConfig::load(files));
    let listener = must("a port", MtlsListener::bind(LOOPBACK, config).await);
    let address = must("its address", listener.local_addr());
    let guard = Guard::new(name("demo"), Revoked::default(), cellar_api::status_of);
    tokio::spawn(serve(admin, listener.incoming(), guard, std::future::pending()));
    let tls = must("the client's files", ClientTls::from_dir(&client));
    let endpoint = must("an endpoint", tls.endpoint(&address.to_string(), Some(Duration::from_secs(30))));
    MultiAdminClient::new(must("a connection", endpoint.connect().await))
}

/// A client of the same, open to everybody.
async fn in_plaintext(admin: Admin) -> Client {
    // As the other listener does; else Nagle's delays would be compared.
    let incoming = must("a port", TcpIncoming::bind(LOOPBACK)).with_nodelay(Some(true));
    let address = must("its address", incoming.local_addr());
    tokio::spawn(serve(admin, incoming, Guard::open(), std::future::pending()));
    let endpoint = must("an endpoint", Endpoint::from_shared(format!("http://{address}")));
    let endpoint = endpoint.timeout(Duration::from_secs(30));
    MultiAdminClient::new(must("a connection", endpoint.connect().await))
}

/// Calls a second over one round.
async fn rate(client: &Client, job: &str) -> f64 {
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, id) = (client.clone(), job.to_owned());
        callers.spawn(async move {
            let mut calls = 0_u32;
            while begun.elapsed() < ROUND {
                must("GetJob", client.get_job(v1::GetJobRequest { id: id.clone() }).await);
                calls += 1;
            }
            calls
        });
    }
    let calls: u32 = callers.join_all().await.into_iter().sum();
    f64::from(calls) / begun.elapsed().as_secs_f64()
}

/// What is left of the rate of calls.
pub(crate) fn tls_cost(report: &mut Report) {
    let directory = must("a directory", tempfile::tempdir());
    let (mut tls, mut plain) = (Vec::new(), Vec::new());
    // Two threads, as multiadmin has; the callers share them in both cases.
    runtime(2).block_on(async {
        let (admin, job) = admin(directory.path()).await;
        let secured = over_tls(admin.clone(), directory.path()).await;
        let open = in_plaintext(admin).await;
        let _ = (rate(&secured, &job).await, rate(&open, &job).await);
        for _ in 0..ROUNDS {
            tls.push(rate(&secured, &job).await);
            plain.push(rate(&open, &job).await);
        }
    });
    note(&format!("  calls a second with TLS {tls:.0?}, in plaintext {plain:.0?}"));
    let median = |samples: &mut Vec<f64>| {
        samples.sort_by(f64::total_cmp);
        samples[samples.len() / 2]
    };
    report.figure("tls_cost", median(&mut tls) / median(&mut plain), "ratio", Limit::AtLeast(0.7));
}
