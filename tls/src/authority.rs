//! The cluster's certificate authority.

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cellar_model::ClusterName;
use cellar_system::{FileLock, Owner};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

use crate::certificate::{CertificateInfo, parse};
use crate::error::{Result, TlsError};
use crate::exchange::{exchange, forget_previous};
use crate::file::{self, CERTIFICATE_MODE, KEY_MODE};
use crate::file_names::{CA_CERTIFICATE, CA_KEY};
use crate::key;
use crate::request::{CLOCK_SKEW, LEAF_LIFETIME};
use crate::subject::{distinguished_name, random_serial};

/// How long an authority lives: ten years.
pub const CA_LIFETIME: Duration = Duration::from_secs(3652 * 24 * 3600);

/// File name of the lock that serialises the processes that would make the same authority.
const LOCK: &str = ".lock";

/// How long another process may take to make the authority; it takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// A certificate authority that can sign.
pub struct Ca {
    dir: PathBuf,
    pem: String,
    certificate: CertificateDer<'static>,
    info: CertificateInfo,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Ca {
    /// Shows where the authority is, never its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca").field("dir", &self.dir).field("info", &self.info).finish_non_exhaustive()
    }
}

/// Makes the cluster's authority in `dir`, or loads the one that is there.
///
/// Self-signed ECDSA P-256, ten years, may sign leaves and one that signs leaves for it. `ca.key` is 0600,
/// `ca.crt` 0644, the directory 0700. The key is written first and the
/// certificate last, so a run that died in between is finished by the next
/// one with the same key; an existing authority is never overwritten, and any
/// number of processes may call this at once.
///
/// # Errors
/// When `dir` cannot be written, or holds a certificate without its key, a pair
/// that does not match, or an authority that has expired.
pub fn generate_ca(dir: &Path, cluster: &ClusterName) -> Result<Ca> {
    file::create_private_directory(dir, None)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(TlsError::io("make private", dir))?;
    let lock_path = dir.join(LOCK);
    let _lock = FileLock::acquire_blocking(&lock_path, LOCK_TIMEOUT)?;

    let (certificate, key) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
    if !file::exists(&certificate)? {
        if !file::exists(&key)? {
            file::create(&key, &key::generate()?.serialize_pem(), KEY_MODE, None)?;
        }
        let pem = self_sign(&load_key(&key)?, cluster)?;
        file::create(&certificate, &pem, CERTIFICATE_MODE, None)?;
        tracing::info!(path = %certificate.display(), %cluster, "made the certificate authority");
    }
    Ca::load(dir)
}

/// Puts the certificates of trusted authorities, never a key, into `dir` as `ca.crt`; tells whether the file changed.
/// There is one, or two while the one is being replaced by the other.
///
/// # Errors
/// When the file cannot be written.
pub fn install_authorities(dir: &Path, pem: &str, owner: Option<Owner>) -> Result<bool> {
    let path = dir.join(CA_CERTIFICATE);
    file::create_private_directory(dir, owner)?;
    file::replace_if_changed(&path, pem, CERTIFICATE_MODE, owner)
}

fn self_sign(key: &KeyPair, cluster: &ClusterName) -> Result<String> {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + CA_LIFETIME);
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = distinguished_name(&format!("Cellar CA {cluster}"));
    // Below it there may be one that signs for a while on its behalf.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .self_signed(key)
        .map(|certificate| certificate.pem())
        .map_err(|e| TlsError::Generate { what: "the authority's certificate", reason: e.to_string() })
}

