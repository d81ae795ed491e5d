//! The certificate sets of a local cluster: their owners, directories, and the names and uses of each certificate.

use std::collections::BTreeSet;
use std::path::PathBuf;

use cellar_model::{CellName, HostName, OperatorRole};
use cellar_system::Owner;
use cellar_tls::{
    CLIENT_CERTIFICATE, CLIENT_KEY, Ca, LeafRequest, SERVER_CERTIFICATE, SERVER_KEY, known_certificates,
};

use crate::certificates::operator::operator_name;
use crate::certificates::set::CertificateSet;
use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::error::provision_error::Result;
use crate::file::replace;

/// multiadmin's certificate and key in its directory.
pub(crate) const ADMIN_CERTIFICATE: &str = "multiadmin.crt";
const ADMIN_KEY: &str = "multiadmin.key";

/// A cell's other certificates, beside that of its pgBackRest server and PostgreSQL.
pub(crate) const POOLER_CERTIFICATE: &str = "pooler.crt";
const REPLICATION_CERTIFICATE: &str = "replication.crt";

impl Cluster {
    /// Every directory with a key and certificates.
    pub(crate) fn certificate_sets(&self) -> Result<Vec<CertificateSet>> {
        let mut sets = self.etcd_sets();
        sets.push(self.provisioner_set()?);
        sets.extend(self.multiadmin_sets());
        sets.push(self.client_set()?);
        sets.extend(self.state.members().iter().map(|member| self.member_set(member)));
        Ok(sets)
    }

    /// The same, and those in the directories of members that were removed: whoever has such a key is let in as before.
    pub(crate) fn certificate_sets_on_disk(&self) -> Result<Vec<CertificateSet>> {
        let mut sets = self.certificate_sets()?;
        let known = self.state.members();
        let removed = self.members_on_disk().into_iter().filter(|member| !known.contains(member));
        sets.extend(removed.map(|member| self.member_set(&member)));
        Ok(sets)
    }

