//! One cluster: its directory, what it was created with, and the records that follow.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cellar_model::{
    Cell, CellLayout, CellName, ClusterLayout, Database, HostName, Keyspace, PgbackrestName, Pooler, Ports,
    Protocol, Retention,
};
use cellar_system::{OsUser, Owner};

use crate::cluster::cell_host::CellHost;
use crate::cluster::database::ClusterDatabase;
use crate::cluster::etcd_origin::EtcdOrigin;
use crate::cluster::loopback::{HOST, LISTEN, at_loopback, host};
use crate::cluster::state::{ClusterState, LocalCell};
use crate::error::provision_error::{ProvisionError, Result};

/// Full backups that a local cluster keeps, unless another number was chosen.
pub(crate) const RETENTION_FULL: u32 = 2;

/// A cluster that exists or is about to, as its directory on this machine shows it. There are three kinds of directories:
/// of a local cluster, with everything in it; of the operator of a cluster on hosts, with the authority and the keys that
/// hosts are given; and of such a host.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its directories.
    pub layout: ClusterLayout,
    /// What it was created with.
    pub state: ClusterState,
    /// The OS user of PostgreSQL and everything beside it, if they run on this machine, or else of this process.
    pub user: OsUser,
    /// The cell whose host this machine is.
    here: Option<CellName>,
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
        let is_local = state.cells.iter().all(|cell| cell.host.is_none());
        let user = if is_local { OsUser::resolve(Some(&state.os_user))? } else { OsUser::current()? };
        Ok(Self { layout, state, user, here: None })
    }

    /// The cluster as the host of one of its cells has it.
    pub(crate) fn assemble_on_host(
        layout: ClusterLayout,
        state: ClusterState,
        cell: CellName,
    ) -> Result<Self> {
        let user = OsUser::resolve(Some(&state.os_user))?;
        Ok(Self { layout, state, user, here: Some(cell) })
    }

    /// Whether all of it is on this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.state.cells.iter().all(|cell| cell.host.is_none())
    }

    /// Refuses a command that works on a cluster of this machine only.
    ///
    /// # Errors
    /// [`ProvisionError::OnHosts`] when its cells have hosts of their own.
    pub fn check_is_local(&self, command: &'static str) -> Result<()> {
        if self.is_local() {
            return Ok(());
        }
        Err(ProvisionError::OnHosts { command, dir: self.layout.root().to_owned() })
    }

    /// The host of the cell whose host this machine is.
    fn own_host(&self) -> Option<&CellHost> {
        self.state.cell(self.here.as_ref()?)?.host.as_ref()
    }

    /// The cells whose processes are on this machine.
    pub(crate) fn cells_here(&self) -> impl Iterator<Item = &LocalCell> {
        self.state.cells.iter().filter(|cell| cell.host.is_none() || self.here.as_ref() == Some(&cell.name))
    }

    /// The directory of the repository, if it is one of this machine's.
    pub(crate) fn repository_here(&self) -> Option<&Path> {
        match self.state.repo.home() {
            None => self.state.repo.local_directory(),
            Some(home) => self
                .cells_here()
                .any(|cell| cell.name == *home)
                .then(|| self.state.repo.directory_in(home))
                .flatten(),
        }
    }

    /// Whether an etcd member is on this machine.
    pub(crate) fn has_etcd(&self) -> bool {
        self.is_local() || self.own_host().is_some_and(|host| host.etcd)
    }

    /// How the etcd member on this machine came by its data, if not with the cluster.
    pub(crate) fn own_etcd_origin(&self) -> Option<&EtcdOrigin> {
        self.state.etcd_origins.get(self.here.as_ref()?)
    }

    /// Whether a multiadmin is on this machine.
    pub(crate) fn has_multiadmin(&self) -> bool {
        self.is_local() || self.own_host().is_some_and(|host| host.multiadmin)
    }

    /// The name under which a cell's servers are reached.
    pub(crate) fn host_of(&self, cell: &CellName) -> &str {
        self.state.cell(cell).and_then(|cell| cell.host.as_ref()).map_or(HOST, |host| &host.host)
    }

    /// What the servers on this machine that are of no cell listen on.
    pub(crate) fn listen_at(&self, port: u16) -> Vec<SocketAddr> {
        match self.own_host() {
            Some(host) => vec![SocketAddr::new(host.listen, port)],
            None => at_loopback(port),
        }
    }

    /// The names under which etcd's members are reached, with their cells.
    pub(crate) fn etcd_hosts(&self) -> Vec<(&CellName, &HostName)> {
        self.hosts(|host| host.etcd)
    }

    /// The names under which the multiadmins are reached, with their cells.
    pub(crate) fn admin_hosts(&self) -> Vec<(&CellName, &HostName)> {
        self.hosts(|host| host.multiadmin)
    }

    fn hosts(&self, has: impl Fn(&CellHost) -> bool) -> Vec<(&CellName, &HostName)> {
        let on_host = |cell: &'_ LocalCell| cell.host.as_ref().is_some_and(&has);
        let cells = self.state.cells.iter().filter(|cell| on_host(cell));
        cells.filter_map(|cell| Some((&cell.name, &cell.host.as_ref()?.host))).collect()
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

    /// `host:port` of each multiadmin's gRPC.
    ///
    /// # Errors
    /// When the port is above 65535.
    pub fn admin_addresses(&self) -> Result<Vec<String>> {
        let port = self.port(Ports::ADMIN_GRPC)?;
        let hosts = self.admin_hosts();
        let names = if self.is_local() { vec![HOST] } else { names(&hosts) };
        Ok(names.into_iter().map(|host| format!("{host}:{port}")).collect())
    }

    /// The URL of each etcd member for clients.
    pub(crate) fn etcd_urls(&self) -> Result<Vec<String>> {
        let port = self.port(Ports::ETCD_CLIENT)?;
        let hosts = self.etcd_hosts();
        let names = if self.is_local() { vec![HOST] } else { names(&hosts) };
        Ok(names.into_iter().map(|host| format!("https://{host}:{port}")).collect())
    }

    /// A database's record.
    pub(crate) fn record_of(&self, database: &ClusterDatabase) -> Database {
        Database {
            name: database.name.clone(),
            stanza: database.stanza.clone(),
            repository: self.state.repo.clone(),
            retention: Retention { full: database.retention_full.unwrap_or(RETENTION_FULL) },
            bootstrap_cell: database.bootstrap_cell.clone(),
            port_offset: u32::from(database.port_offset),
            repo_cipher: self.state.repo_cipher,
            pgbackrest_names: Some(self.state.pgbackrest_name)
                .filter(|name| *name != PgbackrestName::default())
                .into_iter()
                .collect(),
            minimum_protocol: Protocol::default(),
            cluster_id: self.state.id,
            cells: database.cells.clone(),
            is_qualified: self.state.qualifier(&database.name).is_some(),
            durability: cellar_model::Durability::default(),
            settings: std::collections::BTreeMap::new(),
            pause: None,
        }
    }

    /// A cell's record.
    pub(crate) fn cell(&self, cell: &LocalCell) -> Cell {
        Cell {
            name: cell.name.clone(),
            index: cell.index,
            host: cell.host.as_ref().map_or_else(host, |found| found.host.clone()),
            directory: self.directory_of(cell).root().display().to_string(),
        }
    }

    /// A cell's directories on its host.
    fn directory_of(&self, cell: &LocalCell) -> CellLayout {
        match &cell.host {
            Some(host) => ClusterLayout::new(&host.directory).cell(&cell.name),
            None => self.layout.cell(&cell.name),
        }
    }

    /// The record of a database's pooler in a cell.
    pub(crate) fn pooler(&self, database: &ClusterDatabase, cell: &LocalCell) -> Result<Pooler> {
        let listen = cell.host.as_ref().map_or(LISTEN, |host| host.listen).to_string();
        let (database, place) = (self.record_of(database), self.cell(cell));
        let pooler = CellLayout::of_member(&database, &place).pooler(&database, &place, &listen)?;
        let ports = u16::try_from(database.port_offset).map(Ports::new);
        let pool_port = match ports {
            Ok(ports) if self.state.pool => ports.of_cell(Ports::POOL, cell.index)?,
            _ => 0,
        };
        Ok(Pooler { revocations: cell.revocations, pool_port, ..pooler })
    }

    /// The records of all poolers that there are to be in these cells.
    pub(crate) fn poolers(&self, cells: &[LocalCell]) -> Result<Vec<Pooler>> {
        let of_cell = |cell: &LocalCell| {
            let here = self.state.databases().filter(|database| database.is_wanted_in(&cell.name));
            here.map(|database| self.pooler(database, cell)).collect::<Result<Vec<_>>>()
        };
        Ok(cells.iter().map(of_cell).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Where the cluster's records lie in etcd.
    pub(crate) fn keys(&self) -> Keyspace {
        Keyspace::new(&self.state.cluster)
    }
}

fn names<'a>(hosts: &[(&CellName, &'a HostName)]) -> Vec<&'a str> {
    hosts.iter().map(|(_, host)| &***host).collect()
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

    /// The operator's directory of a cluster whose hosts lead nowhere, with the certificates and the bundles of all.
    pub(crate) fn on_hosts(directory: &std::path::Path, cells: &[&str]) -> Self {
        let mut cluster = Self::sample(directory, cells);
        for cell in &mut cluster.state.cells {
            cell.host = Some(CellHost {
                host: format!("{}.invalid", cell.name).parse().unwrap(),
                listen: "0.0.0.0".parse().unwrap(),
                directory: "/var/lib/cellar/demo".into(),
                etcd: true,
                multiadmin: true,
            });
        }
        let _ = cluster.authority().unwrap();
        std::fs::create_dir_all(cluster.layout.state()).unwrap();
        let cells: Vec<_> = cluster.state.cells.iter().map(|cell| cell.name.clone()).collect();
        let _ = cluster.issue_bundles(&cells, false).unwrap();
        cluster
    }
}
