//! What etcd holds and the API shows. Each record has one kind of writer.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod instance;
pub(crate) mod job;
pub(crate) mod job_id;
pub(crate) mod lock;
pub(crate) mod maintenance;
pub(crate) mod outcome;
pub(crate) mod pooler;
pub(crate) mod restore;
pub(crate) mod schedule;
pub(crate) mod spec;
pub(crate) mod topology;
