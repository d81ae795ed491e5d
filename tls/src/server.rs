//! The TLS side of a gRPC server: mutual, and replaceable while it serves.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file_names::CA_CERTIFICATE;
use crate::identity::Identity;
use crate::provider::provider;

/// HTTP/2, the only protocol gRPC speaks.
const ALPN_H2: &[u8] = b"h2";

/// What balancers and their checks speak.
const ALPN_HTTP: &[u8] = b"http/1.1";

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visitors {
    /// Whoever has a certificate of a trusted authority.
    Certified,
    /// Everybody. No certificate is asked for.
    Anybody,
}

/// The files that a server presents and trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Trusted authorities, one or several.
    pub authorities: PathBuf,
    /// The server's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl ServerFiles {
    /// `ca.crt`, and the named certificate and key, in one directory.
    #[must_use]
    pub fn in_dir(dir: impl Into<PathBuf>, certificate: &str, key: &str) -> Self {
        let dir = dir.into();
        Self { authorities: dir.join(CA_CERTIFICATE), certificate: dir.join(certificate), key: dir.join(key) }
    }
}

/// What a reload did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The files hold what is served already.
    Unchanged,
    /// New handshakes get this certificate; open connections keep theirs.
    Swapped(CertificateInfo),
}

/// A server's TLS configuration that can be replaced while connections are served.
///
/// Cheap to clone; clones share the configuration.
#[derive(Debug, Clone)]
pub struct ReloadableServerConfig {
    files: Arc<ServerFiles>,
    visitors: Visitors,
    active: Arc<RwLock<Active>>,
}

#[derive(Debug, Clone)]
struct Active {
    identity: Arc<Identity>,
    config: Arc<ServerConfig>,
}

impl Active {
    fn load(files: &ServerFiles, visitors: Visitors) -> Result<Self> {
        let identity = Identity::load(&files.authorities, &files.certificate, &files.key)?;
        let config = Arc::new(server_config(&identity, visitors)?);
        Ok(Self { identity: Arc::new(identity), config })
    }
}

impl ReloadableServerConfig {
    /// Loads and validates the files.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load(files: ServerFiles) -> Result<Self> {
        Self::load_for(files, Visitors::Certified)
    }

    /// The same for a server that answers HTTP/1.1 to everybody, and asks for no certificate: what it says must be for
    /// everybody.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn load_open(files: ServerFiles) -> Result<Self> {
        Self::load_for(files, Visitors::Anybody)
    }

    fn load_for(files: ServerFiles, visitors: Visitors) -> Result<Self> {
        let active = Active::load(&files, visitors)?;
        Ok(Self { files: Arc::new(files), visitors, active: Arc::new(RwLock::new(active)) })
    }

    /// Reads the files again and serves them from the next handshake on.
    ///
    /// May be called at any time and as often as wanted. Reads three small files: blocking, but briefly.
    ///
    /// # Errors
    /// As [`Identity::load`]; what was served before goes on being served.
    pub fn reload(&self) -> Result<Reloaded> {
        let next = Active::load(&self.files, self.visitors)?;
        let mut active = self.active.write().unwrap_or_else(PoisonError::into_inner);
        if next.identity.is_same_as(&active.identity) {
            return Ok(Reloaded::Unchanged);
        }
        let info = next.identity.info().clone();
        *active = next;
        Ok(Reloaded::Swapped(info))
    }

    /// The content of the certificate in use.
    #[must_use]
    pub fn info(&self) -> CertificateInfo {
        self.active().identity.info().clone()
    }

    /// The configuration for the next handshake.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        self.active().config
    }

    fn active(&self) -> Active {
        self.active.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn server_config(identity: &Identity, visitors: Visitors) -> Result<ServerConfig> {
    let failed = |source| TlsError::Configure { what: "a server", source };
    let verifier = match visitors {
        Visitors::Certified => WebPkiClientVerifier::builder_with_provider(identity.roots(), provider())
            .build()
            .map_err(|e| failed(rustls::Error::General(e.to_string())))?,
        Visitors::Anybody => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())
        .map_err(failed)?;
    let protocol = match visitors {
        Visitors::Certified => ALPN_H2,
        Visitors::Anybody => ALPN_HTTP,
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    // A resumed session is not verified again, so an expired certificate could
    // live on in it. gRPC connections are few and long: resumption saves nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
