//! Certificates of people and programs that call multiadmin or connect to PostgreSQL, and of the provisioner itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cellar_model::{ClientName, DatabaseName, DatabaseScope, OperatorRole};
use cellar_tls::{
    CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY, Ca, CertificateInfo, KNOWN_CERTIFICATES,
    KnownCertificate, LeafRequest, known_certificates,
};
use nix::unistd::{Uid, User};

use crate::certificates::set::CertificateSet;
use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};

/// The name of the user who runs this, or its number if the name cannot be in a certificate.
pub(crate) fn operator_name() -> String {
    let uid = Uid::current();
    let name = User::from_uid(uid).ok().flatten().map(|user| user.name);
    let plain = |name: &String| {
        !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b))
    };
    name.filter(plain).unwrap_or_else(|| format!("uid-{uid}"))
}

/// File name of multiadmin's addresses in a client directory.
const ENDPOINT: &str = "endpoint";

/// Refuses a directory that holds something else than what was issued there to the same holder: what is written would take
/// its place, and the directory would be closed to others.
fn check_is_holders(ca: &Ca, request: &LeafRequest, directory: &Path) -> Result<()> {
    let refused = |reason: String| {
        let reason = format!("{reason}; name a directory of its own, or empty this one");
        let (argument, value) = ("--out", directory.display().to_string());
        Err(ProvisionError::Argument { argument, value, reason })
    };
    let authority = directory.join(CA_CERTIFICATE);
    let is_ours = |info: &CertificateInfo| info.common_name == ca.info().common_name;
    if authority.exists() && !CertificateInfo::from_file(&authority).is_ok_and(|info| is_ours(&info)) {
        return refused(format!("its {CA_CERTIFICATE} is not that of this cluster"));
    }
    let present = directory.join(CLIENT_CERTIFICATE);
    if present.exists() {
        return match CertificateInfo::from_file(&present) {
            Ok(info) if (&info.common_name, &info.uri) == (&request.common_name, &request.uri) => Ok(()),
            Ok(info) => {
                refused(format!("it holds the certificate of {}", info.uri.unwrap_or(info.common_name)))
            }
            Err(_) => refused(format!("its {CLIENT_CERTIFICATE} is no certificate")),
        };
    }
    let issued = [CA_CERTIFICATE, CLIENT_KEY, ENDPOINT, KNOWN_CERTIFICATES];
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(ProvisionError::io("read", directory))?,
    };
    let mut names = entries.flatten().map(|entry| entry.file_name());
    let other = names.find(|name| !issued.iter().any(|one| name == one));
    // An issue that was cut short leaves the authority's certificate with the key.
    let other = other.or_else(|| {
        let key = directory.join(CLIENT_KEY);
        (key.exists() && !authority.exists()).then(|| CLIENT_KEY.into())
    });
    other.map_or(Ok(()), |name| {
        refused(format!("it holds {}, and nothing that was issued to somebody", name.display()))
    })
}

impl Cluster {
    /// Issues what a person or program needs to call multiadmin with a role, for these databases or, when none is named, for
    /// all: `ca.crt`, `client.crt`, `client.key` and
    /// `endpoint` in `directory`. Repeated, it renews the certificate for the same key.
    ///
    /// # Errors
    /// When the cluster has no authority here or no such database, the name cannot stand in a certificate, or the directory
    /// holds something else or cannot be written.
    pub fn issue_operator(
        &self,
        role: OperatorRole,
        databases: &[DatabaseName],
        name: &str,
        lifetime: Option<Duration>,
        directory: &Path,
    ) -> Result<CertificateInfo> {
        if let Some(unknown) = databases.iter().find(|database| self.state.database(database).is_none()) {
            let known: Vec<&str> = self.state.databases().map(|database| database.name.as_str()).collect();
            return Err(ProvisionError::Argument {
                argument: "--database",
                value: unknown.to_string(),
                reason: format!("the cluster has no database of that name (known: {})", known.join(", ")),
            });
        }
        let scope = match databases {
            [] => DatabaseScope::All,
            names => DatabaseScope::Only(names.iter().cloned().collect()),
        };
        let request = LeafRequest::operator_of(&self.state.cluster, role, &scope, name)?;
        if request.common_name == self.provisioner_request()?.common_name {
            return Err(ProvisionError::Argument {
                argument: "--name",
                value: name.to_owned(),
                reason: "it is the name of etcd's administrator: choose another".to_owned(),
            });
        }
        let info = self.issue_to_holder(request, format!("{role} {name}"), lifetime, directory)?;
        replace(&directory.join(ENDPOINT), &format!("{}\n", self.admin_addresses()?.join(",")), 0o644, None)?;
        Ok(info)
    }

    /// Issues what an application needs to connect to PostgreSQL as a role that proves itself with a certificate: `ca.crt`,
    /// `client.crt` and `client.key` in `directory`. Repeated, it renews the certificate for the same key.
    ///
    /// # Errors
    /// When the cluster has no authority here, or the directory holds something else or cannot be written.
    pub fn issue_database_client(
        &self,
        role: &ClientName,
        lifetime: Option<Duration>,
        directory: &Path,
    ) -> Result<CertificateInfo> {
        let request = LeafRequest::database_client(role);
        self.issue_to_holder(request, format!("client {role}"), lifetime, directory)
    }

