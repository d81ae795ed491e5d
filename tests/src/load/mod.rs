//! Clients of a database that fails over: a session that stays connected, and writers that keep what was acknowledged. They know
//! a server only by the `psql` that reaches it, so they serve other programs' clusters too.

pub(crate) mod acknowledged;
pub(crate) mod pgbench;
pub(crate) mod psql;
pub(crate) mod writers;
