//! The content of a certificate: whose it is, for what, and until when.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::error::{Result, TlsError};
use crate::file;

/// How many days before its end a certificate is warned of, the most urgent first.
const WARNING_DAYS: [u64; 3] = [1, 7, 30];

/// The readable parts of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// The subject's common name; empty when it has none.
    pub common_name: String,
    /// The SPIFFE-style URI among the subject's alternative names.
    pub uri: Option<String>,
    /// DNS names among the subject's alternative names.
    pub dns_names: BTreeSet<String>,
    /// IP addresses among the subject's alternative names.
    pub ip_addresses: BTreeSet<IpAddr>,
    /// Whether it may be presented by a server.
    pub server_auth: bool,
    /// Whether it may be presented by a client.
    pub client_auth: bool,
    /// Whether it may sign other certificates.
    pub authority: bool,
    /// The serial number in lower-case hexadecimal, without separators or leading zeros.
    pub serial: String,
    /// The public key that it is for, in lower-case hexadecimal.
    pub public_key: String,
    /// Start of its validity.
    pub not_before: SystemTime,
    /// End of its validity.
    pub not_after: SystemTime,
}

/// Who is at the other end of a mutually authenticated connection.
///
/// Taken from the certificate that the peer proved to hold, after it was
/// verified against the cluster's authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The subject's common name; empty when it has none.
    pub common_name: String,
    /// `spiffe://<cluster>/<role>/<name>`, when the certificate has one.
    pub uri: Option<String>,
    /// The serial number in lower-case hexadecimal, the thing to revoke by.
    pub serial: String,
    /// When the certificate expires; a connection may outlive it.
    pub not_after: SystemTime,
}

impl CertificateInfo {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`TlsError::BadCertificate`] when it cannot be parsed, or names more
    /// than one URI: an identity must not be ambiguous.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let certificate = parse(der)?;
        let bad = |reason: String| TlsError::BadCertificate { reason };
        let mut info = Self {
            common_name: common_name(&certificate),
            uri: None,
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            server_auth: false,
            client_auth: false,
            authority: certificate.is_ca(),
            serial: serial_text(certificate.raw_serial()),
            public_key: key_text(certificate.public_key().subject_public_key.data.as_ref()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        };
        if let Some(usage) = certificate.extended_key_usage().map_err(|e| bad(e.to_string()))? {
            info.server_auth = usage.value.server_auth;
            info.client_auth = usage.value.client_auth;
        }
        let names = certificate.subject_alternative_name().map_err(|e| bad(e.to_string()))?;
        for name in names.iter().flat_map(|n| &n.value.general_names) {
            match name {
                GeneralName::DNSName(text) => {
                    info.dns_names.insert((*text).to_owned());
                }
                GeneralName::IPAddress(octets) => {
                    let address = ip_address(octets)
                        .ok_or_else(|| bad("an IP address in it has the wrong length".to_owned()))?;
                    info.ip_addresses.insert(address);
                }
                GeneralName::URI(text) => {
                    let earlier = info.uri.replace((*text).to_owned());
                    if earlier.is_some() {
                        return Err(bad("it names more than one URI".to_owned()));
                    }
                }
                _ => {}
            }
        }
        Ok(info)
    }

    /// Reads the first certificate of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no certificate that can be parsed.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_pem(path, &file::read(path)?)
    }

    pub(crate) fn from_pem(path: &Path, pem: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| TlsError::bad_file(path, format!("no certificate in it can be read ({e})")))?;
        Self::from_der(&der).map_err(|e| TlsError::bad_file(path, e.to_string()))
    }

    /// Whether it is for the same party and the same uses.
    #[must_use]
    pub fn has_same_subject_and_uses(&self, other: &Self) -> bool {
        self.common_name == other.common_name
            && self.uri == other.uri
            && self.dns_names == other.dns_names
            && self.ip_addresses == other.ip_addresses
            && (self.server_auth, self.client_auth, self.authority)
                == (other.server_auth, other.client_auth, other.authority)
    }

    /// How long it is valid for, from start to end.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// When to renew it: once two thirds of its life are over.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.not_after - self.lifetime() / 3
    }

    /// How close its end is, when that is worth a warning: within 30, 7 or 1 days. One that was made for a short
    /// time is warned of only once it should have been renewed.
    #[must_use]
    pub fn warning(&self, now: SystemTime) -> Option<u64> {
        let left = self.not_after.duration_since(now).unwrap_or_default().as_secs();
        let due = WARNING_DAYS.into_iter().find(|days| left < days * 24 * 3600)?;
        (now >= self.renew_at()).then_some(due)
    }

    /// The same for a person: how long it lasts, and what to do.
    #[must_use]
    pub fn warning_text(&self, now: SystemTime) -> Option<String> {
        let _ = self.warning(now)?;
        let who = self.uri.as_ref().unwrap_or(&self.common_name);
        let hours = self.not_after.duration_since(now).unwrap_or_default().as_secs() / 3600;
        let when = match hours {
            0 => "has ended or ends within the hour".to_owned(),
            1..48 => format!("ends in {hours} hours"),
            _ => format!("ends in {} days", hours / 24),
        };
        let cure = match self.authority {
            true => "`cellar certs rotate --ca`",
            false => "`cellar certs rotate` (on hosts `cellar cluster bundle`)",
        };
        Some(format!("the certificate of {who} {when}: renew it with {cure}"))
    }

    /// Whether `now` lies within its validity.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl PeerIdentity {
    /// Reads the identity from a peer's certificate in DER, which must have been verified already.
    ///
    /// # Errors
    /// [`TlsError::BadCertificate`] when it cannot be parsed or names more than one URI.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        CertificateInfo::from_der(der).map(Self::from)
    }
}

