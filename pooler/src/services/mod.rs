//! What runs beside PostgreSQL for as long as the agent does: the gRPC server, the status reporter,
//! the pgBackRest TLS server, and the certificates of all three.

pub(crate) mod certificates;
pub(crate) mod pgbackrest_server;
pub(crate) mod reporter;
pub(crate) mod server;
