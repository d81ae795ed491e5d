//! Certificates of people and programs that call multiadmin or connect to PostgreSQL, and of the provisioner itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cellar_model::{ClientName, DatabaseName, DatabaseScope, OperatorRole};
use cellar_tls::{
    CLIENT_CERTIFICATE, CLIENT_KEY, Ca, CertificateInfo, KnownCertificate, LeafRequest, known_certificates,
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

impl Cluster {
    /// Issues what a person or program needs to call multiadmin with a role, for these databases or, when none is named, for
    /// all: `ca.crt`, `client.crt`, `client.key` and
    /// `endpoint` in `directory`. Repeated, it renews the certificate for the same key.
    ///
    /// # Errors
    /// When the cluster has no authority here or no such database, the name cannot stand in a certificate, or the directory not be written.
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
        replace(
            &directory.join("endpoint"),
            &format!("{}\n", self.admin_addresses()?.join(",")),
            0o644,
            None,
        )?;
        Ok(info)
    }

    /// Issues what an application needs to connect to PostgreSQL as a role that proves itself with a certificate: `ca.crt`,
    /// `client.crt` and `client.key` in `directory`. Repeated, it renews the certificate for the same key.
    ///
    /// # Errors
    /// When the cluster has no authority here, or the directory cannot be written.
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
