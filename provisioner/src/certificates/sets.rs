//! The certificates of a local cluster. The authority's key stays in `<dir>/ca`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cellar_model::{CellName, OperatorRole, PgbackrestName};
use cellar_tls::{
    CA_CERTIFICATE, CLIENT_CERTIFICATE, CLIENT_KEY, Ca, CertificateInfo, Identity, KeyFile, LeafRequest,
    Owner, SERVER_CERTIFICATE, SERVER_KEY, exchange, generate_ca, install_authorities, issue,
};
use nix::unistd::{Uid, User};

use crate::error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::local::cluster::{Cluster, HOST};

/// multiadmin's certificate and key in its directory.
pub(crate) const ADMIN_CERTIFICATE: &str = "multiadmin.crt";
const ADMIN_KEY: &str = "multiadmin.key";

/// A cell's other certificates, beside that of its pgBackRest server and PostgreSQL.
pub(crate) const POOLER_CERTIFICATE: &str = "pooler.crt";
const REPLICATION_CERTIFICATE: &str = "replication.crt";

/// A directory with one key, the certificates that are issued for it, and the authorities that its owner trusts.
#[derive(Debug, Clone)]
pub(crate) struct CertificateSet {
    /// Whose it is, for messages.
    pub(crate) what: String,
    pub(crate) directory: PathBuf,
    key: &'static str,
    owner: Option<Owner>,
    leaves: Vec<(&'static str, LeafRequest)>,
}

impl CertificateSet {
    /// Issues what is missing, stale, or not of this authority.
    pub(crate) fn ensure(&self, ca: &Ca, trusted: &str) -> Result<()> {
        make_directory(&self.directory, 0o700, self.owner)?;
        Ok(self.fill(&self.directory, ca, trusted)?)
    }

    /// Replaces key and certificates by new ones, in one step.
    pub(crate) fn renew(&self, ca: &Ca, trusted: &str) -> Result<()> {
        make_directory(&self.directory, 0o700, self.owner)?;
        exchange(&self.directory, self.owner, |next| -> Result<()> {
            self.fill(next, ca, trusted)?;
            // Whoever reads them from now on must be able to use them.
            for (file, _) in &self.leaves {
                Identity::load(&next.join(CA_CERTIFICATE), &next.join(file), &next.join(self.key))?;
            }
            Ok(())
        })
    }

    fn fill(&self, directory: &Path, ca: &Ca, trusted: &str) -> cellar_tls::Result<()> {
        install_authorities(directory, trusted, self.owner)?;
        let key = KeyFile::load_or_create(&directory.join(self.key), self.owner)?;
        for (file, request) in &self.leaves {
            issue(ca, request, &key, &directory.join(file))?;
        }
        Ok(())
    }

    /// Says whom to trust, and changes nothing else.
    pub(crate) fn trust(&self, trusted: &str) -> Result<()> {
        install_authorities(&self.directory, trusted, self.owner)?;
        Ok(())
    }

    /// The certificates in it.
    pub(crate) fn certificates(&self) -> impl Iterator<Item = PathBuf> {
        self.leaves.iter().map(|(file, _)| self.directory.join(file))
    }

    /// The serial numbers of those that can be read.
    pub(crate) fn serials(&self) -> impl Iterator<Item = String> {
        self.certificates().filter_map(|path| Some(CertificateInfo::from_file(&path).ok()?.serial))
    }

    /// Whether pgBackRest's servers let its owner in.
    pub(crate) fn opens_pgbackrest(&self) -> bool {
        self.leaves.iter().any(|(_, request)| request.common_name.parse::<PgbackrestName>().is_ok())
    }
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
        if request.common_name == self.provisioner_request()?.common_name {
            return Err(ProvisionError::Argument {
                argument: "--name",
                value: name.to_owned(),
                reason: "etcd's administrator is called so: choose another".to_owned(),
            });
        }
        if let Some(lifetime) = lifetime.or(self.state.cert_lifetime()) {
            request = request.with_lifetime(lifetime);
        }
        let leaves = vec![(CLIENT_CERTIFICATE, request)];
        let what = format!("{role} {name}");
        let set =
            CertificateSet { what, directory: directory.to_owned(), key: CLIENT_KEY, owner: None, leaves };
        let certificate = directory.join(CLIENT_CERTIFICATE);
        let revoked = self.revoked()?;
        match CertificateInfo::from_file(&certificate) {
            // Whoever has it has its key.
            Ok(present) if revoked.contains_key(&present.serial) => set.renew(&ca, &self.trusted()?)?,
            _ => set.ensure(&ca, &self.trusted()?)?,
        }
        replace(&directory.join("endpoint"), &format!("{}\n", self.admin_address()?), 0o644, None)?;
        let info = CertificateInfo::from_file(&certificate)?;
        // Its holder takes it elsewhere; what is known of it here is what one needs to revoke it.
        let text = std::fs::read_to_string(&certificate).map_err(ProvisionError::io("read", &certificate))?;
        make_directory(&self.issued(), 0o700, None)?;
        replace(&self.issued().join(format!("{}.crt", info.serial)), &text, 0o644, None)?;
        Ok(info)
    }

    /// Copies of what was issued to people and programs.
    pub(crate) fn issued(&self) -> PathBuf {
        self.layout.ca().join("issued")
    }