/// Makes, in `dir`, a pair that signs leaves on behalf of an authority and can be given to a service: the authority's
/// own key need not be where certificates are renewed. One that is there is kept while it is the authority's and has
/// more than a third of its life left.
///
/// # Errors
/// When the directory cannot be written, or the authority may sign leaves only (one of before).
pub fn generate_delegate(root: &Ca, dir: &Path, cluster: &ClusterName, owner: Option<Owner>) -> Result<Ca> {
    if let Ok(present) = Ca::load(dir)
        && SystemTime::now() < present.info.renew_at()
        && parse(&present.certificate)?.verify_signature(Some(parse(&root.certificate)?.public_key())).is_ok()
    {
        return Ok(present);
    }
    let generated = |reason: String| TlsError::Generate { what: "a signing certificate", reason };
    if parse(&root.certificate)?
        .basic_constraints()
        .ok()
        .flatten()
        .is_some_and(|found| found.value.path_len_constraint == Some(0))
    {
        return Err(generated(
            "this authority may sign no other: replace it first (`cellar certs rotate --ca`)".to_owned(),
        ));
    }
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from((now + LEAF_LIFETIME).min(root.info.not_after));
    params.serial_number = Some(random_serial()?);
    params.distinguished_name = distinguished_name(&format!("Cellar signer {cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let pair = key::generate()?;
    let certificate = params.signed_by(&pair, &root.issuer).map_err(|error| generated(error.to_string()))?;
    file::create_private_directory(dir, owner)?;
    exchange(dir, owner, |to| {
        file::create(&to.join(CA_KEY), &pair.serialize_pem(), KEY_MODE, owner)?;
        file::create(&to.join(CA_CERTIFICATE), &certificate.pem(), CERTIFICATE_MODE, owner).map(drop)
    })?;
    forget_previous(dir)?;
    Ca::load(dir)
}

fn load_key(path: &Path) -> Result<KeyPair> {
    let content = file::read_own(path)?;
    key::check_private(path, &content)?;
    key::parse(path, &content)
}

impl Ca {
    /// Loads the authority in `dir` with its key.
    ///
    /// # Errors
    /// When there is none, one half is missing, the halves do not match, the
    /// key is readable by others, or the certificate is expired or no authority's.
    pub fn load(dir: &Path) -> Result<Self> {
        let (path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        match (file::exists(&path)?, file::exists(&key_path)?) {
            (true, true) => {}
            (true, false) => return Err(TlsError::AuthorityKeyMissing { dir: dir.to_owned() }),
            (false, _) => return Err(TlsError::NoAuthority { dir: dir.to_owned() }),
        }
        let pair = load_key(&key_path)?;
        let pem = file::read_own(&path)?.text;
        let info = CertificateInfo::from_pem(&path, &pem)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| TlsError::bad_file(&path, e.to_string()))?;
        if !info.authority {
            return Err(TlsError::bad_file(&path, "it is not the certificate of an authority (CA:TRUE)"));
        }
        if parse(&certificate)?.public_key().subject_public_key.data.as_ref() != pair.der_bytes() {
            return Err(TlsError::Mismatch { certificate: path, key: key_path });
        }
        if !info.is_valid_at(SystemTime::now()) {
            return Err(TlsError::bad_file(
                &path,
                "the authority has expired or is not yet valid: check this host's clock; if it has ended, stop the cluster (`cellar down`), move this directory aside and run `cellar up`, which makes a new one",
            ));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, pair)
            .map_err(|e| TlsError::bad_file(&path, e.to_string()))?;
        Ok(Self { dir: dir.to_owned(), pem, certificate, info, issuer })
    }

    /// The content of the authority's certificate.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }

    /// The directory that holds the pair.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The authority's certificate in PEM, as it is on disk.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Puts this authority's certificate alone into `dir`: see [`install_authorities`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn install_certificate(&self, dir: &Path, owner: Option<Owner>) -> Result<bool> {
        install_authorities(dir, &self.pem, owner)
    }

    /// What follows a leaf in its file so that those who trust the root can verify it: nothing for a root itself.
    pub(crate) fn chain(&self) -> Result<&str> {
        let own = parse(&self.certificate)?;
        Ok(if own.issuer().as_raw() == own.subject().as_raw() { "" } else { &self.pem })
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}
