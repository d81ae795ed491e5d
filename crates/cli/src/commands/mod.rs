//! The commands, one a file.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod backups;
pub(crate) mod cells;
pub(crate) mod certs;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod expire;
pub(crate) mod jobs;
pub(crate) mod rebuild;
pub(crate) mod restore;
pub(crate) mod schedules;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod verify;
