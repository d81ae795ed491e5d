//! The cluster's specification, `cluster.toml`, and the pgBackRest configs that are generated from it, offline.

pub(crate) mod cluster_spec;
mod collisions;
pub(crate) mod databases;
mod field;
mod file_format;
pub(crate) mod generate;
