//! The server as the network sees it: mutual TLS, health, reflection, hostile bytes, shutdown.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail by panicking")]

mod support;

use std::path::Path;
use std::time::Duration;

use cellar_admin::{Admin, dial_with_tls, serve};
use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::access::Effect;
use cellar_model::{AuditOutcome, ClusterName, Code, Principal, access};
use cellar_tls::{
    ClientTls, Guard, KeyFile, LeafRequest, MtlsListener, OperatorRole, ReloadableServerConfig, Revoked,
    ServerFiles, generate_ca, issue,
};
use proptest::prelude::*;
use support::{World, backup_of, reason, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// A served admin without TLS.
struct Plain {
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), cellar_admin::ServeError>>,
}

impl Plain {
    async fn serve(admin: &Admin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task =
            tokio::spawn(serve(admin.clone(), TcpListenerStream::new(listener), Guard::open(), shutdown));
        Self { address, stop: Some(stop), task }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_the_store() {
    let world = World::new().await;
    world.kv.set_unreachable(true);
    let admin = world.starting(support::no_pooler());
    let server = Plain::serve(&admin).await;
    let channel = server.channel().await;
    wait_for("not serving", || async { health(&channel, "").await == ServingStatus::NotServing }).await;
    world.kv.set_unreachable(false);
    for service in ["", "cellar.v1.MultiAdmin"] {
        wait_for("serving", || async { health(&channel, service).await == ServingStatus::Serving }).await;
    }
}

#[tokio::test]
async fn reflection_lists_our_services() {
    use tonic_reflection::pb::{v1 as one, v1alpha as alpha};
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let channel = server.channel().await;
    let ask = one::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = one::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = one::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let text = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(text.contains("cellar.v1.MultiAdmin") && text.contains("grpc.health.v1.Health"), "{text}");
    let ask =
        alpha::server_reflection_request::MessageRequest::FileContainingSymbol("cellar.v1.MultiAdmin".into());
    let request = alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let text = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(text.contains("FileDescriptorResponse"), "{text}");
}

#[tokio::test]
async fn shutdown_ends_streams_and_does_not_wait_for_them() {
    let world = World::new().await;
    let admin = world.admin().await;
    let mut server = Plain::serve(&admin).await;
    let mut client = MultiAdminClient::new(server.channel().await);
    let job = client.backup(backup_of(3)).await.unwrap().into_inner();
    let mut jobs = client.watch_job(v1::GetJobRequest { id: job.id }).await.unwrap().into_inner();
    jobs.message().await.unwrap().unwrap();
    let begin = std::time::Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(reason(jobs.message().await), "UNAVAILABLE");
    server.task.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn hostile_bytes_do_not_harm_the_others() {
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let mut good = MultiAdminClient::new(server.channel().await);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut noise: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        preface[..10].to_vec(),
        preface.to_vec(),
        // A header frame that promises 16 MiB.
        [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat(),
        // Settings with a wrong length, data on a stream that is not open.
        [&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat(),
        [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7, 0]].concat(),
    ];
    noise.extend((0..40u8).map(|n| [&preface[..], &[n; 64]].concat()));
    for bytes in noise {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(support::PATIENCE, socket.read_to_end(&mut answer)).await.unwrap();
        assert!(good.list_cells(v1::ListCellsRequest {}).await.is_ok());
    }
}

/// Messages as bytes, so that what no honest client would encode can be sent.
#[derive(Debug, Clone, Default)]
struct Raw;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl tonic::codec::Encoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut tonic::codec::EncodeBuf<'_>) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(to, &item);
        Ok(())
    }
}

impl tonic::codec::Decoder for Raw {
    type Item = Vec<u8>;
    type Error = tonic::Status;
    fn decode(&mut self, from: &mut tonic::codec::DecodeBuf<'_>) -> Result<Option<Vec<u8>>, tonic::Status> {
        use prost::bytes::Buf;
        Ok(Some(from.copy_to_bytes(from.remaining()).to_vec()))
    }
}

#[tokio::test]
async fn messages_that_do_not_decode_are_refused() {
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let channel = server.channel().await;
    let before = world.contents().await;
    let call = |method: &'static str, bytes: Vec<u8>| {
        let channel = channel.clone();
        async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.unwrap();
            let path = format!("/cellar.v1.MultiAdmin/{method}").parse().unwrap();
            grpc.unary(Request::new(bytes), path, Raw).await.map(|_| ())
        }
    };
    for method in ["Backup", "RebuildStandby", "GetJob", "AddCell", "RemoveCell", "CancelJob", "GetBackup"] {
        // A field longer than the message; a broken varint; text that is not UTF-8; a wrong wire type.
        for bytes in [&[0x12, 0x7f, b'z'][..], &[0xff; 12], &[0x0a, 2, 0xc3, 0x28], &[0x0d, 0, 0, 0, 0]] {
            let status = call(method, bytes.to_vec()).await.unwrap_err();
            assert_ne!(status.code(), tonic::Code::Unavailable, "{method} {bytes:?}: {status}");
        }
    }
    let status = call("Backup", vec![0; cellar_tls::MAX_REQUEST + 1]).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    // Such a call leaves its record all the same if it was to change something; nobody could read what it asked.
    let mut lines = world.audit_lines().into_iter();
    for rpc in ["Backup", "RebuildStandby", "AddCell", "RemoveCell", "CancelJob"] {
        for record in lines.by_ref().take(4) {
            assert_eq!((record.rpc.as_str(), record.outcome), (rpc, AuditOutcome::Failed), "{record:?}");
            assert_eq!((record.code, record.arguments.len()), (Some(Code::InvalidArgument), 0), "{record:?}");
            assert!(record.peer.starts_with("127.0.0.1:") && record.identity.is_empty(), "{record:?}");
        }
    }
    assert_eq!(lines.next().unwrap().rpc, "Backup", "the one that is too large");
    assert_eq!(lines.next(), None);
    assert_eq!(call("Nonsense", vec![]).await.unwrap_err().code(), tonic::Code::Unimplemented);
    assert_eq!(world.contents().await, before);
}

