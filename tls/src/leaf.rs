//! Issuing leaf certificates.

use std::path::Path;
use std::time::{Duration, SystemTime};

use cellar_model::PgbackrestName;
use cellar_system::Owner;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::authority::Ca;
use crate::certificate::{CertificateInfo, parse};
use crate::error::{Result, TlsError};
use crate::file::{self, CERTIFICATE_MODE};
use crate::file_names::{SERVER_CERTIFICATE, SERVER_KEY};
use crate::key::KeyFile;
use crate::request::{CLOCK_SKEW, LeafRequest};
use crate::subject::{distinguished_name, random_serial};

/// What became of a request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Issued {
    /// The existing certificate has the names and uses that were asked for, and more than a third of its life left.
    Kept(CertificateInfo),
    /// A new one was written.
    Written(CertificateInfo),
}

impl Issued {
    /// The certificate that is on disk now.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        match self {
            Self::Kept(info) | Self::Written(info) => info,
        }
    }

    /// Whether the file changed, so that the program that presents it must reload.
    #[must_use]
    pub fn is_new(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

/// Issues the pgBackRest certificate of a cell: `server.crt` for `server.key` in `directory`.
///
/// Common name `pgbackrest`, for servers and clients, one year, valid for
/// `localhost`, `127.0.0.1`, `::1` and the cell's host name. The key is made if there is none.
///
/// # Errors
/// When a file cannot be read or written, or `cell_host` is neither a DNS name nor an IP address.
pub fn generate_server_cert(
    ca: &Ca,
    directory: &Path,
    cell_host: &str,
    owner: Option<Owner>,
) -> Result<Issued> {
    let request = LeafRequest::pgbackrest(PgbackrestName::default(), cell_host);
    request.check()?;
    let key = KeyFile::load_or_create(&directory.join(SERVER_KEY), owner)?;
    issue(ca, &request, &key, &directory.join(SERVER_CERTIFICATE))
}

/// Issues a certificate for an existing key into `path` (mode 0644, the key's owner).
///
/// The file is kept byte for byte while it is this authority's certificate for
/// this key, has exactly the names and uses asked for, lives no longer than asked, and has
/// more than a third of its life left. Otherwise it is replaced in one step.
///
/// # Errors
/// When the request cannot be a certificate, or the file cannot be written.
pub fn issue(ca: &Ca, request: &LeafRequest, key: &KeyFile, path: &Path) -> Result<Issued> {
    request.check()?;
    let now = SystemTime::now();
    if let Some(info) = keep(ca, request, key, path, now)? {
        return Ok(Issued::Kept(info));
    }
    let certificate = parameters(ca, request, now)?
        .signed_by(key.pair(), ca.issuer())
        .map_err(|e| TlsError::Generate { what: "a certificate", reason: e.to_string() })?;
    let info = CertificateInfo::from_der(certificate.der())?;
    let text = format!("{}{}", certificate.pem(), ca.chain()?);
    file::replace(path, &text, CERTIFICATE_MODE, key.owner())?;
    tracing::info!(path = %path.display(), serial = info.serial, common_name = info.common_name, "issued a certificate");
    Ok(Issued::Written(info))
}

/// Signs a certificate for the holder of the key of a signing request (PEM); its names and uses are decided here and
/// not by the request. The certificate and what follows it, in PEM.
///
/// # Errors
/// When the request is no proof of a key, or cannot be a certificate.
pub fn sign_request(ca: &Ca, request: &LeafRequest, signing_request: &str) -> Result<String> {
    request.check()?;
    let refuse =
        |reason: rcgen::Error| TlsError::Generate { what: "a certificate", reason: reason.to_string() };
    let mut asked = CertificateSigningRequestParams::from_pem(signing_request).map_err(refuse)?;
    asked.params = parameters(ca, request, SystemTime::now())?;
    let certificate = asked.signed_by(ca.issuer()).map_err(refuse)?;
    Ok(format!("{}{}", certificate.pem(), ca.chain()?))
}

fn keep(
    ca: &Ca,
    request: &LeafRequest,
    key: &KeyFile,
    path: &Path,
    now: SystemTime,
) -> Result<Option<CertificateInfo>> {
    // A file that cannot be used is replaced by a new certificate.
    let Ok(content) = file::read_own(path) else { return Ok(None) };
    let Ok(der) = CertificateDer::from_pem_slice(content.text.as_bytes()) else { return Ok(None) };
    let Ok(info) = CertificateInfo::from_der(&der) else { return Ok(None) };
    if !(matches_request(&info, request)
        && now < info.renew_at()
        && info.not_before <= now
        && is_signed_for(ca, &der, key)?)
    {
        return Ok(None);
    }
    if !content.is_as(CERTIFICATE_MODE, key.owner()) {
        file::replace(path, &content.text, CERTIFICATE_MODE, key.owner())?;
    }
    Ok(Some(info))
}

fn matches_request(info: &CertificateInfo, request: &LeafRequest) -> bool {
    let longest = request.lifetime + skew(request.lifetime) + Duration::from_secs(1);
    info.common_name == request.common_name
        && info.uri == request.uri
        && info.dns_names == request.dns_names
        && info.ip_addresses == request.ip_addresses
        && info.server_auth == request.server_auth
        && info.client_auth == request.client_auth
        && info.lifetime() <= longest
        && request.valid_from.is_none()
}

fn is_signed_for(ca: &Ca, der: &[u8], key: &KeyFile) -> Result<bool> {
    let certificate = parse(der)?;
    let authority = parse(ca.certificate())?;
    Ok(certificate.public_key().subject_public_key.data.as_ref() == key.pair().der_bytes()
        && certificate.issuer().as_raw() == authority.subject().as_raw()
        && certificate.verify_signature(Some(authority.public_key())).is_ok())
}

fn parameters(ca: &Ca, request: &LeafRequest, now: SystemTime) -> Result<CertificateParams> {
    let refuse =
        |reason: rcgen::Error| TlsError::Generate { what: "a certificate", reason: reason.to_string() };
    let ascii = |text: &str| Ia5String::try_from(text).map_err(refuse);
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(request.valid_from.unwrap_or(now - skew(request.lifetime)));
    params.not_after =
        OffsetDateTime::from((request.valid_from.unwrap_or(now) + request.lifetime).min(ca.info().not_after));
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = distinguished_name(&request.common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    if request.server_auth {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    if request.client_auth {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    for name in &request.dns_names {
        params.subject_alt_names.push(SanType::DnsName(ascii(name)?));
    }
    for address in &request.ip_addresses {
        params.subject_alt_names.push(SanType::IpAddress(*address));
    }
    if let Some(uri) = &request.uri {
        params.subject_alt_names.push(SanType::URI(ascii(uri)?));
    }
    Ok(params)
}

/// How far validity is put back: short-lived certificates would otherwise be
/// past two thirds of their life when they are made.
fn skew(lifetime: Duration) -> Duration {
    CLOCK_SKEW.min(lifetime / 10)
}
