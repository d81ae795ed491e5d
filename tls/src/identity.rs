//! A certificate with its key and the authorities it trusts, validated as a whole.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::UnixTime;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file;
use crate::provider::provider;

/// What one party presents, and whom it trusts.
///
/// It exists only if the key fits the certificate and the certificate is valid
/// now under one of the trusted authorities: swapping files in is safe once it loads.
pub struct Identity {
    roots: Arc<RootCertStore>,
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pem: Pem,
    info: CertificateInfo,
}

/// The files' own text, which tonic wants.
struct Pem {
    authorities: String,
    certificate: String,
    key: String,
}

impl fmt::Debug for Identity {
    /// Shows the certificate, never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Identity {
    /// Loads and validates. `authorities` may hold several certificates, as
    /// it does while an authority is being replaced.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, the key does not fit the
    /// certificate, or the certificate does not verify now.
    pub fn load(authorities: &Path, certificate: &Path, key: &Path) -> Result<Self> {
        let pem = Pem {
            authorities: file::read(authorities)?,
            certificate: file::read(certificate)?,
            key: file::read(key)?,
        };
        let trusted = certificates(authorities, &pem.authorities)?;
        let chain = certificates(certificate, &pem.certificate)?;
        let private = private_key(key, &pem.key)?;
        let info = CertificateInfo::from_pem(certificate, &pem.certificate)?;

        let provider = provider();
        match CertifiedKey::from_der(chain.clone(), private.clone_key(), &provider) {
            Ok(_) => {}
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(TlsError::Mismatch { certificate: certificate.to_owned(), key: key.to_owned() });
            }
            Err(error) => return Err(TlsError::bad_file(key, error.to_string())),
        }
        let mut roots = RootCertStore::empty();
        for root in &trusted {
            roots.add(root.clone()).map_err(|e| TlsError::bad_file(authorities, e.to_string()))?;
        }
        let roots = Arc::new(roots);
        verify(&roots, &chain, &info, &provider).map_err(|source| TlsError::Untrusted {
            certificate: certificate.to_owned(),
            authority: authorities.to_owned(),
            source,
        })?;
        Ok(Self { roots, authorities: trusted, chain, key: private, pem, info })
    }

    /// The certificate's content.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The trusted authorities, for a rustls configuration.
    #[must_use]
    pub fn roots(&self) -> Arc<RootCertStore> {
        self.roots.clone()
    }

    /// The certificate and what follows it in its file.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Whether presenting and trusting `other` instead would make no difference.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.chain == other.chain && self.authorities == other.authorities && self.key == other.key
    }

    pub(crate) fn tonic_authorities(&self) -> tonic::transport::Certificate {
        tonic::transport::Certificate::from_pem(&self.pem.authorities)
    }

    pub(crate) fn tonic_identity(&self) -> tonic::transport::Identity {
        tonic::transport::Identity::from_pem(&self.pem.certificate, &self.pem.key)
    }
}

pub(crate) fn certificates(path: &Path, pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => {
            Err(TlsError::bad_file(path, "it holds no certificate in PEM"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(TlsError::bad_file(path, error.to_string())),
    }
}

pub(crate) fn private_key(path: &Path, pem: &str) -> Result<PrivateKeyDer<'static>> {
    // The parser's own message is left out: nothing derived from a key's bytes gets near a log.
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| TlsError::bad_file(path, "it holds no private key in PEM that can be read"))
}

/// Verifies the way the other side will: as a server's certificate if it may be one, else as a client's.
fn verify(
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'static>],
    info: &CertificateInfo,
    provider: &Arc<CryptoProvider>,
) -> std::result::Result<(), Error> {
    let Some((leaf, intermediates)) = chain.split_first() else { return Err(Error::NoCertificatesPresented) };
    let now = UnixTime::now();
    if info.server_auth {
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            roots,
            intermediates,
            now,
            provider.signature_verification_algorithms.all,
        )?;
    }
    if info.client_auth || !info.server_auth {
        WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|e| Error::General(e.to_string()))?
            .verify_client_cert(leaf, intermediates, now)?;
    }
    Ok(())
}
