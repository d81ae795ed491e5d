//! Which certificates the keys of a directory have been given.
//!
//! A renewal keeps the key and replaces the certificate, so what is on disk does not name the certificates that the key
//! had before. They are valid still, and a person who reads about one of them must be able to revoke the key with it.
//! So a directory holds, beside its key, a small list: a line for each such certificate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cellar_system::Owner;

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file::{self, CERTIFICATE_MODE};

/// File name of the list.
pub const KNOWN_CERTIFICATES: &str = "known-certificates";

/// How many a list holds: enough for a year of daily rotations, and few enough for a file that is read whole.
const MAX_CERTIFICATES: usize = 2000;

/// A certificate that was issued for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KnownCertificate {
    /// When it ends.
    pub not_after: SystemTime,
    /// Its serial number, as in [`CertificateInfo::serial`].
    pub serial: String,
    /// The key that it is for, as in [`CertificateInfo::public_key`].
    pub public_key: String,
}

impl From<CertificateInfo> for KnownCertificate {
    fn from(info: CertificateInfo) -> Self {
        Self { not_after: info.not_after, serial: info.serial, public_key: info.public_key }
    }
}

impl KnownCertificate {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (serial, public_key, ends) = (words.next()?, words.next()?, words.next()?);
        let not_after = UNIX_EPOCH.checked_add(Duration::from_secs(ends.parse().ok()?))?;
        Some(Self { not_after, serial: serial.to_owned(), public_key: public_key.to_owned() })
    }

    fn line(&self) -> String {
        let ends = self.not_after.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        format!("{} {} {ends}\n", self.serial, self.public_key)
    }
}

/// The certificates in a directory, and those that were replaced there. One that has ended is in it as long as
/// its key has another one.
///
/// # Errors
/// When the directory cannot be read. What cannot be read as a certificate is none, and neither is an authority's.
pub fn known_certificates(directory: &Path) -> Result<Vec<KnownCertificate>> {
    let mut known = BTreeSet::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(TlsError::io("read", directory))?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    let certificates = paths.filter(|path| path.extension().is_some_and(|end| end == "crt"));
    let present = certificates.filter_map(|path| CertificateInfo::from_file(&path).ok());
    known.extend(present.filter(|info| !info.authority).map(KnownCertificate::from));
    let now = SystemTime::now();
    let mut in_use: BTreeSet<String> = known.iter().map(|one| one.public_key.clone()).collect();
    // A list that cannot be read, as after a crash of the machine, must not keep certificates from being renewed.
    let list =
        file::read_own(&directory.join(KNOWN_CERTIFICATES)).map(|content| content.text).unwrap_or_default();
    let former: Vec<_> = list.lines().filter_map(KnownCertificate::parse).collect();
    in_use.extend(former.iter().filter(|one| one.not_after > now).map(|one| one.public_key.clone()));
    known.extend(former.into_iter().filter(|one| in_use.contains(&one.public_key)));
    let surplus = known.len().saturating_sub(MAX_CERTIFICATES);
    // The first ones have ended, or end first.
    Ok(known.into_iter().skip(surplus).collect())
}

/// Writes down in directory `to` which certificates `from` has and had, before they are replaced. `to` may be `from`,
/// or what is about to take its place.
///
/// # Errors
/// When `from` cannot be read, or the list not be written.
pub fn remember_certificates(from: &Path, to: &Path, owner: Option<Owner>) -> Result<()> {
    let mut known: BTreeSet<_> = known_certificates(from)?.into_iter().collect();
    if known.is_empty() {
        return Ok(());
    }
    known.extend(known_certificates(to)?);
    let text: String = known.iter().map(KnownCertificate::line).collect();
    file::replace_if_changed(&to.join(KNOWN_CERTIFICATES), &text, CERTIFICATE_MODE, owner).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::generate_ca;
    use crate::key::{KeyFile, public_key};
    use crate::leaf::issue;
    use crate::request::LeafRequest;

    #[test]
    fn certificates_that_were_replaced_are_known_by_their_key() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = "demo".parse().unwrap();
        let ca = generate_ca(&dir.path().join("ca"), &cluster).unwrap();
        let tls = dir.path().join("tls");
        let key = KeyFile::load_or_create(&tls.join("server.key"), None).unwrap();
        let request = LeafRequest::etcd_server(&cluster, "localhost");
        let serial = |lifetime: u64| {
            remember_certificates(&tls, &tls, None).unwrap();
            let request = request.clone().with_lifetime(Duration::from_secs(lifetime));
            issue(&ca, &request, &key, &tls.join("server.crt")).unwrap().info().serial.clone()
        };
        let serials = [serial(4000), serial(3000), serial(2000)];
        let known = known_certificates(&tls).unwrap();
        let own = public_key(&tls.join("server.key")).unwrap();
        assert!(known.iter().all(|one| one.public_key == own), "{known:?}");
        let mut found: Vec<_> = known.iter().map(|one| one.serial.clone()).collect();
        found.sort();
        let mut wanted = serials.to_vec();
        wanted.sort();
        assert_eq!(found, wanted);

        // One that has ended is forgotten with the last one of its key, and not before.
        let ended = |serial: &str, key: &str, ends: u64| format!("{serial} {key} {ends}\n");
        let list = tls.join(KNOWN_CERTIFICATES);
        std::fs::write(
            &list,
            ended("aa", &own, 1)
                + "half a li\n"
                + &ended("bb", "04ff", 1)
                + &ended("cc", "04ee", u32::MAX.into())
                + &ended("dd", "04ee", 2),
        )
        .unwrap();
        remember_certificates(&tls, &tls, None).unwrap();
        let mut found: Vec<_> = known_certificates(&tls).unwrap().into_iter().map(|one| one.serial).collect();
        found.sort();
        let mut wanted = vec!["aa".to_owned(), "cc".to_owned(), "dd".to_owned(), serials[2].clone()];
        wanted.sort();
        assert_eq!(found, wanted);
        // Nor does a list that cannot be read keep anything from being renewed.
        std::fs::write(&list, [0xff, 0xfe]).unwrap();
        remember_certificates(&tls, &tls, None).unwrap();
        assert_eq!(known_certificates(&tls).unwrap().len(), 1);
    }
}