/// The real server behind mutual TLS with one operator, Ann; gone when dropped.
struct Guarded {
    dir: tempfile::TempDir,
    address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guarded {
    async fn serve(admin: &Admin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster: ClusterName = "demo".parse().unwrap();
        tls_files(dir.path(), &cluster);
        let files = ServerFiles::in_dir(dir.path(), "multiadmin.crt", "multiadmin.key");
        let config = ReloadableServerConfig::load(files).unwrap();
        let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
        let address = listener.local_addr().unwrap();
        let guard = Guard::new(cluster, Revoked::default(), cellar_api::status_of);
        let admin = admin.clone();
        let task = tokio::spawn(async move {
            serve(admin, listener.incoming(), guard, std::future::pending()).await.unwrap();
        });
        Self { dir, address, task }
    }

    fn ann(&self) -> ClientTls {
        ClientTls::from_dir(self.dir.path()).unwrap()
    }

    /// A new connection of Ann's is answered as fast as on an idle server, give or take a busy machine.
    async fn answers(&self) {
        let begin = std::time::Instant::now();
        let endpoint = self.ann().endpoint(&self.address.to_string(), Some(Duration::from_secs(10))).unwrap();
        let mut client = MultiAdminClient::new(endpoint.connect().await.unwrap());
        assert_eq!(client.list_cells(v1::ListCellsRequest {}).await.unwrap().into_inner().cells.len(), 3);
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_flood_of_strangers_keeps_nobody_waiting() {
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    server.answers().await;
    let mut strangers = Vec::new();
    for n in 0..400u32 {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        // Some say nothing, some begin a handshake, some speak HTTP/2 without TLS.
        let _ = match n % 3 {
            0 => Ok(()),
            1 => socket.write_all(&[0x16, 0x03, 0x01, 0x02]).await,
            _ => socket.write_all(b"PRI * HTTP/2.0").await,
        };
        strangers.push(socket);
    }
    server.answers().await;
}

#[tokio::test]
async fn a_certificate_that_takes_all_its_connections_leaves_the_others_theirs() {
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    let ca = cellar_tls::Ca::load(&server.dir.path().join("ca")).unwrap();
    let greedy = server.dir.path().join("greedy.crt");
    let key = KeyFile::load_or_create(&server.dir.path().join("client.key"), None).unwrap();
    let cluster: ClusterName = "demo".parse().unwrap();
    issue(&ca, &LeafRequest::operator(&cluster, OperatorRole::Viewer, "bob").unwrap(), &key, &greedy)
        .unwrap();
    let tls = ClientTls::from_files(
        &server.dir.path().join("ca.crt"),
        &greedy,
        &server.dir.path().join("client.key"),
    )
    .unwrap();
    let endpoint = tls.endpoint(&server.address.to_string(), Some(Duration::from_secs(10))).unwrap();
    let mut held = Vec::new();
    for _ in 0..cellar_tls::ConnectionLimits::default().per_certificate {
        let mut client = MultiAdminClient::new(endpoint.connect().await.unwrap());
        client.list_cells(v1::ListCellsRequest {}).await.unwrap();
        held.push(client);
    }
    let one_more = async {
        let mut client = MultiAdminClient::new(endpoint.connect().await.map_err(|error| error.to_string())?);
        client.list_cells(v1::ListCellsRequest {}).await.map_err(|status| status.to_string())
    };
    assert!(one_more.await.is_err());
    server.answers().await;
}

fn tls_files(dir: &Path, cluster: &ClusterName) {
    let ca = generate_ca(&dir.join("ca"), cluster).unwrap();
    for (name, request) in [
        ("multiadmin", LeafRequest::multiadmin(cluster, "localhost")),
        ("client", LeafRequest::operator(cluster, OperatorRole::Admin, "ann").unwrap()),
    ] {
        let key = KeyFile::load_or_create(&dir.join(format!("{name}.key")), None).unwrap();
        issue(&ca, &request, &key, &dir.join(format!("{name}.crt"))).unwrap();
    }
    std::fs::copy(dir.join("ca/ca.crt"), dir.join("ca.crt")).unwrap();
}

#[tokio::test]
async fn the_caller_is_who_its_certificate_says() {
    let dir = tempfile::tempdir().unwrap();
    let cluster: ClusterName = "demo".parse().unwrap();
    tls_files(dir.path(), &cluster);
    let world = World::new().await;
    let admin = world.admin_dialing(dial_with_tls(dir.path().to_owned())).await;
    let config =
        ReloadableServerConfig::load(ServerFiles::in_dir(dir.path(), "multiadmin.crt", "multiadmin.key"))
            .unwrap();
    let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
    let address = listener.local_addr().unwrap();
    let guard = Guard::new(cluster, Revoked::default(), cellar_api::status_of);
    let server = tokio::spawn(serve(admin, listener.incoming(), guard, std::future::pending()));
    let tls = ClientTls::from_dir(dir.path()).unwrap();
    let endpoint = tls.endpoint(&address.to_string(), Some(Duration::from_secs(10))).unwrap();
    let mut client = MultiAdminClient::new(endpoint.connect().await.unwrap());
    let job = client.backup(backup_of(3)).await.unwrap().into_inner();
    assert_eq!(job.requested_by, "spiffe://demo/admin/ann");
    let canceled = client.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap().into_inner();
    assert_eq!(canceled.cancel.unwrap().requested_by, "spiffe://demo/admin/ann");
    // Nobody gets in without a certificate, and a pooler is only spoken to over TLS.
    let plain = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    assert!(MultiAdminClient::new(plain).list_cells(v1::ListCellsRequest {}).await.is_err());
    server.abort();
}

/// The table of who may what, over a live server: every method with a certificate of every kind.
#[tokio::test]
async fn every_role_may_call_what_the_table_says_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cluster: ClusterName = "demo".parse().unwrap();
    let other: ClusterName = "other".parse().unwrap();
    tls_files(dir.path(), &cluster);
    let ca = generate_ca(&dir.path().join("ca"), &cluster).unwrap();
    let operator = |role| LeafRequest::operator(&cluster, role, "ci").unwrap();
    let (database, cell) = ("app".parse().unwrap(), "zone1".parse().unwrap());
    let requests = [
        operator(OperatorRole::Viewer),
        operator(OperatorRole::Operator),
        operator(OperatorRole::Admin),
        LeafRequest::pooler(&cluster, &database, &cell, "localhost"),
        LeafRequest::multiadmin(&cluster, "localhost"),
        LeafRequest::replication(&cluster, &cell),
        LeafRequest::pgbackrest(cellar_model::PgbackrestName::default(), "localhost"),
        LeafRequest::etcd_server(&cluster, "localhost"),
        // Signed by the same authority, and of another cluster all the same.
        LeafRequest::operator(&other, OperatorRole::Admin, "ann").unwrap(),
    ];
    let world = World::new().await;
    let admin = world.admin().await;
    let config =
        ReloadableServerConfig::load(ServerFiles::in_dir(dir.path(), "multiadmin.crt", "multiadmin.key"))
            .unwrap();
    let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let guard = Guard::new(cluster.clone(), Revoked::default(), cellar_api::status_of);
    let server = tokio::spawn(serve(admin, listener.incoming(), guard, std::future::pending()));
    let key = KeyFile::load_or_create(&dir.path().join("any.key"), None).unwrap();
    let (mut refused, mut seen) = (0, 0);
    for (at, request) in requests.iter().enumerate() {
        let certificate = dir.path().join(format!("any-{at}.crt"));
        issue(&ca, request, &key, &certificate).unwrap();
        let tls =
            ClientTls::from_files(&dir.path().join("ca.crt"), &certificate, &dir.path().join("any.key"))
                .unwrap();
        let channel = tls.endpoint(&address, Some(Duration::from_secs(10))).unwrap().connect().await.unwrap();
        let principal = request.uri.as_deref().and_then(|uri| Principal::parse(uri, &cluster));
        for (method, needs, effect) in
            access::METHODS.iter().filter(|(method, ..)| method.contains("MultiAdmin/"))
        {
            let may = principal.as_ref().is_some_and(|principal| access::allows(principal, *needs));
            // An empty message is no dry run, for which it takes more than for the method.
            let expires = *method == "/cellar.v1.MultiAdmin/ExpireBackups"
                && principal == Some(Principal::Operator(OperatorRole::Operator));
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            // An empty message: what gets past the door is answered, or refused for what it asks.
            let answer =
                grpc.server_streaming(Request::new(Vec::new()), method.parse().unwrap(), Raw).await.map(drop);
            let denied = answer.as_ref().is_err_and(|status| status.code() == tonic::Code::PermissionDenied);
            // Once answered, the call is in the log: its beginning and its end, or that it came to nothing at the door.
            let lines = world.audit_lines();
            let new = &lines[std::mem::replace(&mut seen, lines.len())..];
            let rpc = method.rsplit('/').next().unwrap();
            assert!(new.iter().all(|record| record.rpc == rpc), "{new:?}");
            let outcomes: Vec<AuditOutcome> = new.iter().map(|record| record.outcome).collect();
            match (effect, denied) {
                (Effect::Reads, _) => assert_eq!(outcomes, [], "{method}"),
                (Effect::Mutates, true) if expires => {
                    assert_eq!(outcomes, [AuditOutcome::Begun, AuditOutcome::Refused], "{method}");
                }
                (Effect::Mutates, true) => assert_eq!(outcomes, [AuditOutcome::Refused], "{method}"),
                (Effect::Mutates, false) => {
                    assert_eq!(outcomes[0], AuditOutcome::Begun, "{method}");
                    assert!(
                        matches!(outcomes[1..], [AuditOutcome::Allowed | AuditOutcome::Failed]),
                        "{method}"
                    );
                }
            }
            for record in new {
                let identity = request.uri.clone().unwrap_or_else(|| "pgbackrest".to_owned());
                assert_eq!(record.identity, identity, "{method}");
                assert!(record.peer.starts_with("127.0.0.1:"), "{record:?}");
            }
            assert_eq!(denied, !may || expires, "{method} as {:?}: {answer:?}", request.uri);
            if let Err(status) = answer.as_ref().map_err(Clone::clone)
                && denied
            {
                refused += 1;
                assert_eq!(cellar_api::reason_of(&status), Some(cellar_model::Code::PermissionDenied));
                let needed = if expires { access::Needs::Role(access::TO_EXPIRE) } else { *needs };
                assert!(status.message().contains(&needed.to_string()), "{status}");
            }
        }
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.unwrap();
        let path = "/cellar.v1.MultiAdmin/DropEverything".parse().unwrap();
        let status = grpc.unary(Request::new(Vec::new()), path, Raw).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "what is not in the table is nobody's");
    }
    assert!(refused > 100, "{refused}");
    server.abort();
}

/// It takes as much to cancel a job as to ask for it.
#[tokio::test]
async fn an_operator_cannot_cancel_a_restore() {
    let dir = tempfile::tempdir().unwrap();
    let cluster: ClusterName = "demo".parse().unwrap();
    tls_files(dir.path(), &cluster);
    let ca = generate_ca(&dir.path().join("ca"), &cluster).unwrap();
    let world = World::new().await;
    let leader = cellar_model::Leader {
        cell: support::zone(1),
        term: cellar_model::Timeline::new(1),
        system_identifier: Some(cellar_model::SystemIdentifier::new(7)),
        lsn: None,
    };
    world.put(&cellar_model::Key::Leader(support::db()), &leader).await;
    let admin = world.admin().await;
    let config =
        ReloadableServerConfig::load(ServerFiles::in_dir(dir.path(), "multiadmin.crt", "multiadmin.key"))
            .unwrap();
    let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let guard = Guard::new(cluster.clone(), Revoked::default(), cellar_api::status_of);
    let server = tokio::spawn(serve(admin, listener.incoming(), guard, std::future::pending()));
    let client = async |role, name: &str| {
        let key = KeyFile::load_or_create(&dir.path().join("op.key"), None).unwrap();
        let path = dir.path().join(format!("{name}.crt"));
        issue(&ca, &LeafRequest::operator(&cluster, role, name).unwrap(), &key, &path).unwrap();
        let files = (dir.path().join("ca.crt"), dir.path().join("op.key"));
        let tls = ClientTls::from_files(&files.0, &path, &files.1).unwrap();
        let endpoint = tls.endpoint(&address, Some(Duration::from_secs(10))).unwrap();
        MultiAdminClient::new(endpoint.connect().await.unwrap())
    };
    let mut ann = client(OperatorRole::Admin, "ann").await;
    let target = v1::restore_target::Target::Latest(v1::LatestTarget {});
    let request = v1::RestoreDatabaseRequest {
        target: Some(v1::RestoreTarget { target: Some(target) }),
        ..Default::default()
    };
    let job = ann.restore_database(request).await.unwrap().into_inner();
    let mut ci = client(OperatorRole::Operator, "ci").await;
    let status = ci.cancel_job(v1::CancelJobRequest { id: job.id.clone() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    let canceled = ann.cancel_job(v1::CancelJobRequest { id: job.id }).await.unwrap().into_inner();
    assert!(canceled.cancel.is_some());
    server.abort();
}

/// Texts that somebody might send: anything, and the nearly right.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,80}",
        "[a-z0-9/._;#\\[\\]-]{0,70}",
        Just("zone3".to_owned()),
        Just("app".to_owned()),
        Just("/c/zone9".to_owned()),
        Just("\0".to_owned()),
        Just("x".repeat(5000)),
        Just("018f0000-0000-7000-8000-000000000000".to_owned()),
        Just("20260301-101500F".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_in_any_field_is_answered(
        a in text(), b in text(), c in text(), d in text(), n in any::<i32>(), size in any::<u32>(),
        seconds in any::<i64>(), nanos in any::<i32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let admin = world.admin().await;
            let timeout = Some(cellar_api::wkt::Duration { seconds, nanos });
            let mut codes = Vec::new();
            macro_rules! call {
                ($method:ident, $message:expr) => {
                    codes.push(Api::$method(&admin, Request::new($message)).await.err());
                };
            }
            call!(backup, v1::BackupRequest { database: a.clone(), cell: b.clone(), r#type: n, request_id: c.clone(), timeout, ..Default::default() });
            call!(backup, v1::BackupRequest { cell: b.clone(), request_id: c.clone(), max_lag_bytes: u64::MAX, queue: true, ..Default::default() });
            call!(rebuild_standby, v1::RebuildStandbyRequest { database: a.clone(), cell: b.clone(), request_id: c.clone(), timeout, ..Default::default() });
            call!(get_job, v1::GetJobRequest { id: a.clone() });
            call!(watch_job, v1::GetJobRequest { id: a.clone() });
            call!(cancel_job, v1::CancelJobRequest { id: a.clone() });
            call!(tail_job_log, v1::TailJobLogRequest { id: a.clone(), follow: true });
            call!(list_jobs, v1::ListJobsRequest { database: a.clone(), page_size: size, page_token: b.clone() });
            call!(list_backups, v1::ListBackupsRequest { database: a.clone() });
            call!(get_backup, v1::GetBackupRequest { database: a.clone(), label: b.clone() });
            call!(add_cell, v1::AddCellRequest { name: a.clone(), host: b.clone(), directory: c.clone(), listen: d.clone() });
            call!(get_database, v1::GetDatabaseRequest { name: a.clone() });
            call!(list_poolers, v1::ListPoolersRequest { database: a.clone(), page_size: size, page_token: b.clone() });
            call!(get_pooler, v1::GetPoolerRequest { database: a.clone(), cell: b.clone() });
            call!(remove_cell, v1::RemoveCellRequest { name: a.clone() });
            call!(list_audit, v1::ListAuditRequest { page_size: size, page_token: b.clone(), identity: a.clone(), rpc: c.clone(), outcome: n, since: Some(cellar_api::wkt::Timestamp { seconds, nanos }), job: d.clone() });
            let target = match n % 4 {
                0 => v1::restore_target::Target::Lsn(c.clone()),
                1 => v1::restore_target::Target::Name(c.clone()),
                2 => v1::restore_target::Target::Backup(c.clone()),
                _ => v1::restore_target::Target::Time(cellar_api::wkt::Timestamp { seconds, nanos }),
            };
            let target = Some(v1::RestoreTarget { target: Some(target) });
            let restore = v1::RestoreDatabaseRequest { database: a.clone(), target, timeline: size, onto: b.clone(), timeout, request_id: d.clone(), ..Default::default() };
            call!(plan_restore, restore.clone());
            call!(restore_database, restore);
            call!(confirm_restore, v1::RestoreJobRequest { id: a.clone(), timeout, request_id: c.clone(), ..Default::default() });
            call!(rollback_restore, v1::RestoreJobRequest { id: a.clone(), timeout, request_id: c.clone(), ..Default::default() });
            call!(drill_restore, v1::DrillRestoreRequest { database: a.clone(), cell: b.clone(), backup: c.clone(), checks: vec![d.clone()], check_database: b.clone(), nice: Some(size), ..Default::default() });
            call!(verify_backups, v1::VerifyBackupsRequest { database: a.clone(), cell: b.clone(), timeout, request_id: c.clone() });
            call!(expire_backups, v1::ExpireBackupsRequest { database: a.clone(), cell: b.clone(), backup: c.clone(), timeout, request_id: d.clone(), ..Default::default() });
            call!(check_archive, v1::CheckArchiveRequest { database: a.clone(), timeout, request_id: b.clone() });
            let drill = v1::ScheduledDrill { cell: Some(b.clone()), checks: vec![d.clone()], check_database: c.clone(), nice: Some(size), ..Default::default() };
            let work = match n % 3 {
                0 => v1::scheduled_work::Work::Backup(v1::ScheduledBackup { cells: vec![a.clone(), b.clone()], r#type: n, ..Default::default() }),
                1 => v1::scheduled_work::Work::Drill(drill),
                _ => v1::scheduled_work::Work::Verify(v1::ScheduledVerification {}),
            };
            let work = Some(v1::ScheduledWork { work: Some(work) });
            call!(list_schedules, v1::ListSchedulesRequest { database: a.clone() });
            call!(put_schedule, v1::PutScheduleRequest { database: a.clone(), name: b.clone(), cron: c.clone(), time_zone: d.clone(), work: work.clone(), paused: None });
            call!(put_schedule, v1::PutScheduleRequest { name: "nightly".into(), cron: a.clone(), time_zone: b.clone(), work, ..Default::default() });
            call!(delete_schedule, v1::DeleteScheduleRequest { database: a.clone(), name: b.clone() });
            for status in codes.into_iter().flatten() {
                // It is refused for a reason that programs can read, and it is never a bug of ours.
                let reason = cellar_api::reason_of(&status).expect("a stable code");
                assert!(!matches!(reason, cellar_model::Code::Internal | cellar_model::Code::Unavailable), "{status}");
            }
            // Whatever it was, each call of a method that changes something has its two lines, and they can be read.
            let lines = world.audit_lines();
            assert_eq!(lines.len(), 2 * 17, "{lines:?}");
        });
    }
}
