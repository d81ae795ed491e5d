//! The in-memory twin of [`crate::EtcdKv`], for tests of what stands on the store.
//!
//! It keeps etcd's semantics where ours depend on them: revisions, guarded
//! transactions and their limits, ordered watches from a past revision,
//! compaction, leases that expire. The conformance suite runs against both.

pub(crate) mod kv;
pub(crate) mod state;
