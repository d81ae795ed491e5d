//! What etcd holds and the API shows. Each record has one kind of writer.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod calendar;
pub(crate) mod cell_claim;
pub(crate) mod drill;
pub(crate) mod failover;
pub(crate) mod hand_over;
pub(crate) mod incarnation;
pub(crate) mod instance;
pub(crate) mod job;
pub(crate) mod leadership;
pub(crate) mod lock;
pub(crate) mod maintenance;
pub(crate) mod pooler;
pub(crate) mod rebuild;
pub(crate) mod recordable;
pub(crate) mod recovery;
pub(crate) mod repository;
pub(crate) mod restore;
pub(crate) mod schedule;
pub(crate) mod target;
pub(crate) mod topology;
pub(crate) mod upgrade;
