//! One local cluster: its directory, what it was created with, and the records that follow.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{
    Cell, CellName, ClusterLayout, Database, Keyspace, PgbackrestName, Pooler, Ports, Retention,
};
use cellar_system::OsUser;
use cellar_tls::{ClientTls, Owner};
use cellar_topology::{EtcdKv, Store};
use tonic::transport::Channel;

use crate::error::{ProvisionError, Result};
use crate::local::state::{ClusterState, LocalCell};

/// The name under which everything on this machine reaches everything else.
pub(crate) const HOST: &str = "localhost";

/// The address that everything of a local cluster listens on.
pub(crate) const LISTEN: &str = "127.0.0.1";

/// Full backups that a local cluster keeps.
const RETENTION_FULL: u32 = 2;

/// A unary call that takes longer has failed; `GetPooler` and the like ask others in turn.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of multiadmin.
pub type AdminClient = MultiAdminClient<Channel>;

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

    /// Directory of the provisioner's own client certificate for etcd.
    pub(crate) fn etcd_client_tls(&self) -> PathBuf {
        self.layout.state().join("tls")
    }

    /// The database's record.
    pub(crate) fn database(&self) -> Database {
        Database {
            name: self.state.database.clone(),
            stanza: self.state.stanza.clone(),
            repo_path: self.state.repo.display().to_string(),
            retention: Retention { full: self.state.retention_full.unwrap_or(RETENTION_FULL) },
            bootstrap_cell: self.state.bootstrap_cell.clone(),
            port_offset: u32::from(self.state.port_offset),
            repo_cipher: self.state.repo_cipher,
            pgbackrest_names: Some(self.state.pgbackrest_name)
                .filter(|name| *name != PgbackrestName::default())
                .into_iter()
                .collect(),
        }
    }

    /// A cell's record.
    pub(crate) fn cell(&self, cell: &LocalCell) -> Cell {
        Cell {
            name: cell.name.clone(),
            index: cell.index,
            host: HOST.to_owned(),
            directory: self.layout.cell(&cell.name).root().display().to_string(),
        }
    }

    /// A cell's pooler record.
    pub(crate) fn pooler(&self, cell: &LocalCell) -> Result<Pooler> {
        let layout = self.layout.cell(&cell.name);
        let pooler = layout.pooler(&self.database(), &self.cell(cell), LISTEN)?;
        Ok(Pooler { revocations: cell.revocations, ..pooler })
    }

    pub(crate) fn pooler_pid_file(&self, cell: &CellName) -> PathBuf {
        self.layout.cell(cell).pid().join("multipooler.pid")
    }

    pub(crate) fn pooler_log(&self, cell: &CellName) -> PathBuf {
        self.layout.cell(cell).log().join("multipooler.log")
    }

    pub(crate) fn admin_pid_file(&self) -> PathBuf {
        self.layout.pid().join("multiadmin.pid")
    }

    pub(crate) fn admin_log(&self) -> PathBuf {
        self.layout.log().join("multiadmin.log")
    }

    /// etcd, as the provisioner.
    pub(crate) async fn etcd(&self) -> Result<EtcdKv> {
        self.renew_operators();
        let tls = ClientTls::from_dir(&self.etcd_client_tls())?;
        Ok(EtcdKv::connect(&[self.etcd_url()?], Some(tls.tonic_config())).await?)
    }

    /// The file in which multiadmin writes down who changed what.
    pub(crate) fn audit_log(&self) -> PathBuf {
        self.layout.log().join("audit.log")
    }

    /// The typed store, as the provisioner.
    pub(crate) async fn store(&self) -> Result<Store> {
        Ok(Store::new(Arc::new(self.etcd().await?), self.keys()))
    }

    /// Where the cluster's records lie in etcd.
    pub(crate) fn keys(&self) -> Keyspace {
        Keyspace::new(&self.state.cluster)
    }

    /// A client of multiadmin with the operator's certificate. Connects when first used.
    ///
    /// # Errors
    /// When the client directory cannot be used.
    pub fn admin(&self) -> Result<AdminClient> {
        self.renew_operators();
        let tls = ClientTls::from_dir(&self.layout.client())?;
        let endpoint = tls.endpoint(&self.admin_address()?, Some(CALL_TIMEOUT))?;
        Ok(MultiAdminClient::new(endpoint.connect_lazy()))
    }

    /// The same for a call whose answer is a stream, which has no deadline of its own.
    pub(crate) fn admin_stream(&self) -> Result<AdminClient> {
        let tls = ClientTls::from_dir(&self.layout.client())?;
        let endpoint = tls.endpoint(&self.admin_address()?, None)?;
        Ok(MultiAdminClient::new(endpoint.connect_lazy()))
    }
}
