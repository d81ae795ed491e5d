//! The repo as this cell reads it, the proof of a backup's source, and the stanza.
//!
//! Jobs and the instance use it. It runs pgBackRest with the files of [`crate::config_files`].

pub(crate) mod backup_proof;
pub(crate) mod marks;
pub(crate) mod reader;
pub(crate) mod stanza;
pub(crate) mod tool_failure;
pub(crate) mod unarchived;
