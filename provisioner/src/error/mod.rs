//! What can go wrong, and what to do about it. All other folders use it, and it uses none of them.

pub(crate) mod advice;
pub(crate) mod cell_report;
pub(crate) mod finding;
pub(crate) mod provision_error;
pub(crate) mod spec_error;
