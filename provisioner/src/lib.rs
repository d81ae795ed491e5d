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
mod cluster;
mod error;
mod etcd;
mod file;
mod hosts;
mod local;
mod preflight;
mod processes;
mod renewal;
mod spec;

pub use cellar_pgbackrest::{PassphraseError, read_passphrase};
pub use cellar_postgres::scram_verifier;
pub use cellar_topology::{EtcdEndpoint, EtcdMemberStatus};
pub use certificates::clients::AdminClient;
pub use certificates::listing::ListedCertificate;
pub use cluster::cell_host::CellHost;
pub use cluster::cell_problem::{CellFacts, RecordedPrimary, cell_problems};
pub use cluster::database::{ClusterDatabase, Member};
pub use cluster::etcd_origin::{EtcdBeginning, EtcdOrigin, FormerEtcd};
pub use cluster::haproxy_config::{DEFAULT_ROUTE_LAG, HaproxyConfig, RoutedCell};
pub use cluster::local_cluster::Cluster;
pub use cluster::state::{ClusterState, LocalCell};
pub use cluster::steps::Steps;
pub use error::advice::FailureKind;
pub use error::cell_report::CellReport;
pub use error::finding::Finding;
pub use error::provision_error::{ProvisionError, Result};
pub use error::spec_error::SpecError;
pub use etcd::records::RepairedRecords;
pub use etcd::replace::{JoiningMember, replace_etcd_member};
pub use etcd::restore::{RestoredEtcd, restore_etcd};
pub use etcd::snapshot::EtcdSnapshot;
pub use etcd::status::{EtcdHealth, etcd_health};
pub use etcd::tool::SnapshotContent;
pub use hosts::apply::{Applied, apply_to_hosts, compare_hosts_with};
pub use hosts::bundle::install_command;
pub use hosts::cells::{RemovedHost, add_cell_on_host, remove_cell_on_host};
pub use hosts::databases::{NewDatabase, create_database_on_hosts};
pub use hosts::differences::{Change, Differences, Remaining};
pub use hosts::due::installed_certificates_due;
pub use hosts::etcd::{add_etcd_on_host, replace_etcd_on_host};
pub use hosts::etcd_restore::{PreparedEtcd, restore_etcd_on_hosts};
pub use hosts::hand_over::{HandedOver, hand_over};
pub use hosts::init::{Bundles, InitOptions, bundle_hosts, init_hosts};
pub use hosts::install::{Installed, install_host};
pub use hosts::program::HostProgram;
pub use hosts::revoke::{RevokedOnHosts, revoke_on_hosts, rotate_hosts};
pub use hosts::run::{
    HostCommand, host_command, host_pooler, host_processes, remove_host, start_host, stop_host,
};
pub use hosts::servers::HostServer;
pub use hosts::upgrade::{UpgradeOptions, Upgraded, upgrade_host};
pub use hosts::wait::wait_for_hosts;
pub use local::cells::{AddedCell, RemovedCell, add_cell, remove_cell};
pub use local::down::{DownOutcome, down};
pub use local::health::ProcessHealth;
pub use local::port_offset::PortOffset;
pub use local::secrets::{Environment, GivenCredentials};
pub use local::up::{UpOutcome, up};
pub use local::up_options::{DEFAULT_CELLS, DEFAULT_CLUSTER, DEFAULT_DATABASE, UpOptions};
pub use processes::etcd_arguments::{EtcdInitialState, EtcdMemberOptions, EtcdPeer, etcd_arguments};
pub use processes::process::PASSPHRASE_VARIABLE;
pub use renewal::revocation::revoke;
pub use renewal::rotation::rotate;
pub use spec::cluster_spec::ClusterSpec;
pub use spec::databases::SpecifiedDatabase;
pub use spec::generate::{generate_configs, render_configs};
