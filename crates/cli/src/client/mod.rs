//! Calls of multiadmin: where it is, how a call is repeated, how a job is submitted, followed and reported.
//! The commands call it; it calls nothing but multiadmin.

pub(crate) mod follow;
pub(crate) mod poolers;
mod progress;
pub(crate) mod retry;
pub(crate) mod routes;
pub(crate) mod run_job;
pub(crate) mod schedules;
pub(crate) mod submit;
pub(crate) mod target;
