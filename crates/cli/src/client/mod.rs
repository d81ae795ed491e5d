//! Talking to multiadmin: where it is, how a call is repeated, how a job is submitted and followed.

pub(crate) mod follow;
pub(crate) mod retry;
pub(crate) mod submit;
pub(crate) mod target;
