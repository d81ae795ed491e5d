use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use cellar_tls::{
    LeafRequest, MtlsListener, ProbeProtocol, Probed, Result, TlsError, probe, unchecked_client,
};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::transport::Server;

use crate::support::{World, admin};

const DEADLINE: Duration = Duration::from_secs(5);

async fn grpc_server(world: &World) -> SocketAddr {
    let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), world.server_config()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(Server::builder().add_service(health).serve_with_incoming(listener.incoming()));
    address
}

async fn look(address: SocketAddr, tls: ClientConfig) -> Result<Probed> {
    probe(address, "localhost", ProbeProtocol::Grpc, tls, DEADLINE).await
}

#[tokio::test]
async fn probe_reports_the_served_certificate_and_whether_it_was_accepted() {
    let (world, other) = (World::new(), World::new());
    let files = world.server();
    let address = grpc_server(&world).await;
    let served = cellar_tls::CertificateInfo::from_file(&files.certificate).unwrap();
    let found = look(address, world.client().rustls_config().unwrap()).await.unwrap();
    assert_eq!(found, Probed { served: served.clone(), accepted: Ok(()) });

    let hour = Duration::from_secs(3600);
    let past = LeafRequest { valid_from: Some(SystemTime::now() - 3 * hour), lifetime: hour, ..admin("a") };
    for (why, dir) in [
        ("no certificate", None),
        ("another authority's", Some(other.client_dir("client", &admin("a")))),
        ("expired", Some(world.client_dir("past", &past))),
    ] {
        let pair = dir.map(|dir| (dir.join("client.crt"), dir.join("client.key")));
        let pair = pair.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        let found = look(address, unchecked_client(&files.authorities, pair).unwrap()).await.unwrap();
        assert!(found.accepted.is_err(), "{why}");
        assert_eq!(found.served, served, "{why}");
    }
}

#[tokio::test]
async fn server_with_another_name_is_an_error() {
    let (world, other) = (World::new(), World::new());
    let address = grpc_server(&world).await;
    let config = world.client().rustls_config().unwrap();
    let elsewhere = probe(address, "zone9", ProbeProtocol::Grpc, config, DEADLINE).await;
    assert!(matches!(elsewhere, Err(TlsError::Probe { .. })), "{elsewhere:?}");
    assert!(look(address, other.client().rustls_config().unwrap()).await.is_err());
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    assert!(look(nobody, world.client().rustls_config().unwrap()).await.is_err());
}

#[tokio::test]
async fn probe_of_a_silent_server_ends_at_the_deadline() {
    let world = World::new();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = world.client().rustls_config().unwrap();
    let short = Duration::from_millis(100);
    let address = mute.local_addr().unwrap();
    let found = probe(address, "localhost", ProbeProtocol::Grpc, config, short).await.unwrap_err();
    let source = std::error::Error::source(&found).unwrap();
    assert!(source.to_string().contains("nothing within 100ms"), "{source}");
}

#[tokio::test]
async fn postgresql_without_tls_is_an_error() {
    let world = World::new();
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        let mut request = [0; 8];
        stream.read_exact(&mut request).await.unwrap();
        assert_eq!(u32::from_be_bytes(request[4..].try_into().unwrap()), 80_877_103);
        stream.write_all(b"N").await.unwrap();
    });
    let config = world.client().rustls_config().unwrap();
    let found = probe(address, "localhost", ProbeProtocol::Postgres, config, DEADLINE).await.unwrap_err();
    let source = std::error::Error::source(&found).unwrap();
    assert!(source.to_string().contains("does not speak TLS"), "{source}");
}
