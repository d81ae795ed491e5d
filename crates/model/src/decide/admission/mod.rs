//! Deciding whether a request can work, from a snapshot of the topology: one function for each kind of job.
//!
//! What cannot work is refused here, at once, with nothing changed. What passes here is checked once more by the
//! pooler against its live instance: the snapshot is a lease's time old at worst.

pub(crate) mod backup;
pub(crate) mod cell;
pub(crate) mod kept_data;
pub(crate) mod maintenance;
pub(crate) mod restore;
#[cfg(test)]
mod tests;
