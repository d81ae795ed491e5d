//! Limits of connections: callers without certificates, and one certificate with many connections.

use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tls::{ClientTls, KeyFile, LeafRequest, OperatorRole, issue};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::World;
use crate::support::tls::{Guarded, cluster};

#[tokio::test]
async fn connections_without_certificates_do_not_delay_others() {
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    server.answers_quickly().await;
    let mut strangers = Vec::new();
    for n in 0..400u32 {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        // Some send nothing, some begin a handshake, some speak HTTP/2 without TLS.
        let _ = match n % 3 {
            0 => Ok(()),
            1 => socket.write_all(&[0x16, 0x03, 0x01, 0x02]).await,
            _ => socket.write_all(b"PRI * HTTP/2.0").await,
        };
        strangers.push(socket);
    }
    server.answers_quickly().await;
}

#[tokio::test]
async fn one_certificate_cannot_take_the_connections_of_others() {
    let world = World::new().await;
    let server = Guarded::serve(&world.admin().await).await;
    let ca = cellar_tls::Ca::load(&server.dir.path().join("ca")).unwrap();
    let greedy = server.dir.path().join("greedy.crt");
    let key = KeyFile::load_or_create(&server.dir.path().join("client.key"), None).unwrap();
    issue(&ca, &LeafRequest::operator(&cluster(), OperatorRole::Viewer, "bob").unwrap(), &key, &greedy)
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
    server.answers_quickly().await;
}
