//! The jobs addressed to this cell: one file a kind, and the worker that claims, runs and ends them.
//!
//! Jobs use [`crate::instance`], [`crate::services`] and [`crate::repository`]; nobody uses a job but the worker.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod claim;
pub(crate) mod command;
pub(crate) mod control;
pub(crate) mod drill;
pub(crate) mod expire;
pub(crate) mod lanes;
pub(crate) mod rebuild;
pub(crate) mod restore;
pub(crate) mod takeover;
pub(crate) mod verify;
pub(crate) mod worker;
