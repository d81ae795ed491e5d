//! multiadmin behind mutual TLS.

use std::path::Path;
use std::time::Duration;

use cellar_admin::{Admin, serve};
use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::ClusterName;
use cellar_tls::{
    Ca, ClientTls, Guard, KeyFile, LeafRequest, MtlsListener, OperatorRole, ReloadableServerConfig, Revoked,
    ServerFiles, generate_ca, issue,
};
use tonic::transport::Channel;

/// The cluster that certificates name.
pub fn cluster() -> ClusterName {
    "demo".parse().unwrap()
}

/// The real server behind mutual TLS with one operator, Ann; ended when dropped.
pub struct Guarded {
    pub dir: tempfile::TempDir,
    pub address: std::net::SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Guarded {
    pub async fn serve(admin: &Admin) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cluster = cluster();
        write_tls_files(dir.path(), &cluster);
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

    /// Connects with a certificate that the cluster's authority issues for `request`.
    pub async fn connect_as(&self, request: &LeafRequest) -> Channel {
        let (dir, id) = (self.dir.path(), uuid::Uuid::now_v7());
        let (key, certificate) = (dir.join("any.key"), dir.join(format!("{id}.crt")));
        let ca = Ca::load(&dir.join("ca")).unwrap();
        issue(&ca, request, &KeyFile::load_or_create(&key, None).unwrap(), &certificate).unwrap();
        let tls = ClientTls::from_files(&dir.join("ca.crt"), &certificate, &key).unwrap();
        self.connect(&tls).await.unwrap()
    }

    /// Connects as Ann.
    pub async fn ann(&self) -> MultiAdminClient<Channel> {
        MultiAdminClient::new(self.connect(&ClientTls::from_dir(self.dir.path()).unwrap()).await.unwrap())
    }

    async fn connect(&self, tls: &ClientTls) -> Result<Channel, tonic::transport::Error> {
        let endpoint = tls.endpoint(&self.address.to_string(), Some(Duration::from_secs(10))).unwrap();
        endpoint.connect().await
    }

    /// A call over a new connection of Ann's is answered within three seconds.
    pub async fn answers_quickly(&self) {
        let begin = std::time::Instant::now();
        let mut client = self.ann().await;
        assert_eq!(client.list_cells(v1::ListCellsRequest {}).await.unwrap().into_inner().cells.len(), 3);
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }
}

/// An authority with the certificates of the server and of Ann.
fn write_tls_files(dir: &Path, cluster: &ClusterName) {
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
