//! One cluster of one test: [`local::Cluster`], and what a test asks of it. [`prepared`] makes most of them.

pub(crate) mod admin;
pub(crate) mod application;
pub(crate) mod cells;
pub(crate) mod connection;
pub(crate) mod etcd;
pub(crate) mod jobs;
pub(crate) mod local;
pub(crate) mod postgres;
pub(crate) mod prepared;
pub(crate) mod quorum;
pub(crate) mod restart;
