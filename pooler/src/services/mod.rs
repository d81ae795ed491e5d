//! What runs beside PostgreSQL for as long as the agent does.
//!
//! `server` is the gRPC server (`grpc_service` has its methods, `live_status` and `backup_list` its answers,
//! `client_roles` makes and removes the roles that applications connect as,
//! and `backup_for_cell` runs pgBackRest for a cell whose repository is on this host),
//! `health` tells balancers whether clients belong here,
//! `pgbouncer` runs the cell's PgBouncer where one is asked for,
//! `reporter` writes the status into etcd, `pgbackrest_server` runs the pgBackRest TLS server, `server_files` says which files
//! that one may use, `lost_sessions` ends what lost
//! jobs have left of its sessions, `certificates` puts new certificates into use in all of them, and `revocations` refuses
//! revoked ones. Only `start` calls them, but for `server_files`, which a backup waits for.

mod backup_for_cell;
pub(crate) mod backup_list;
pub(crate) mod certificates;
mod client_roles;
pub(crate) mod grpc_service;
pub(crate) mod health;
pub(crate) mod live_status;
pub(crate) mod lost_sessions;
pub(crate) mod pgbackrest_server;
pub(crate) mod pgbouncer;
pub(crate) mod reporter;
mod revocations;
pub(crate) mod server;
pub(crate) mod server_files;
pub(crate) mod settings;
