//! The command line of `multipooler`.

use std::path::PathBuf;

use cellar_model::{CellName, ClusterName, DatabaseName};
use clap::Parser;

/// The agent beside one PostgreSQL instance: supervises PostgreSQL and the pgBackRest TLS server,
/// runs the jobs addressed to its cell, and reports the state of the instance.
///
/// `cellar up` starts it. SIGTERM ends it and the jobs that it runs; PostgreSQL goes on.
#[derive(Debug, Clone, Parser)]
#[command(name = "multipooler", version)]
pub struct Arguments {
    /// The cluster.
    #[arg(long)]
    pub cluster: ClusterName,
    /// Which cluster of that name it is: with another one's records in etcd nothing is done.
    #[arg(long, value_name = "UUID", env = "CELLAR_CLUSTER_ID")]
    pub cluster_id: Option<uuid::Uuid>,
    /// The database that the instance belongs to.
    #[arg(long)]
    pub database: DatabaseName,
    /// The cell that it is in.
    #[arg(long)]
    pub cell: CellName,
    /// etcd's client URL; may be given several times.
    #[arg(long, required = true)]
    pub etcd: Vec<String>,
    /// The cell's directory.
    #[arg(long)]
    pub directory: PathBuf,
    /// Where to write the process id.
    #[arg(long)]
    pub pid_file: PathBuf,
    /// The TLS directory of an etcd member on this host, which gets the lists of revoked certificates: the member reads them
    /// from there.
    #[arg(long)]
    pub etcd_tls_dir: Option<PathBuf>,
    /// The OS user to run as when started as root.
    #[arg(long)]
    pub os_user: Option<String>,
}