    /// Issues a certificate whose holder takes it elsewhere.
    fn issue_to_holder(
        &self,
        mut request: LeafRequest,
        what: String,
        lifetime: Option<Duration>,
        directory: &Path,
    ) -> Result<CertificateInfo> {
        let ca = Ca::load(&self.layout.ca())?;
        check_is_holders(&ca, &request, directory)?;
        if let Some(lifetime) = lifetime.or(self.state.cert_lifetime()) {
            request = request.with_lifetime(lifetime);
        }
        let leaves = vec![(CLIENT_CERTIFICATE, request)];
        let set =
            CertificateSet { what, directory: directory.to_owned(), key: CLIENT_KEY, owner: None, leaves };
        let certificate = directory.join(CLIENT_CERTIFICATE);
        let revoked = self.revoked()?;
        // Whoever can present a revoked certificate has its key, so the key is replaced too.
        let own_key = set.public_key();
        let is_revoked = |one: &KnownCertificate| {
            Some(&one.public_key) == own_key.as_ref() && revoked.contains_key(&one.serial)
        };
        let issued = known_certificates(&self.issued())?;
        match set.known()?.iter().chain(&issued).any(is_revoked) {
            true => set.renew(&ca, &self.trusted()?)?,
            false => set.ensure(&ca, &self.trusted()?)?,
        }
        let info = CertificateInfo::from_file(&certificate)?;
        // Its holder takes it elsewhere; this copy is what a revocation needs.
        let text = std::fs::read_to_string(&certificate).map_err(ProvisionError::io("read", &certificate))?;
        make_directory(&self.issued(), 0o700, None)?;
        replace(&self.issued().join(format!("{}.crt", info.serial)), &text, 0o644, None)?;
        Ok(info)
    }

    /// Renews the command line's and the provisioner's own certificates when they are due, if this user can read the
    /// authority's key. No daemon renews them. While a certificate is being revoked, what is valid stays as it is: a
    /// key that is about to be replaced gets no more certificates than it needs to finish that.
    pub fn renew_operators(&self) {
        let sets = [self.client_set(), self.provisioner_set()];
        for set in sets.into_iter().flatten() {
            let lasts = |path: PathBuf| {
                CertificateInfo::from_file(&path).is_ok_and(|info| match self.state.revoking {
                    Some(_) => info.is_valid_at(SystemTime::now()),
                    None => SystemTime::now() < info.renew_at(),
                })
            };
            if set.certificates().all(lasts) {
                continue;
            }
            // A user who may use the certificate need not be able to read the authority's key. `certs list` shows when
            // it ends.
            if let (Ok(ca), Ok(trusted)) = (Ca::load(&self.layout.ca()), self.trusted()) {
                let _ = set.ensure(&ca, &trusted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_of_something_else_is_not_issued_into() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::sample(&dir.path().join("demo"), &["zone1"]);
        cluster.make_shared_directories().unwrap();
        let _ = cluster.authority().unwrap();
        let out = |name: &str| dir.path().join(name);
        let issue =
            |name: &str, out: &Path| cluster.issue_operator(OperatorRole::Viewer, &[], name, None, out);
        let refused = |name: &str, out: &Path| issue(name, out).unwrap_err().to_string();
        let first = issue("ann", &out("ann")).unwrap();
        assert_eq!(issue("ann", &out("ann")).unwrap(), first, "repeated, it is the same one");
        // What its holder put beside it keeps nobody from renewing it.
        std::fs::write(out("ann").join("client.p12"), "x").unwrap();
        assert_eq!(issue("ann", &out("ann")).unwrap(), first);
        assert!(refused("bob", &out("ann")).contains("the certificate of spiffe://demo/viewer/ann"));
        let client = "app".parse().unwrap();
        assert!(cluster.issue_database_client(&client, None, &out("ann")).is_err());
        assert_eq!(CertificateInfo::from_file(&out("ann").join(CLIENT_CERTIFICATE)).unwrap(), first);

        std::fs::create_dir(out("other")).unwrap();
        std::fs::write(out("other").join("notes.txt"), "x").unwrap();
        assert!(refused("ann", &out("other")).contains("notes.txt"));
        assert!(!out("other").join(CLIENT_KEY).exists());
        // One that was cut short is finished; a key of nobody knows whom is not used.
        std::fs::remove_file(out("ann").join(CLIENT_CERTIFICATE)).unwrap();
        std::fs::remove_file(out("ann").join("client.p12")).unwrap();
        let _ = issue("ann", &out("ann")).unwrap();
        std::fs::remove_file(out("ann").join(CLIENT_CERTIFICATE)).unwrap();
        std::fs::remove_file(out("ann").join(CA_CERTIFICATE)).unwrap();
        assert!(refused("ann", &out("ann")).contains(CLIENT_KEY));
        // The same name in another cluster.
        let another = tempfile::tempdir().unwrap();
        let _ = cellar_tls::generate_ca(another.path(), &"another".parse().unwrap()).unwrap();
        std::fs::remove_file(another.path().join("ca.key")).unwrap();
        assert!(refused("ann", another.path()).contains("not that of this cluster"));
    }
}
