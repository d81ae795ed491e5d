//! The steps of a restore of the whole database, which multiadmin drives, and what they share with drills.

pub(crate) mod discard;
pub(crate) mod fence;
pub(crate) mod locate;
pub(crate) mod plan;
pub(crate) mod private_instance;
pub(crate) mod recover;
pub(crate) mod swap;
