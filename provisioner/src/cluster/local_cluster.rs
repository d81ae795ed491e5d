//! One local cluster: its directory, what it was created with, and the records that follow.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use cellar_model::{
    Cell, ClusterLayout, Database, HostName, Keyspace, PgbackrestName, Pooler, Ports, Protocol, Retention,
};
use cellar_system::{OsUser, Owner};

use crate::cluster::state::{ClusterState, LocalCell};
use crate::error::provision_error::{ProvisionError, Result};

/// The name under which everything on this machine reaches everything else.
pub(crate) const HOST: &str = "localhost";

/// [`HOST`] as the records have it.
pub(crate) fn host() -> HostName {
    #[expect(clippy::expect_used, reason = "the constant is a DNS name")]
    HOST.parse().expect("a DNS name")
}

/// The address in a local cluster's records, which stands for all loopback addresses that [`HOST`] leads to.
pub(crate) const LISTEN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Full backups that a local cluster keeps, unless another number was chosen.
const RETENTION_FULL: u32 = 2;

/// A local cluster that exists or is about to.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its directories.
    pub layout: ClusterLayout,
    /// What it was created with.
    pub state: ClusterState,
    /// The OS user of PostgreSQL and everything beside it.
    pub user: OsUser,
}

impl Cluster {
    /// The cluster in a directory.
    ///
    /// # Errors
    /// [`ProvisionError::NoCluster`] when there is none, or when its state cannot be read.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let layout = ClusterLayout::new(dir);
        let state = ClusterState::load(&layout)?
            .ok_or_else(|| ProvisionError::NoCluster { dir: layout.root().to_owned() })?;
        Self::assemble(layout, state)
    }

    pub(crate) fn assemble(layout: ClusterLayout, state: ClusterState) -> Result<Self> {
        let user = OsUser::resolve(Some(&state.os_user))?;
        Ok(Self { layout, state, user })
    }

    /// Whose the files are that the OS user must use; `None` when this process is that user.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.user.switch().map(|(uid, gid)| Owner { uid, gid })
    }

    /// `--os-user` for daemons, when they are not started as that user already.
    pub(crate) fn os_user_flag(&self) -> Option<&str> {
        self.user.switch().map(|_| self.user.name.as_str())
    }

    pub(crate) fn port(&self, base: u16) -> Result<u16> {
        Ok(Ports::new(self.state.port_offset).single(base)?)
    }

    /// `host:port` of multiadmin's gRPC.
    ///
    /// # Errors
    /// When the port is above 65535.
    pub fn admin_address(&self) -> Result<String> {
        Ok(format!("{HOST}:{}", self.port(Ports::ADMIN_GRPC)?))
    }

    pub(crate) fn etcd_url(&self) -> Result<String> {
        Ok(format!("https://{HOST}:{}", self.port(Ports::ETCD_CLIENT)?))
    }

    /// The database's record.
    pub(crate) fn database(&self) -> Database {
        Database {
            name: self.state.database.clone(),
            stanza: self.state.stanza.clone(),
            repository: self.state.repo.clone(),
            retention: Retention { full: self.state.retention_full.unwrap_or(RETENTION_FULL) },
            bootstrap_cell: self.state.bootstrap_cell.clone(),
            port_offset: u32::from(self.state.port_offset),
            repo_cipher: self.state.repo_cipher,
            pgbackrest_names: Some(self.state.pgbackrest_name)
                .filter(|name| *name != PgbackrestName::default())
                .into_iter()
                .collect(),
            minimum_protocol: Protocol::default(),
        }
    }

    /// A cell's record.
    pub(crate) fn cell(&self, cell: &LocalCell) -> Cell {
        Cell {
            name: cell.name.clone(),
            index: cell.index,
            host: host(),
            directory: self.layout.cell(&cell.name).root().display().to_string(),
        }
    }

    /// A cell's pooler record.
    pub(crate) fn pooler(&self, cell: &LocalCell) -> Result<Pooler> {
        let layout = self.layout.cell(&cell.name);
        let pooler = layout.pooler(&self.database(), &self.cell(cell), &LISTEN.to_string())?;
        Ok(Pooler { revocations: cell.revocations, ..pooler })
    }

    /// Where the cluster's records lie in etcd.
    pub(crate) fn keys(&self) -> Keyspace {
        Keyspace::new(&self.state.cluster)
    }
}

#[cfg(test)]
impl Cluster {
    /// A cluster of this process's user in a directory, for tests; nothing of it is made.
    pub(crate) fn sample(directory: &std::path::Path, cells: &[&str]) -> Self {
        let layout = ClusterLayout::new(directory);
        let state = ClusterState::new(
            "demo".parse().unwrap(),
            0,
            "app".parse().unwrap(),
            "app".parse().unwrap(),
            layout.repo().to_str().unwrap().parse().unwrap(),
            OsUser::resolve(None).unwrap().name,
            cells.iter().map(|cell| cell.parse().unwrap()).collect(),
        );
        Self::assemble(layout, state.unwrap()).unwrap()
    }
}
