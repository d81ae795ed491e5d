//! The topology: everything that etcd holds, behind one typed store.
//!
//! [`Kv`] is the one interface to etcd: guarded transactions, ordered watches and leases.
//! It has two implementations, [`EtcdKv`] and [`MemoryKv`], and one conformance
//! suite runs against both. [`Store`] adds keys and records, [`Mirror`] keeps a
//! typed [`View`] current (list, then watch), [`LeaseKeeper`] keeps a lease alive.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

mod error;
mod etcd;
mod kv;
mod lease_keeper;
mod memory;
mod mirror;
mod retry;
mod store;
mod unknown_fields;
mod view;

pub use error::StoreError;
pub use etcd::client::EtcdKv;
pub use etcd::connection::EtcdTls;
pub use etcd::members::{EtcdEndpoint, EtcdMember, EtcdMemberStatus, SnapshotParts};
pub use etcd::users::EtcdUser;
pub use kv::{Change, Entry, Guard, Kv, LeaseId, Listing, Page, TxnOutcome, WatchStream, Write};
pub use lease_keeper::LeaseKeeper;
pub use memory::kv::MemoryKv;
pub use memory::state::{StoreState, below};
pub use mirror::Mirror;
pub use retry::{backoff, retry};
pub use store::{Store, Transaction, Versioned};
pub use view::ended_jobs::{EndedJob, Scope};
pub use view::records::{RunKey, View};
