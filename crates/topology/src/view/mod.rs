//! The records of a cluster, typed, with the revisions that guard a change.
//!
//! [`crate::mirror`] keeps a view current; everybody else reads it.

pub(crate) mod ended_jobs;
pub(crate) mod records;
pub(crate) mod settle;
pub(crate) mod update;

#[cfg(test)]
#[path = "../../tests/support/records.rs"]
mod test_records;
#[cfg(test)]
mod tests;
