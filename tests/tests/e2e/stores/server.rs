//! An S3 server for tests: over a directory, with TLS by an authority of its own, checking the signature of each request.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use cellar_tls::{CA_CERTIFICATE, Ca, SERVER_CERTIFICATE, SERVER_KEY, generate_ca, generate_server_cert};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::{S3Auth, SecretKey};
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, GetObjectInput,
    GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    PutObjectInput, PutObjectOutput, UploadPartInput, UploadPartOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The only bucket.
pub(super) const BUCKET: &str = "backups";

/// The secrets by the keys that go with them.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys(Arc<Mutex<BTreeMap<String, String>>>);

impl Keys {
    pub(super) fn add(&self, key: &str, secret: &str) {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.to_owned(), secret.to_owned());
    }

    pub(super) fn withdraw(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

#[async_trait::async_trait]
impl S3Auth for Keys {
    async fn get_secret_key(&self, key: &str) -> S3Result<SecretKey> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.get(key)
            .map(|secret| SecretKey::from(secret.as_str()))
            .ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

/// The requests that pgBackRest makes. `s3s-fs` takes a directory of its own for an object, and fails: in S3 there is none.
struct Objects {
    files: FileSystem,
    root: PathBuf,
}

impl Objects {
    fn check_is_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        match self.root.join(bucket).join(key).is_dir() {
            true => Err(s3_error!(NoSuchKey)),
            false => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl S3 for Objects {
    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.check_is_object(&request.input.bucket, &request.input.key)?;
        self.files.head_object(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.check_is_object(&request.input.bucket, &request.input.key)?;
        self.files.get_object(request).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        self.files.put_object(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.files.delete_object(request).await
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        self.files.delete_objects(request).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        self.files.list_objects_v2(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.files.complete_multipart_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(request).await
    }
}

/// A server that ends with this.
pub(super) struct S3Server {
    pub(super) keys: Keys,
    pub(super) port: u16,
    /// Outside of every cluster. Everybody may read the certificate of the authority in it.
    directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl S3Server {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("permissions");
        let (root, tls) = (directory.path().join("data"), directory.path().join("tls"));
        std::fs::create_dir_all(root.join(BUCKET)).expect("a bucket");
        let authority: Ca = generate_ca(&tls, &"stores".parse().expect("a name")).expect("an authority");
        generate_server_cert(&authority, &tls, "localhost", None).expect("a certificate");
        std::fs::copy(tls.join(CA_CERTIFICATE), directory.path().join(CA_CERTIFICATE)).expect("copied");
        let keys = Keys::default();
        let mut service =
            S3ServiceBuilder::new(Objects { files: FileSystem::new(&root).expect("the data"), root });
        service.set_auth(keys.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("a port").port();
        runtime.spawn(serve(listener, acceptor(&tls), service.build()));
        Self { keys, port, directory, _runtime: runtime }
    }

    /// The certificate of the authority.
    pub(super) fn authority(&self) -> PathBuf {
        self.directory.path().join(CA_CERTIFICATE)
    }

    /// The URL of a repository in it.
    pub(super) fn url(&self, path: &str) -> String {
        format!(
            "s3://{BUCKET}{path}?ca-file={}&endpoint=localhost&port={}&region=us-east-1&uri-style=path",
            self.authority().display(),
            self.port
        )
    }

    /// Where the objects are.
    pub(super) fn objects(&self) -> PathBuf {
        self.directory.path().join("data").join(BUCKET)
    }

    /// A file that only its owner may read.
    pub(super) fn write_private(&self, name: &str, content: &str) -> String {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.directory.path().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&path).expect("a file");
        std::io::Write::write_all(&mut file, content.as_bytes()).expect("a file");
        path.display().to_string()
    }
}

fn acceptor(tls: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(tls.join(SERVER_CERTIFICATE)).expect("a certificate");
    let chain = chain.collect::<Result<Vec<_>, _>>().expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(tls.join(SERVER_KEY)).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, service: S3Service) {
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, service) = (tls.clone(), service.clone());
        tokio::spawn(async move {
            let Ok(stream) = tls.accept(socket).await else { return };
            let http = Builder::new(TokioExecutor::new()).http1_only();
            // How a connection ended is the client's business.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
