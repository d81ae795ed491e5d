//! From a cluster specification to certificates, configs and local processes.
//!
//! Two things live here. Offline, [`generate_configs`] turns a [`ClusterSpec`] into one
//! `pgbackrest.conf` per cell and touches nothing else. On this machine, [`up`], [`down`],
//! [`add_cell`] and [`remove_cell`] run a whole cluster below one directory: they issue the
//! certificates (the authority's key never leaves), start etcd, multiadmin and one multipooler
//! per cell, and wait until every cell streams. They look before they act, so that each may be
//! killed anywhere and run again.

mod binaries;
mod certificates;
mod error;
mod file;
mod local;
mod preflight;
mod spec;

pub use cellar_pgbackrest::{PassphraseError, read_passphrase};
pub use certificates::renew::ListedCertificate;
pub use certificates::revocation::revoke;
pub use certificates::rotation::rotate;
pub use error::{CellReport, FailureKind, ProvisionError, Result};
pub use local::cells::{AddedCell, RemovedCell, add_cell, remove_cell};
pub use local::cluster::{AdminClient, Cluster};
pub use local::down::{DownOutcome, down};
pub use local::health::ProcessHealth;
pub use local::port_offset::PortOffset;
pub use local::secrets::PASSPHRASE_VARIABLE;
pub use local::state::{ClusterState, LocalCell};
pub use local::steps::Steps;
pub use local::up::{DEFAULT_CELLS, DEFAULT_CLUSTER, DEFAULT_DATABASE, UpOptions, UpOutcome, up};
pub use preflight::checks::Finding;
pub use spec::cluster_spec::{ClusterSpec, SpecError};
pub use spec::generate::{generate_configs, render_configs};
