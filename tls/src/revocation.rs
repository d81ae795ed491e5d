//! Revoked certificates: lists that an authority signs, and reading them back.
//!
//! A list is public and may pass through places that are not trusted; its signature is checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::OffsetDateTime;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use cellar_system::Owner;

use crate::authority::Ca;
use crate::certificate::{parse, serial_text, system_time};
use crate::error::{Result, TlsError};
use crate::file::{self, CERTIFICATE_MODE};
use crate::file_names::REVOCATIONS;

/// Where a list ends in PEM.
const PEM_END: &str = "-----END X509 CRL-----";

/// Serial numbers as [`CertificateInfo`](crate::certificate::CertificateInfo) writes them, and since when each is revoked.
pub type RevokedSerials = BTreeMap<String, SystemTime>;

/// A serial number as a person may write it (upper case, colons, leading zeros), as
/// [`CertificateInfo`](crate::certificate::CertificateInfo) writes it.
///
/// # Errors
/// When it is not a hexadecimal number of at most 20 bytes (RFC 5280, 4.1.2.2).
pub fn parse_serial(text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| *c != ':').collect::<String>().to_ascii_lowercase();
    let digits = digits.strip_prefix("0x").unwrap_or(&digits).trim_start_matches('0');
    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(TlsError::BadRequest {
            field: "serial number",
            value: text.chars().take(80).collect(),
            reason: "a hexadecimal number is wanted, as `cellar certs list` shows it",
        });
    }
    Ok(digits.to_owned())
}

