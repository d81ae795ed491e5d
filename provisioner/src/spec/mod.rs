//! The cluster's specification and the pgBackRest configs generated from it, offline.

pub(crate) mod cluster_spec;
pub(crate) mod generate;