    /// Every certificate that the cluster's directory holds, in the order of its paths.
    #[must_use]
    pub fn certificates(&self) -> Vec<ListedCertificate> {
        let sets = self.certificate_sets().unwrap_or_default();
        let mut directories: Vec<PathBuf> = sets.into_iter().map(|set| set.directory).collect();
        let signers = [self.layout.ca(), self.signing()];
        directories.extend(signers.clone());
        directories.push(self.issued());
        let files = directories
            .iter()
            .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
        let mut paths: Vec<PathBuf> = files
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "crt"))
            .collect();
        // Copies of the authority's certificate are everywhere; one is enough.
        let signs = |path: &PathBuf| signers.iter().any(|signer| path.parent() == Some(signer));
        paths.retain(|path| !path.ends_with(CA_CERTIFICATE) || signs(path));
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

    /// Every directory with a key and certificates.
    pub(crate) fn certificate_sets(&self) -> Result<Vec<CertificateSet>> {
        let mut sets =
            vec![self.etcd_set(), self.provisioner_set()?, self.multiadmin_set(), self.client_set()?];
        sets.extend(self.state.cells.iter().map(|cell| self.cell_set(&cell.name)));
        Ok(sets)
    }

    fn set(
        &self,
        what: &str,
        directory: PathBuf,
        key: &'static str,
        owner: Option<Owner>,
        leaves: Vec<(&'static str, LeafRequest)>,
    ) -> CertificateSet {
        let lifetime = self.state.cert_lifetime();
        let lasting = |request: LeafRequest| match lifetime {
            Some(lifetime) => request.with_lifetime(lifetime),
            None => request,
        };
        let leaves = leaves.into_iter().map(|(file, request)| (file, lasting(request))).collect();
        CertificateSet { what: what.to_owned(), directory, key, owner, leaves }
    }

    /// etcd's certificates.
    pub(crate) fn etcd_set(&self) -> CertificateSet {
        let cluster = &self.state.cluster;
        let leaves = vec![
            (SERVER_CERTIFICATE, LeafRequest::etcd_server(cluster, HOST)),
            ("peer.crt", LeafRequest::etcd_peer(cluster, HOST)),
        ];
        self.set("etcd", self.etcd_tls(), SERVER_KEY, self.owner(), leaves)
    }

    /// The provisioner's own, for talking to etcd.
    pub(crate) fn provisioner_set(&self) -> Result<CertificateSet> {
        let leaves = vec![(CLIENT_CERTIFICATE, self.provisioner_request()?)];
        Ok(self.set("the provisioner", self.etcd_client_tls(), CLIENT_KEY, None, leaves))
    }

    /// multiadmin's.
    pub(crate) fn multiadmin_set(&self) -> CertificateSet {
        let leaves = vec![(ADMIN_CERTIFICATE, LeafRequest::multiadmin(&self.state.cluster, HOST))];
        self.set("multiadmin", self.layout.multiadmin(), ADMIN_KEY, self.owner(), leaves)
    }

    /// What a gRPC client needs: certificates of whoever runs this.
    pub(crate) fn client_set(&self) -> Result<CertificateSet> {
        let request = LeafRequest::operator(&self.state.cluster, OperatorRole::Admin, &operator_name())?;
        let leaves = vec![(CLIENT_CERTIFICATE, request)];
        Ok(self.set("the command line", self.layout.client(), CLIENT_KEY, None, leaves))
    }

    /// A cell's, all for its one key.
    pub(crate) fn cell_set(&self, cell: &CellName) -> CertificateSet {
        let leaves = vec![
            (SERVER_CERTIFICATE, LeafRequest::pgbackrest(self.state.pgbackrest_name, HOST)),
            (POOLER_CERTIFICATE, self.pooler_request(cell, self.revocations_of(cell))),
            (REPLICATION_CERTIFICATE, LeafRequest::replication(&self.state.cluster, cell)),
        ];
        let directory = self.layout.cell(cell).tls();
        self.set(&format!("cell {cell}"), directory, SERVER_KEY, self.owner(), leaves)
    }

    /// Renews the certificates of whoever works here with the authority's key at hand, when they are due: the
    /// command line's and the provisioner's own. Nobody else could, and nobody should notice.
    pub fn renew_operators(&self) {
        let sets = [self.client_set(), self.provisioner_set()];
        for set in sets.into_iter().flatten() {
            let lasts = |path: PathBuf| {
                CertificateInfo::from_file(&path).is_ok_and(|info| SystemTime::now() < info.renew_at())
            };
            if set.certificates().all(lasts) {
                continue;
            }
            // Somebody who may use the certificate need not be able to read the authority's key; what is left of
            // its life is told elsewhere (`certs list`).
            if let (Ok(ca), Ok(trusted)) = (Ca::load(&self.layout.ca()), self.trusted()) {
                let _ = set.ensure(&ca, &trusted);
            }
        }
    }

    /// etcd's certificates and revocation list, and the provisioner's own for talking to it.
    pub(crate) fn issue_etcd(&self, ca: &Ca) -> Result<()> {
        let trusted = self.trusted()?;
        self.etcd_set().ensure(ca, &trusted)?;
        self.install_etcd_revocations()?;
        self.provisioner_set()?.ensure(ca, &trusted)
    }

    /// multiadmin's certificate.
    pub(crate) fn issue_multiadmin(&self, ca: &Ca) -> Result<()> {
        self.multiadmin_set().ensure(ca, &self.trusted()?)
    }

    /// What a gRPC client needs: certificates of whoever runs this, and multiadmin's address.
    pub(crate) fn issue_client(&self, ca: &Ca) -> Result<()> {
        self.client_set()?.ensure(ca, &self.trusted()?)?;
        let endpoint = format!("{}\n", self.admin_address()?);
        replace(&self.layout.client().join("endpoint"), &endpoint, 0o644, None)
    }

    /// A cell's certificates.
    pub(crate) fn issue_cell(&self, ca: &Ca, cell: &CellName) -> Result<()> {
        self.cell_set(cell).ensure(ca, &self.trusted()?)
    }
}
