//! A cluster's certificates in a temporary directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cellar_model::ClusterName;
use cellar_tls::{
    Ca, ClientTls, KeyFile, LeafRequest, OperatorRole, ReloadableServerConfig, ServerFiles, generate_ca,
    generate_server_cert, issue,
};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) ca: Ca,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = generate_ca(&dir.path().join("ca"), &cluster()).unwrap();
        Self { dir, ca }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A server's files for localhost.
    pub(crate) fn server(&self) -> ServerFiles {
        let dir = self.path("server");
        generate_server_cert(&self.ca, &dir, "localhost", None).unwrap();
        self.ca.install_certificate(&dir, None).unwrap();
        ServerFiles::in_dir(dir, "server.crt", "server.key")
    }

    pub(crate) fn server_config(&self) -> ReloadableServerConfig {
        ReloadableServerConfig::load(self.server()).unwrap()
    }

    /// A client's directory with the certificate that `request` describes.
    pub(crate) fn client_dir(&self, name: &str, request: &LeafRequest) -> PathBuf {
        let dir = self.path(name);
        let key = KeyFile::load_or_create(&dir.join("client.key"), None).unwrap();
        issue(&self.ca, request, &key, &dir.join("client.crt")).unwrap();
        self.ca.install_certificate(&dir, None).unwrap();
        dir
    }

    pub(crate) fn client(&self) -> ClientTls {
        ClientTls::from_dir(&self.client_dir("client", &admin("alice"))).unwrap()
    }
}

pub(crate) fn cluster() -> ClusterName {
    "demo".parse().unwrap()
}

pub(crate) fn admin(name: &str) -> LeafRequest {
    LeafRequest::operator(&cluster(), OperatorRole::Admin, name).unwrap()
}

pub(crate) fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) async fn connect(
    address: std::net::SocketAddr,
    config: ClientConfig,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), tcp).await
}

/// Sends a byte and waits for its echo: with TLS 1.3 a client learns only here
/// that the server refused its certificate.
pub(crate) async fn echo(stream: &mut TlsStream<TcpStream>) -> std::io::Result<()> {
    stream.write_all(b"x").await?;
    stream.flush().await?;
    let mut byte = [0];
    stream.read_exact(&mut byte).await.map(|_| ())
}

/// The serial that the server at the other end presented.
pub(crate) fn served_serial(stream: &TlsStream<TcpStream>) -> String {
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    cellar_tls::CertificateInfo::from_der(&certificates[0]).unwrap().serial
}
