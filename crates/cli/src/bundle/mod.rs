//! What a support bundle is made of: files, answers and facts of a cluster's directory, with what is secret removed.
//!
//! Three things keep secrets out, each without the others. Only what is on a list is copied, and no key, passphrase or
//! data file is on it. Each kind of text has rules of its own: settings and options are shown when their names are known
//! to be harmless, and of a log everything behind the beginning of a statement or a literal is dropped. And every secret
//! of the cluster that this user can read, or that a statement in a log shows, is removed wherever it stands.

pub(crate) mod archive;
pub(crate) mod directory;
mod json;
mod listing;
mod log_text;
mod pgbackrest_options;
pub(crate) mod programs;
pub(crate) mod secrets;
mod settings;
mod sql;

/// What stands in place of something that was removed.
const REMOVED: &str = "[removed]";
