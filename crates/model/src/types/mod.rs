//! Values with rules of their own: names, hosts, positions in the WAL, paths, secrets, error codes; how much clocks may differ.

pub(crate) mod client_role;
pub(crate) mod clocks;
pub(crate) mod code;
pub(crate) mod commands;
pub(crate) mod host;
pub(crate) mod json;
pub(crate) mod lsn;
pub(crate) mod name;
pub(crate) mod path_rule;
pub(crate) mod pgbackrest_name;
pub(crate) mod protocol;
pub(crate) mod role;
pub(crate) mod secret;
pub(crate) mod session_rules;
pub(crate) mod wal;
