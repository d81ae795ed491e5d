//! What the leading multiadmin does by itself: it gives locks to the next job, drives restores, closes jobs whose pooler
//! cannot end them, bounds the history, starts scheduled jobs and renews certificates.
//!
//! Started by `main`. Reads the view, writes to etcd, submits scheduled jobs, and calls poolers to renew certificates.

pub(crate) mod election;
pub(crate) mod execute;
pub(crate) mod housekeeping;
pub(crate) mod observations;
pub(crate) mod renewal;
pub(crate) mod scheduler;
