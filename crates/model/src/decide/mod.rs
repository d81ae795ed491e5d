//! The decisions: pure functions from what is known to what is to be done.

pub(crate) mod admission;
pub(crate) mod archiving;
pub mod availability;
pub(crate) mod cell_claim;
pub(crate) mod claim_times;
pub(crate) mod condition;
pub(crate) mod driven;
pub(crate) mod expiry;
pub(crate) mod health;
pub(crate) mod logical_slots;
pub(crate) mod mark;
pub(crate) mod outcome;
pub(crate) mod pooling;
pub(crate) mod precondition;
pub(crate) mod primary_fence;
pub(crate) mod proof;
pub(crate) mod protocol;
pub(crate) mod recovery_target;
pub(crate) mod request;
pub(crate) mod rolling;
pub(crate) mod snapshot;
pub(crate) mod survey;
pub(crate) mod verification;
pub(crate) mod worth;
