//! PostgreSQL itself: the supervisor, what it does next, and how a data directory is filled and replaced.
//!
//! `supervisor` loops, and `preparation` gives a primary what it needs beside its data, and `first_checkpoint` asks one that was promoted for a checkpoint; `next_step`, `must_stop` and `data_role` decide; `bring_up`, `seed`, `restore_target` and `set_aside` act. `incarnation` says
//! which copy of the database is the current one, `leadership` records the primary, `archiving` sees to WAL that
//! PostgreSQL would not archive, `hold` lends the instance to a job,
//! `member_slots` has the primary keep WAL for members that are away, `socket_place` knows a private instance by its socket,
//! `orphans` ends what a server that died left in the data directory,
//! `superuser` tries the login that jobs need, `unrecorded` looks for a promotion that etcd has forgotten,
//! `cell_claim` keeps apart two machines that have the keys of one cell. `held_wal` says how far a
//! member has the WAL, and `received_wal` keeps what only it has; `left_wal` keeps what a former primary wrote that nobody else has.
//! Uses [`crate::repository`] to restore and [`crate::config_files`] to configure. Jobs use it; it knows no job.

pub(crate) mod archiving;
pub(crate) mod bring_up;
pub(crate) mod cell_claim;
pub(crate) mod data_role;
pub(crate) mod failover;
mod first_checkpoint;
pub(crate) mod held_wal;
pub(crate) mod hold;
pub(crate) mod incarnation;
pub(crate) mod leadership;
pub(crate) mod left_wal;
mod member_slots;
pub(crate) mod must_stop;
pub(crate) mod next_step;
mod orphans;
pub(crate) mod preparation;
pub(crate) mod received_wal;
pub(crate) mod restore_target;
pub(crate) mod round;
pub(crate) mod seed;
pub(crate) mod seeding_marker;
pub(crate) mod set_aside;
pub(crate) mod shared_tablespaces;
mod socket_place;
pub(crate) mod superuser;
pub(crate) mod supervisor;
pub(crate) mod unrecorded;
