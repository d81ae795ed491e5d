//! gRPC: methods, their requests parsed into the model's types, the server and its health.
//!
//! Calls [`crate::jobs`] and [`crate::cluster`]; nothing calls it but `main`.

pub(crate) mod audit;
pub(crate) mod call;
pub(crate) mod health;
pub(crate) mod request;
pub(crate) mod scope;
pub(crate) mod server;
pub(crate) mod service;
