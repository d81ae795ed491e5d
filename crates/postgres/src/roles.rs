//! The names of the roles that Cellar relies on.

/// The role standbys connect as, and the common name of their certificates.
pub const REPLICATION_ROLE: &str = "cellar_replication";

/// The role that instances are watched as: it reads statistics and settings, and may do nothing else.
pub const MONITOR_ROLE: &str = "cellar_monitor";

/// The role initdb makes, and Cellar connects as for everything but watching.
pub const SUPERUSER: &str = "postgres";

/// Its members, and nobody else, may connect over TCP to databases, with a password.
pub const CLIENT_GROUP: &str = "cellar_client";

/// Its members may connect over TCP to databases with a certificate of the cluster's authority, and in no other way.
pub const CERTIFICATE_CLIENT_GROUP: &str = "cellar_certificate_client";
