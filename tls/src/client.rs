//! The client's side: tonic endpoints with mutual TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file_names::{CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY};
use crate::identity::Identity;
use crate::provider::provider;

/// Longest wait for a TCP connection, and again for the handshake on it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a connection is asked whether it is alive. Without it a call
/// hangs for ever on a connection whose other end vanished.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long the answer may take before the connection counts as dead.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client presents, whom it trusts, and the server name it insists on.
#[derive(Debug, Clone)]
pub struct ClientTls {
    identity: Arc<Identity>,
    domain_name: String,
}

impl ClientTls {
    /// Loads and validates the three files. The server must answer for `localhost`
    /// unless [`ClientTls::domain_name`] sets another name.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn from_files(authorities: &Path, certificate: &Path, key: &Path) -> Result<Self> {
        let identity = Arc::new(Identity::load(authorities, certificate, key)?);
        Ok(Self { identity, domain_name: "localhost".to_owned() })
    }

    /// Loads `ca.crt`, `client.crt` and `client.key` from a client directory.
    ///
    /// # Errors
    /// As [`Identity::load`].
    pub fn from_dir(dir: &Path) -> Result<Self> {
        Self::from_files(&dir.join(CA_CERTIFICATE), &dir.join(CLIENT_CERTIFICATE), &dir.join(CLIENT_KEY))
    }

    /// Insists on this name (or IP address) in the server's certificate.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = name.into();
        self
    }

    /// The content of the client's certificate.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        self.identity.info()
    }

    /// The settings as tonic's, which etcd-client takes too (its `TlsOptions`).
    #[must_use]
    pub fn tonic_config(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(self.identity.tonic_authorities())
            .identity(self.identity.tonic_identity())
            .domain_name(&self.domain_name)
            .timeout(CONNECT_TIMEOUT)
    }

    /// An endpoint for `address` (`HOST:PORT`), with deadlines on everything:
    /// connecting, idle connections, and `request_timeout` on each call.
    ///
    /// `request_timeout` `None` is for streams that live long: tonic counts the
    /// time until the answer's head, but a stream's caller wants its own deadline.
    ///
    /// # Errors
    /// When `address` is not one, or tonic refuses the TLS settings.
    pub fn endpoint(&self, address: &str, request_timeout: Option<Duration>) -> Result<Endpoint> {
        let bad = |source| TlsError::BadAddress { address: address.to_owned(), source };
        let endpoint = Endpoint::from_shared(format!("https://{address}"))
            .map_err(bad)?
            .tls_config(self.tonic_config())
            .map_err(bad)?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(match request_timeout {
            Some(timeout) => endpoint.timeout(timeout),
            None => endpoint,
        })
    }

    /// The settings as rustls's, for handshakes without gRPC such as reading back a served serial.
    ///
    /// # Errors
    /// When rustls refuses them.
    pub fn rustls_config(&self) -> Result<ClientConfig> {
        let failed = |source| TlsError::Configure { what: "a client", source };
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(self.identity.roots())
            .with_client_auth_cert(self.identity.chain(), self.identity.key())
            .map_err(failed)
    }
}
