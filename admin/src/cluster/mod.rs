//! Cells, databases, poolers, backups and schedules: listed, added, changed and removed for the API.

pub(crate) mod backups;
pub(crate) mod cells;
pub(crate) mod databases;
pub(crate) mod poolers;
pub(crate) mod schedules;
