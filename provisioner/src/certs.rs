//! The certificates of a local cluster. The authority's key stays in `<dir>/ca`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, OperatorRole};
use cellar_tls::{
    CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY, Ca, CertificateInfo, KeyFile, LeafRequest, Owner,
    SERVER_CERTIFICATE, SERVER_KEY, generate_ca, generate_server_cert, issue,
};
use nix::unistd::{Uid, User};

use crate::cluster::{Cluster, HOST};
use crate::error::Result;
use crate::file::{make_directory, replace};

/// multiadmin's certificate and key in its directory.
const ADMIN_CERTIFICATE: &str = "multiadmin.crt";
const ADMIN_KEY: &str = "multiadmin.key";

/// Issues each request for the one key of a directory.
fn issue_all(
    ca: &Ca,
    directory: &Path,
    key: &str,
    owner: Option<Owner>,
    requests: &[(&str, LeafRequest)],
) -> Result<()> {
    make_directory(directory, 0o700, owner)?;
    ca.install_certificate(directory, owner)?;
    let key = KeyFile::load_or_create(&directory.join(key), owner)?;
    for (file, request) in requests {
        issue(ca, request, &key, &directory.join(file))?;
    }
    Ok(())
}

/// A certificate of a local cluster, and where it is.
#[derive(Debug, Clone)]
pub struct ListedCertificate {
    /// Its file.
    pub path: PathBuf,
    /// What it says; the reason when it cannot be read.
    pub info: std::result::Result<CertificateInfo, String>,
}

/// The name of whoever runs this, as far as it can stand in a certificate.
fn operator_name() -> String {
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
    /// Issues what a person or program needs to call multiadmin with a role: `ca.crt`, `client.crt`, `client.key` and
    /// `endpoint` in `directory`. Repeated, it renews the certificate for the same key.
    ///
    /// # Errors
    /// When the cluster has no authority here, the name cannot stand in a certificate, or the directory not be written.
    pub fn issue_operator(
        &self,
        role: OperatorRole,
        name: &str,
        lifetime: Option<Duration>,
        directory: &Path,
    ) -> Result<CertificateInfo> {
        let ca = Ca::load(&self.layout.ca())?;
        let mut request = LeafRequest::operator(&self.state.cluster, role, name)?;
        if let Some(lifetime) = lifetime {
            request = request.with_lifetime(lifetime);
        }
        issue_all(&ca, directory, CLIENT_KEY, None, &[(CLIENT_CERTIFICATE, request)])?;
        replace(&directory.join("endpoint"), &format!("{}\n", self.admin_address()?), 0o644, None)?;
        Ok(CertificateInfo::from_file(&directory.join(CLIENT_CERTIFICATE))?)
    }

    /// Every certificate that the cluster's directory holds, in the order of its paths.
    #[must_use]
    pub fn certificates(&self) -> Vec<ListedCertificate> {
        let mut directories = vec![
            self.layout.ca(),
            self.etcd_tls(),
            self.etcd_client_tls(),
            self.layout.multiadmin(),
            self.layout.client(),
        ];
        directories.extend(self.state.cells.iter().map(|cell| self.layout.cell(&cell.name).tls()));
        let files = directories
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
        let mut paths: Vec<PathBuf> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "crt"))
            .collect();
        // Copies of the authority's certificate are everywhere; one is enough.
        paths.retain(|path| !path.ends_with(CA_CERTIFICATE) || path.starts_with(self.layout.ca()));
        paths.sort();
        let read = |path: PathBuf| {
            let info = CertificateInfo::from_file(&path).map_err(|error| error.to_string());
            ListedCertificate { path, info }
        };
        paths.into_iter().map(read).collect()
    }

    /// The cluster's authority, made if there is none.
    pub(crate) fn authority(&self) -> Result<Ca> {
        Ok(generate_ca(&self.layout.ca(), &self.state.cluster)?)
    }

    /// etcd's certificates, and the provisioner's own for talking to it.
    pub(crate) fn issue_etcd(&self, ca: &Ca) -> Result<()> {
        let cluster = &self.state.cluster;
        let requests = [
            (SERVER_CERTIFICATE, LeafRequest::etcd_server(cluster, HOST)),
            ("peer.crt", LeafRequest::etcd_peer(cluster, HOST)),
        ];
        issue_all(ca, &self.etcd_tls(), SERVER_KEY, self.owner(), &requests)?;
        let own = self.provisioner_request()?;
        issue_all(ca, &self.etcd_client_tls(), CLIENT_KEY, None, &[(CLIENT_CERTIFICATE, own)])
    }

    /// multiadmin's certificate.
    pub(crate) fn issue_multiadmin(&self, ca: &Ca) -> Result<()> {
        let request = LeafRequest::multiadmin(&self.state.cluster, HOST);
        issue_all(ca, &self.layout.multiadmin(), ADMIN_KEY, self.owner(), &[(ADMIN_CERTIFICATE, request)])
    }

    /// What a gRPC client needs: certificates of whoever runs this, and multiadmin's address.
    pub(crate) fn issue_client(&self, ca: &Ca) -> Result<()> {
        let directory = self.layout.client();
        let request = LeafRequest::operator(&self.state.cluster, OperatorRole::Admin, &operator_name())?;
        issue_all(ca, &directory, CLIENT_KEY, None, &[(CLIENT_CERTIFICATE, request)])?;
        replace(&directory.join("endpoint"), &format!("{}\n", self.admin_address()?), 0o644, None)
    }

    /// A cell's certificates, all for its one key.
    pub(crate) fn issue_cell(&self, ca: &Ca, cell: &CellName) -> Result<()> {
        let (directory, owner) = (self.layout.cell(cell).tls(), self.owner());
        let (cluster, database) = (&self.state.cluster, &self.state.database);
        make_directory(&directory, 0o700, owner)?;
        generate_server_cert(ca, &directory, HOST, owner)?;
        let requests = [
            ("pooler.crt", LeafRequest::pooler(cluster, database, cell, HOST)),
            ("replication.crt", LeafRequest::replication(cluster, cell)),
        ];
        issue_all(ca, &directory, SERVER_KEY, owner, &requests)
    }
}
