//! Text for people: tables, units, times, and each kind of job's parameters and outcome. Pure functions of the API's
//! messages; the commands print what they return.

pub(crate) mod backup;
pub(crate) mod drill;
pub(crate) mod etcd;
pub(crate) mod facts;
pub(crate) mod job;
pub(crate) mod job_list;
mod outcome;
mod parameters;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod repository;
pub(crate) mod restore;
pub(crate) mod schedules;
pub(crate) mod settings;
pub(crate) mod status;
mod steps;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod when;
pub(crate) mod words;
