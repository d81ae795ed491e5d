//! Hosts for tests: network namespaces that are joined by one bridge, each with an address, a hosts file and a directory of
//! its own. [`Hosts`] is what tests use.
//!
//! `cluster` is a cluster over hosts, `ledger` the rows that it has acknowledged, `streaming` who is its primary and who streams. `set` has the hosts and the commands on them, `cuts` has failures of the network between them, `processes` has failures of
//! a whole host. `network` makes and removes namespaces, links and rules with `ip` and `nft`; `slot` keeps the hosts of tests apart
//! that run at the same time, and finds what a killed one has left.

mod cluster;
mod cuts;
mod ledger;
mod network;
mod processes;
mod set;
mod slot;
mod streaming;

pub use cluster::{HostsCluster, cell_of, has_ended};
pub use ledger::{Ledger, Moment, Written};
pub use set::Hosts;
