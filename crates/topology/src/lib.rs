//! The topology: everything that etcd holds, behind one typed store.
//!
//! [`Kv`] is the narrow waist: guarded transactions, ordered watches and leases.
//! It has two implementations, [`EtcdKv`] and [`MemoryKv`], and one conformance
//! suite runs against both. [`Store`] adds keys and records, [`Mirror`] keeps a
//! typed [`View`] current by list-then-watch, [`LeaseKeeper`] keeps a lease.

mod error;
mod etcd;
mod etcd_users;
mod keeper;
mod kv;
mod memory;
mod mirror;
mod retry;
mod store;
mod view;

pub use error::StoreError;
pub use etcd::{EtcdKv, EtcdTls};
pub use etcd_users::EtcdUser;
pub use keeper::LeaseKeeper;
pub use kv::{Change, Entry, Guard, Kv, LeaseId, Listing, TxnOutcome, WatchStream, Write};
pub use memory::{MemoryKv, StoreState, below};
pub use mirror::Mirror;
pub use retry::retry;
pub use store::{Store, Transaction, Versioned};
pub use view::{RunKey, View};
