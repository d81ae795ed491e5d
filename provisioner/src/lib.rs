//! From a cluster specification to certificates, configs and local processes.
//!
//! Two things live here. Offline, [`generate_configs`] turns a [`ClusterSpec`] into one
//! `pgbackrest.conf` per cell and touches nothing else. On this machine, [`up`], [`down`],
//! [`add_cell`] and [`remove_cell`] run a whole cluster below one directory: they issue the
//! certificates (the authority's key never leaves), start etcd, multiadmin and one multipooler
//! per cell, and wait until every cell streams. They look before they act, so that each may be
//! killed anywhere and run again.

mod authority;
mod binaries;
mod cells;
mod certs;
mod cluster;
mod database;
mod disk;
mod down;
mod error;
mod etcd;
mod file;
mod first_backup;
mod generate;
mod health;
mod launch;
mod names;
mod port_holder;
mod port_offset;
mod preflight;
mod process;
mod reach;
mod records;
mod revocation;
mod rotation;
mod secrets;
mod spec;
mod state;
mod steps;
mod up;
mod watch;

pub use cellar_pgbackrest::{PassphraseError, read_passphrase};
pub use cells::{AddedCell, RemovedCell, add_cell, remove_cell};
pub use certs::ListedCertificate;
pub use cluster::{AdminClient, Cluster};
pub use down::{DownOutcome, down};
pub use error::{CellReport, FailureKind, ProvisionError, Result};
pub use generate::{generate_configs, render_configs};
pub use health::ProcessHealth;
pub use port_offset::PortOffset;
pub use preflight::Finding;
pub use revocation::revoke;
pub use rotation::rotate;
pub use secrets::PASSPHRASE_VARIABLE;
pub use spec::{ClusterSpec, SpecError};
pub use state::{ClusterState, LocalCell};
pub use steps::Steps;
pub use up::{DEFAULT_CELLS, DEFAULT_CLUSTER, DEFAULT_DATABASE, UpOptions, UpOutcome, up};