    /// The serial numbers of all certificates that a cell's host was given, also of those that were replaced since.
    pub(crate) fn serials_of_host(&self, cell: &CellName) -> Result<BTreeSet<String>> {
        let host = self.for_host(cell);
        let sets = self.certificate_sets_on_disk()?.into_iter().map(|set| set.directory);
        let of_host = sets.filter(|directory| directory.starts_with(host.root()));
        // Its member may have been removed already, by a run that was interrupted.
        let directories: BTreeSet<PathBuf> = of_host.chain([host.etcd().join("tls")]).collect();
        let mut serials = BTreeSet::new();
        for directory in directories.iter().filter(|directory| directory.exists()) {
            serials.extend(known_certificates(directory)?.into_iter().map(|one| one.serial));
        }
        Ok(serials)
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

    /// The certificates of etcd's members, each naming its own host only.
    pub(crate) fn etcd_sets(&self) -> Vec<CertificateSet> {
        let set = |what: String, directory: PathBuf, host: &str| self.etcd_set(&what, directory, host);
        if self.is_local() {
            return vec![set("etcd".to_owned(), self.etcd_tls(), HOST)];
        }
        let member = |(cell, host): (&CellName, &HostName)| {
            set(format!("the etcd member of cell {cell}"), self.for_host(cell).etcd().join("tls"), host)
        };
        self.etcd_hosts().into_iter().map(member).collect()
    }

    /// That of an etcd in this directory which only this machine sees.
    pub(crate) fn private_etcd_set(&self) -> CertificateSet {
        self.etcd_set("etcd for a restore", self.etcd_tls(), HOST)
    }

    fn etcd_set(&self, what: &str, directory: PathBuf, host: &str) -> CertificateSet {
        let cluster = &self.state.cluster;
        let leaves = vec![
            (SERVER_CERTIFICATE, LeafRequest::etcd_server(cluster, host)),
            ("peer.crt", LeafRequest::etcd_peer(cluster, host)),
        ];
        self.set(what, directory, SERVER_KEY, self.owner(), leaves)
    }

    /// The provisioner's own, for talking to etcd.
    pub(crate) fn provisioner_set(&self) -> Result<CertificateSet> {
        let leaves = vec![(CLIENT_CERTIFICATE, self.provisioner_request()?)];
        Ok(self.set("the provisioner", self.etcd_client_tls(), CLIENT_KEY, None, leaves))
    }

    /// Those of the multiadmins.
    pub(crate) fn multiadmin_sets(&self) -> Vec<CertificateSet> {
        let set = |what: &str, directory: PathBuf, request: LeafRequest| {
            self.set(what, directory, ADMIN_KEY, self.owner(), vec![(ADMIN_CERTIFICATE, request)])
        };
        if self.is_local() {
            let request = LeafRequest::multiadmin(&self.state.cluster, HOST);
            return vec![set("multiadmin", self.layout.multiadmin(), request)];
        }
        let on_host = |(cell, _): (&CellName, &HostName)| {
            let what = format!("the multiadmin of cell {cell}");
            set(
                &what,
                self.for_host(cell).multiadmin(),
                self.multiadmin_request(cell, self.revocations_of(cell)),
            )
        };
        self.admin_hosts().into_iter().map(on_host).collect()
    }

    /// The certificate of the multiadmin on a cell's host after so many revocations. Each has a name of its own, so that
    /// etcd can lock one out.
    pub(crate) fn multiadmin_request(&self, cell: &CellName, revocations: u32) -> LeafRequest {
        LeafRequest::multiadmin_of_cell(&self.state.cluster, cell, self.host_of(cell))
            .after_revocations(revocations)
    }

    /// The command line's: a certificate of the user who runs this.
    pub(crate) fn client_set(&self) -> Result<CertificateSet> {
        let request = LeafRequest::operator(&self.state.cluster, OperatorRole::Admin, &operator_name())?;
        let leaves = vec![(CLIENT_CERTIFICATE, request)];
        Ok(self.set("the command line", self.layout.client(), CLIENT_KEY, None, leaves))
    }

    /// A member's, all for its one key.
    pub(crate) fn member_set(&self, member: &Member) -> CertificateSet {
        let (cell, qualifier) = (&member.cell, self.state.qualifier(&member.database));
        let server = LeafRequest::pgbackrest(self.state.pgbackrest_name, self.host_of(cell));
        let replication = LeafRequest::replication(&self.state.cluster, cell);
        let leaves = vec![
            (SERVER_CERTIFICATE, server.qualified_by(qualifier)),
            (POOLER_CERTIFICATE, self.pooler_request(member, self.revocations_of(cell))),
            (REPLICATION_CERTIFICATE, replication.qualified_by(qualifier)),
        ];
        let what = format!("cell {}", self.state.shown(member));
        self.set(&what, self.keys_of(member).tls(), SERVER_KEY, self.owner(), leaves)
    }

    /// etcd's certificates and revocation list, and the provisioner's own for talking to it.
    pub(crate) fn issue_etcd(&self, ca: &Ca) -> Result<()> {
        let trusted = self.trusted()?;
        for set in self.etcd_sets() {
            set.ensure(ca, &trusted)?;
        }
        self.install_etcd_revocations()?;
        self.issue_provisioner(ca)
    }

    /// The provisioner's certificate.
    pub(crate) fn issue_provisioner(&self, ca: &Ca) -> Result<()> {
        self.provisioner_set()?.ensure(ca, &self.trusted()?)
    }

    /// The multiadmins' certificates.
    pub(crate) fn issue_multiadmin(&self, ca: &Ca) -> Result<()> {
        let trusted = self.trusted()?;
        self.multiadmin_sets().iter().try_for_each(|set| set.ensure(ca, &trusted))
    }

    /// What the command line needs: its certificate, and multiadmin's address.
    pub(crate) fn issue_client(&self, ca: &Ca) -> Result<()> {
        self.client_set()?.ensure(ca, &self.trusted()?)?;
        let endpoint = format!("{}\n", self.admin_addresses()?.join(","));
        replace(&self.layout.client().join("endpoint"), &endpoint, 0o644, None)
    }

    /// A member's certificates.
    pub(crate) fn issue_member(&self, ca: &Ca, member: &Member) -> Result<()> {
        self.member_set(member).ensure(ca, &self.trusted()?)
    }

    /// The certificate with which the provisioner talks to etcd.
    pub(crate) fn provisioner_request(&self) -> Result<LeafRequest> {
        Ok(LeafRequest::operator(&self.state.cluster, OperatorRole::Admin, "provisioner")?)
    }

    /// The certificate of a member's pooler after so many revocations in its cell, each of which gave it another name.
    pub(crate) fn pooler_request(&self, member: &Member, revocations: u32) -> LeafRequest {
        let Member { cell, database } = member;
        LeafRequest::pooler(&self.state.cluster, database, cell, self.host_of(cell))
            .after_revocations(revocations)
    }

    /// How often a cell's certificates were revoked.
    pub(crate) fn revocations_of(&self, cell: &CellName) -> u32 {
        self.state.revocations_of(cell)
    }
}