impl From<CertificateInfo> for PeerIdentity {
    fn from(info: CertificateInfo) -> Self {
        Self { common_name: info.common_name, uri: info.uri, serial: info.serial, not_after: info.not_after }
    }
}

/// When the first certificate of a PEM file expires.
///
/// # Errors
/// When the file cannot be read, or holds no certificate that can be parsed.
pub fn certificate_expiry(path: &Path) -> Result<SystemTime> {
    CertificateInfo::from_file(path).map(|info| info.not_after)
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(TlsError::BadCertificate { reason: "bytes follow it".to_owned() }),
        Err(error) => Err(TlsError::BadCertificate { reason: error.to_string() }),
    }
}

fn common_name(certificate: &X509Certificate<'_>) -> String {
    let name = certificate.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    name.unwrap_or_default().to_owned()
}

pub(crate) fn key_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn serial_text(bytes: &[u8]) -> String {
    let text = key_text(bytes);
    let trimmed = text.trim_start_matches('0');
    if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
}

pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn ip_address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_has_one_text() {
        assert_eq!(serial_text(&[0x00, 0xab, 0x01]), "ab01");
        assert_eq!(serial_text(&[0x0a]), "a");
        assert_eq!(serial_text(&[0x00]), "0");
    }

    #[test]
    fn certificate_with_two_uris_is_refused() {
        let signed = |uris: &[&str]| {
            let mut params = rcgen::CertificateParams::default();
            let uris = uris.iter().map(|uri| rcgen::SanType::URI((*uri).try_into().unwrap()));
            params.subject_alt_names.extend(uris);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let read = |uris: &[&str]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), signed(uris)).unwrap();
            CertificateInfo::from_file(file.path())
        };
        let (viewer, admin) = ("spiffe://demo/viewer/ann", "spiffe://demo/admin/ann");
        assert_eq!(read(&[viewer]).unwrap().uri.as_deref(), Some(viewer));
        let refused = read(&[viewer, admin]).unwrap_err().to_string();
        assert!(refused.contains("more than one URI"), "{refused}");
    }

    #[test]
    fn warnings_come_30_7_and_1_days_before_the_end() {
        let day = Duration::from_secs(24 * 3600);
        let certificate = |lifetime: Duration| CertificateInfo {
            common_name: String::new(),
            uri: None,
            dns_names: BTreeSet::new(),
            ip_addresses: BTreeSet::new(),
            server_auth: true,
            client_auth: true,
            authority: false,
            serial: "1".into(),
            public_key: String::new(),
            not_before: UNIX_EPOCH,
            not_after: UNIX_EPOCH + lifetime,
        };
        let (year, hour) = (certificate(365 * day), certificate(day / 24));
        for (before_end, warning) in
            [(31, None), (30, None), (29, Some(30)), (8, Some(30)), (6, Some(7)), (0, Some(1))]
        {
            assert_eq!(year.warning(year.not_after - before_end * day), warning, "{before_end} days before");
        }
        assert_eq!(year.warning(year.not_after + day), Some(1));
        // Half an hour before the end of an hour: it is not due yet.
        assert_eq!(hour.warning(UNIX_EPOCH + day / 48), None);
        assert_eq!(hour.warning(UNIX_EPOCH + day / 24 * 3 / 4), Some(1));
    }

    #[test]
    fn arbitrary_bytes_are_an_error() {
        for bytes in [&b""[..], b"\x30\x00", b"\x30\x82\xff\xff", &[0xff; 64]] {
            assert!(CertificateInfo::from_der(bytes).is_err());
        }
    }
}
