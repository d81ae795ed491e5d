//! The certificates of a local cluster. The authority's key stays in `<dir>/ca`.

use std::path::Path;

use cellar_model::CellName;
use cellar_tls::{
    CLIENT_CERTIFICATE, CLIENT_KEY, Ca, KeyFile, LeafRequest, OperatorRole, Owner, SERVER_CERTIFICATE,
    SERVER_KEY, generate_ca, generate_server_cert, issue,
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
        let own = LeafRequest::operator(cluster, OperatorRole::Admin, "provisioner")?;
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
