//! The names of the roles that Cellar relies on.

/// The role standbys connect as, and the common name of their certificates.
pub const REPLICATION_ROLE: &str = "cellar_replication";

/// The role that instances are watched as: it reads statistics and settings, and may do nothing else.
pub const MONITOR_ROLE: &str = "cellar_monitor";

/// The role initdb makes, and Cellar connects as for everything but watching.
pub const SUPERUSER: &str = "postgres";