fn bytes(serial: &str) -> Vec<u8> {
    let padded = if serial.len().is_multiple_of(2) { serial.to_owned() } else { format!("0{serial}") };
    let pairs = padded.as_bytes().chunks(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// A list of these serial numbers, signed by the authority, in PEM. It holds as long as the authority: a list
/// that runs out would shut everybody out, and a newer one replaces it at once anyway.
///
/// # Errors
/// When the authority may not sign lists.
pub fn sign_revocations(ca: &Ca, revoked: &RevokedSerials) -> Result<String> {
    let failed =
        |error: rcgen::Error| TlsError::Generate { what: "a revocation list", reason: error.to_string() };
    let now = SystemTime::now();
    // Readers compare by this number which of two lists is the newer one.
    let number = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let entry = |(serial, since): (&String, &SystemTime)| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&bytes(serial)),
        revocation_time: OffsetDateTime::from(*since),
        reason_code: Some(RevocationReason::Superseded),
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        // OpenSSL refuses every certificate while a list is not valid yet, also on a host whose clock is behind. Whoever
        // takes the authority for valid takes its lists for it.
        this_update: OffsetDateTime::from(ca.info().not_before),
        next_update: OffsetDateTime::from(ca.info().not_after),
        crl_number: SerialNumber::from(number),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(ca.issuer()).and_then(|list| list.pem()).map_err(failed)
}

/// What the lists in `pem` revoke, and the lists themselves without those that none of `authorities` (PEM, one or
/// several) has signed, nor one that signs on behalf of them and whose certificate is in `pem`.
///
/// # Errors
/// When the authorities cannot be read, or no list is signed by one of them.
pub fn read_revocations(pem: &str, authorities: &str) -> Result<(RevokedSerials, String)> {
    let bad = |reason: String| TlsError::bad_file(Path::new(REVOCATIONS), reason);
    let trusted: std::result::Result<Vec<CertificateDer<'_>>, _> =
        CertificateDer::pem_slice_iter(authorities.as_bytes()).collect();
    let mut trusted = trusted.map_err(|error| bad(format!("the authorities cannot be read ({error})")))?;
    let delegates: Vec<CertificateDer<'_>> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(std::result::Result::ok).collect();
    for delegate in delegates {
        if signed_by(&delegate, &trusted) {
            trusted.push(delegate);
        }
    }
    let mut revoked = RevokedSerials::new();
    let mut kept = String::new();
    for block in pem.split_inclusive(PEM_END).filter(|block| block.ends_with(PEM_END)) {
        let list = CertificateRevocationListDer::from_pem_slice(block.as_bytes());
        let list = list.map_err(|error| bad(error.to_string()))?;
        let Ok(([], parsed)) = CertificateRevocationList::from_der(&list) else { continue };
        let signed = trusted.iter().any(|authority| {
            parse(authority).is_ok_and(|authority| parsed.verify_signature(authority.public_key()).is_ok())
        });
        if !signed {
            continue;
        }
        for entry in parsed.iter_revoked_certificates() {
            revoked.insert(serial_text(entry.raw_serial()), system_time(entry.revocation_date));
        }
        kept.push_str(block.trim_start());
        kept.push('\n');
    }
    if kept.is_empty() {
        return Err(bad("no list in it is signed by a trusted authority".to_owned()));
    }
    Ok((revoked, kept))
}

/// Whether one of the authorities has signed this certificate of an authority.
fn signed_by(delegate: &[u8], authorities: &[CertificateDer<'_>]) -> bool {
    parse(delegate).is_ok_and(|delegate| {
        delegate.is_ca()
            && authorities.iter().any(|authority| {
                parse(authority)
                    .is_ok_and(|authority| delegate.verify_signature(Some(authority.public_key())).is_ok())
            })
    })
}

/// Puts the lists beside an authority's certificate; tells whether the file changed.
///
/// # Errors
/// When it cannot be written.
pub fn install_revocations(directory: &Path, pem: &str, owner: Option<Owner>) -> Result<bool> {
    file::replace_if_changed(&directory.join(REVOCATIONS), pem, CERTIFICATE_MODE, owner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::{generate_ca, generate_delegate};
    use std::time::Duration;

    fn authority(dir: &Path, name: &str) -> Ca {
        generate_ca(&dir.join(name), &"demo".parse().unwrap()).unwrap()
    }

    #[test]
    fn only_lists_signed_by_a_trusted_authority_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (authority(dir.path(), "a"), authority(dir.path(), "b"));
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let revoked = RevokedSerials::from([("ab01".to_owned(), since), ("7".to_owned(), since)]);
        let pem = sign_revocations(&ours, &revoked).unwrap();
        let (read, kept) = read_revocations(&pem, ours.pem()).unwrap();
        assert_eq!(read, revoked);
        assert_eq!(read_revocations(&kept, ours.pem()).unwrap().0, revoked);
        // Another authority's list revokes nothing of ours, alone or beside ours.
        let forged = sign_revocations(&theirs, &RevokedSerials::from([("c0".to_owned(), since)])).unwrap();
        assert!(read_revocations(&forged, ours.pem()).is_err());
        let (read, kept) = read_revocations(&format!("{forged}{pem}"), ours.pem()).unwrap();
        assert_eq!((read, kept.matches("BEGIN").count()), (revoked.clone(), 1));
        // While an authority is being replaced, both count.
        let both = format!("{}{}", theirs.pem(), ours.pem());
        assert_eq!(read_revocations(&format!("{forged}{pem}"), &both).unwrap().0.len(), 3);
        for bad in ["", "arbitrary", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"] {
            assert!(read_revocations(bad, ours.pem()).is_err(), "{bad:?}");
        }
        let none = sign_revocations(&ours, &RevokedSerials::new()).unwrap();
        assert_eq!(read_revocations(&none, ours.pem()).unwrap().0, RevokedSerials::new());
    }

    #[test]
    fn list_is_valid_wherever_its_authority_is() {
        let dir = tempfile::tempdir().unwrap();
        let ca = authority(dir.path(), "a");
        let pem = sign_revocations(&ca, &RevokedSerials::new()).unwrap();
        let list = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&list).unwrap();
        assert_eq!(system_time(list.last_update()), ca.info().not_before);
        assert_eq!(list.next_update().map(system_time), Some(ca.info().not_after));
    }

    #[test]
    fn list_of_a_delegate_is_read_if_the_authority_signed_the_delegate() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = (authority(dir.path(), "a"), authority(dir.path(), "b"));
        let cluster = "demo".parse().unwrap();
        let revoked = RevokedSerials::from([("ab01".to_owned(), SystemTime::UNIX_EPOCH)]);
        for (root, name, counts) in [(&ours, "x", true), (&theirs, "y", false)] {
            let delegate = generate_delegate(root, &dir.path().join(name), &cluster, None).unwrap();
            let list = sign_revocations(&delegate, &revoked).unwrap();
            assert!(read_revocations(&list, ours.pem()).is_err(), "the delegate is not known");
            let read = read_revocations(&format!("{list}{}", delegate.pem()), ours.pem());
            assert_eq!(read.is_ok(), counts);
        }
        // A leaf of ours signs no list.
        let leaf = crate::key::KeyFile::load_or_create(&dir.path().join("leaf/key"), None).unwrap();
        let request =
            crate::request::LeafRequest::pgbackrest(cellar_model::PgbackrestName::default(), "localhost");
        let path = dir.path().join("leaf/crt");
        crate::leaf::issue(&ours, &request, &leaf, &path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let list = sign_revocations(&theirs, &revoked).unwrap();
        assert!(read_revocations(&format!("{list}{text}"), ours.pem()).is_err());
    }

    #[test]
    fn serial_is_read_in_every_usual_form() {
        for text in ["ab01", "AB01", "AB:01", "00ab01", "0xAB01"] {
            assert_eq!(parse_serial(text).unwrap(), "ab01", "{text}");
        }
        for bad in ["", "0", "xyz", "ab 01", "--all", "../x", &"a".repeat(41)] {
            assert!(parse_serial(bad).is_err(), "{bad:?}");
        }
    }
}
