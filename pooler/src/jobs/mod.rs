//! The jobs addressed to this cell: one file a kind, and the worker that claims, runs and ends them.
//!
//! `lanes` decides which job runs, `claim` writes its run into etcd, and `worker::dispatch` lists the kinds once. Every
//! kind is `async fn run(context) -> JobResult` and works through its [`context`]. Jobs use [`crate::instance`] and [`crate::repository`]; nothing but the worker uses a job.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod claim;
pub(crate) mod claim_lease;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod drill;
pub(crate) mod expire;
pub(crate) mod failure;
pub(crate) mod lanes;
pub(crate) mod leftovers;
pub(crate) mod old_logs;
pub(crate) mod rebuild;
pub(crate) mod restart;
pub(crate) mod restore;
pub(crate) mod takeover;
pub(crate) mod verify;
pub(crate) mod worker;
pub(crate) mod written;
