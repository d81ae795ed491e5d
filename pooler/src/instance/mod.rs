//! PostgreSQL itself: the supervisor, what it does next, and how a data directory is filled.
//!
//! Uses [`crate::repository`] to restore and [`crate::config_files`] to configure. Jobs use it; it knows no job.

pub(crate) mod hold;
pub(crate) mod incarnation;
pub(crate) mod leadership;
pub(crate) mod next_step;
pub(crate) mod seed;
pub(crate) mod supervisor;
