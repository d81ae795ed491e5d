//! What this cell reads of the pgBackRest repository, and how a backup is proven.
//!
//! Jobs and the instance ask it; nothing else in this crate looks into the repository.

pub(crate) mod backup_proof;
pub(crate) mod reader;
pub(crate) mod stanza;
