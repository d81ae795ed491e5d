//! What the leading multiadmin does by itself: it moves locks on, drives restores, closes what nobody else can end,
//! bounds the history, starts scheduled work and renews certificates.

pub(crate) mod election;
pub(crate) mod execute;
pub(crate) mod housekeeping;
pub(crate) mod observations;
pub(crate) mod renewal;
pub(crate) mod scheduler;
