//! Cells, databases, poolers, backups, schedules and roles of applications: listed, added, changed and removed for the API.

pub(crate) mod backups;
pub(crate) mod cells;
pub(crate) mod client_roles;
pub(crate) mod databases;
pub(crate) mod durability;
pub(crate) mod forced_failover;
pub(crate) mod outlook;
pub(crate) mod pause;
pub(crate) mod poolers;
pub(crate) mod schedules;
pub(crate) mod settings;
pub(crate) mod switchover;
