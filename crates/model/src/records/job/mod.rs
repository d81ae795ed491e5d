//! Jobs: their ids, kinds and parameters, the record that multiadmin writes and the run that a pooler writes.

pub(crate) mod bounds;
pub(crate) mod id;
pub(crate) mod outcome;
pub(crate) mod record;
pub(crate) mod run;
pub(crate) mod spec;
