//! What every certificate of ours has, an authority's or a leaf's: a common name and a serial number.

use rcgen::{DistinguishedName, DnType, SerialNumber};

use crate::error::{Result, TlsError};
use crate::provider::provider;

/// A name that is one common name.
pub(crate) fn distinguished_name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// A random positive serial of 16 bytes.
///
/// rcgen's default derives it from the key, which several certificates of a cell share.
pub(crate) fn random_serial() -> Result<SerialNumber> {
    let mut bytes = [0_u8; 16];
    provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| TlsError::Generate { what: "a serial number", reason: "no randomness".to_owned() })?;
    // A clear sign bit keeps DER at 16 bytes, a set bit below it keeps the text at one length.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}
