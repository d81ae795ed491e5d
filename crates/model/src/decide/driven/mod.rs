//! Jobs that multiadmin drives: their steps are jobs of several poolers. A restore, its rollback, its confirmation.
//!
//! [`driver::drive`] looks at a [`scene::Scene`], which is the job, its steps and the database's incarnation, and
//! answers with the next thing to do. It keeps no state, so whichever multiadmin leads goes on from what etcd holds.
//!
//! Each kind of driven job is one file that implements [`driven_job::DrivenJob`], and one line in
//! [`driver::driven_job`]. What a restore and a rollback have in common is in [`replacement`].

pub(crate) mod confirm;
pub(crate) mod driven_job;
pub(crate) mod driver;
pub(crate) mod replacement;
pub(crate) mod restore;
pub(crate) mod rollback;
pub(crate) mod scene;
#[cfg(test)]
mod tests;
