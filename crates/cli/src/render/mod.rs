//! Text for people: tables, units, times, and the outcome of each kind of job. Pure functions.

pub(crate) mod drill;
pub(crate) mod maintenance;
pub(crate) mod proof;
pub(crate) mod restore;
pub(crate) mod steps;
pub(crate) mod table;
pub(crate) mod units;
pub(crate) mod when;
