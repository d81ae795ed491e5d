use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use cellar_model::PgbackrestName;
use cellar_tls::{
    ClientTls, HandshakeLimits, KeyFile, LeafRequest, MtlsConnectInfo, MtlsListener, ReloadableServerConfig,
    Reloaded, Revoked, TlsError, generate_server_cert, issue, unchecked_client,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tonic::transport::server::Connected;

use crate::support::{World, admin, connect, echo, served_serial};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Echoes on every accepted connection and reports who it was.
async fn serve(
    config: ReloadableServerConfig,
    limits: HandshakeLimits,
) -> (SocketAddr, mpsc::UnboundedReceiver<MtlsConnectInfo>) {
    let listener = MtlsListener::bind(LOOPBACK, config).await.unwrap().with_limits(limits);
    let address = listener.local_addr().unwrap();
    let (report, seen) = mpsc::unbounded_channel();
    tokio::spawn(echo_and_report(listener, report));
    (address, seen)
}

async fn echo_and_report(listener: MtlsListener, report: mpsc::UnboundedSender<MtlsConnectInfo>) {
    let mut incoming = listener.incoming();
    while let Some(stream) = incoming.next().await {
        let stream = stream.unwrap();
        // A test that does not ask who it was has dropped the other end.
        let _ = report.send(stream.connect_info());
        tokio::spawn(async move {
            let (mut read, mut write) = split(stream);
            copy(&mut read, &mut write).await
        });
    }
}

#[tokio::test]
async fn both_sides_learn_the_identity_of_the_other() {
    let world = World::new();
    let config = world.server_config();
    let (address, mut seen) = serve(config.clone(), HandshakeLimits::default()).await;
    let client = world.client();
    let mut stream = connect(address, client.rustls_config().unwrap(), "localhost").await.unwrap();
    echo(&mut stream).await.unwrap();
    assert_eq!(served_serial(&stream), config.info().serial);
    let info = seen.recv().await.unwrap();
    assert_eq!(info.peer.common_name, "admin:alice");
    assert_eq!(info.peer.uri.as_deref(), Some("spiffe://demo/admin/alice"));
    assert_eq!(info.peer.serial, client.info().serial);
    assert_eq!(info.remote_addr, stream.get_ref().0.local_addr().unwrap());
}

#[tokio::test]
async fn connection_ends_when_its_certificate_is_revoked() {
    let world = World::new();
    let revoked = Revoked::default();
    let listener = MtlsListener::bind(LOOPBACK, world.server_config()).await.unwrap();
    let listener = listener.ending_revoked(revoked.clone());
    let address = listener.local_addr().unwrap();
    tokio::spawn(echo_and_report(listener, mpsc::unbounded_channel().0));
    let (thief, other) = (world.client(), world.client_dir("other", &admin("bob")));
    let other = ClientTls::from_dir(&other).unwrap();
    let open = async |client: &ClientTls| {
        let mut stream = connect(address, client.rustls_config().unwrap(), "localhost").await.unwrap();
        echo(&mut stream).await.unwrap();
        stream
    };
    let (mut his, mut hers) = (open(&thief).await, open(&other).await);
    assert!(revoked.take([thief.info().serial.clone()].into()));
    // It waits for nothing that he says.
    let ended = tokio::time::timeout(Duration::from_secs(10), his.read_u8()).await.expect("it ends");
    assert!(ended.is_err());
    assert!(his.read_u8().await.is_err(), "and stays so");
    echo(&mut hers).await.unwrap();
    // Whom the next one belongs to is looked at in each call, which can say why it is refused.
    let _ = open(&thief).await;
}

#[tokio::test]
async fn peers_without_a_certificate_of_the_authority_are_refused() {
    let (world, other) = (World::new(), World::new());
    let files = world.server();
    let (address, mut seen) = serve(world.server_config(), HandshakeLimits::default()).await;
    let hour = Duration::from_secs(3600);
    let past = LeafRequest { valid_from: Some(SystemTime::now() - 3 * hour), lifetime: hour, ..admin("a") };
    let future = LeafRequest { valid_from: Some(SystemTime::now() + hour), lifetime: hour, ..admin("a") };
    let server_only = LeafRequest { client_auth: false, server_auth: true, ..admin("a") };
    let cases = [
        ("no certificate", None),
        ("another authority's", Some(other.client_dir("client", &admin("a")))),
        ("expired", Some(world.client_dir("past", &past))),
        ("not yet valid", Some(world.client_dir("future", &future))),
        ("not for clients", Some(world.client_dir("server-only", &server_only))),
    ];
    for (why, dir) in cases {
        let pair = dir.map(|dir| (dir.join("client.crt"), dir.join("client.key")));
        let pair = pair.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        let talk = async {
            let mut stream =
                connect(address, unchecked_client(&files.authorities, pair).unwrap(), "localhost").await?;
            echo(&mut stream).await
        };
        assert!(talk.await.is_err(), "{why}");
    }
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn client_checks_name_and_authority_of_the_server() {
    let (world, other) = (World::new(), World::new());
    let (address, _seen) = serve(world.server_config(), HandshakeLimits::default()).await;
    let config = world.client().rustls_config().unwrap();
    connect(address, config.clone(), "127.0.0.1").await.unwrap();
    assert!(connect(address, config, "zone9").await.is_err());
    let foreign = other.client().rustls_config().unwrap();
    assert!(connect(address, foreign, "localhost").await.is_err());
}

#[tokio::test]
async fn reload_serves_the_new_pair_and_keeps_open_connections() {
    let world = World::new();
    let config = world.server_config();
    let (address, _seen) = serve(config.clone(), HandshakeLimits::default()).await;
    let client = world.client().rustls_config().unwrap();
    let mut old = connect(address, client.clone(), "localhost").await.unwrap();
    echo(&mut old).await.unwrap();
    assert_eq!(config.reload().unwrap(), Reloaded::Unchanged);

    std::fs::remove_file(world.path("server/server.crt")).unwrap();
    let issued = generate_server_cert(&world.ca, &world.path("server"), "localhost", None).unwrap();
    assert_eq!(config.reload().unwrap(), Reloaded::Swapped(issued.info().clone()));
    let mut new = connect(address, client.clone(), "localhost").await.unwrap();
    echo(&mut new).await.unwrap();
    assert_eq!(served_serial(&new), issued.info().serial);
    assert_ne!(served_serial(&old), served_serial(&new));
    echo(&mut old).await.unwrap();

    // A pair that does not fit is refused and the served one stays.
    let key = KeyFile::load_or_create(&world.path("another.key"), None).unwrap();
    issue(
        &world.ca,
        &LeafRequest::pgbackrest(PgbackrestName::default(), "localhost"),
        &key,
        &world.path("server/server.crt"),
    )
    .unwrap();
    assert!(matches!(config.reload(), Err(TlsError::Mismatch { .. })));
    let stream = connect(address, client, "localhost").await.unwrap();
    assert_eq!(served_serial(&stream), issued.info().serial);
}

/// A resumed session would not be verified again. The client would like to resume one.
#[tokio::test]
async fn no_session_is_resumed() {
    let world = World::new();
    let (address, _seen) = serve(world.server_config(), HandshakeLimits::default()).await;
    let mut config = world.client().rustls_config().unwrap();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    for _ in 0..3 {
        let mut stream = connect(address, config.clone(), "localhost").await.unwrap();
        echo(&mut stream).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn silent_connections_do_not_delay_others() {
    let world = World::new();
    let (address, _seen) = serve(world.server_config(), HandshakeLimits::default()).await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let started = Instant::now();
    let config = world.client().rustls_config().unwrap();
    let mut stream = connect(address, config, "localhost").await.unwrap();
    echo(&mut stream).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn silent_connections_beyond_the_slots_are_evicted() {
    let world = World::new();
    let limits = HandshakeLimits { pending: 8, ..HandshakeLimits::default() };
    let (address, _seen) = serve(world.server_config(), limits).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let started = Instant::now();
    let config = world.client().rustls_config().unwrap();
    let mut stream = connect(address, config, "localhost").await.unwrap();
    echo(&mut stream).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    // The very first silent one was hung up on, long before the deadline.
    let end = tokio::time::timeout(Duration::from_secs(2), idle[0].read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn handshake_has_a_deadline() {
    let world = World::new();
    let limits = HandshakeLimits { deadline: Duration::from_millis(200), ..HandshakeLimits::default() };
    let (address, _seen) = serve(world.server_config(), limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    // The start of a handshake record that never ends.
    slow.write_all(&[0x16, 0x03, 0x01, 0x02]).await.unwrap();
    let end = tokio::time::timeout(Duration::from_secs(5), slow.read(&mut [0])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn server_listens_on_each_address_that_the_host_has() {
    let world = World::new();
    let port = std::net::TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap().port();
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), port);
    // 192.0.2.1 is reserved for documentation (RFC 5737): no host has it.
    let addresses = [at("192.0.2.1"), at("127.0.0.1"), at("127.0.0.2")];
    let listener = MtlsListener::bind_all(&addresses, world.server_config()).await.unwrap();
    tokio::spawn(echo_and_report(listener, mpsc::unbounded_channel().0));
    for address in [at("127.0.0.2"), at("127.0.0.1"), at("127.0.0.2")] {
        let tls = world.client().rustls_config().unwrap();
        let mut stream = connect(address, tls, "localhost").await.unwrap();
        echo(&mut stream).await.unwrap();
    }
    let error = MtlsListener::bind_all(&[at("192.0.2.1")], world.server_config()).await.unwrap_err();
    assert!(error.to_string().contains("does not have that address"), "{error}");
}

#[tokio::test]
async fn bind_error_names_the_port() {
    let world = World::new();
    let first = MtlsListener::bind(LOOPBACK, world.server_config()).await.unwrap();
    let taken = first.local_addr().unwrap();
    let error = MtlsListener::bind(taken, world.server_config()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("port {} of 127.0.0.1", taken.port())), "{error}");
    let source = std::error::Error::source(&error).unwrap().downcast_ref::<io::Error>().unwrap();
    assert_eq!(source.kind(), io::ErrorKind::AddrInUse);
}
