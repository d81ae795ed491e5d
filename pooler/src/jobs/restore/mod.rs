//! The steps of a restore of the whole database, which multiadmin drives, and what they share with drills.
//!
//! `plan`, `fence`, `recover`, `swap` and `discard` are steps, each a job of its own. `private_instance` is the copy
//! that a step or a drill works on: `fill` restores a backup into it (`throttle` bounds the rate), `replay` follows
//! its recovery from `replay_start` through `wal_gate`, `movement` says whether it goes on, `scratch` removes its private directories. `locate` finds a restore point in the WAL, `wal_end` says how far
//! a recovery must come.

pub(crate) mod discard;
pub(crate) mod fence;
pub(crate) mod fill;
pub(crate) mod locate;
pub(crate) mod movement;
pub(crate) mod plan;
pub(crate) mod plan_cells;
pub(crate) mod private_instance;
pub(crate) mod recover;
pub(crate) mod replay;
mod replay_start;
pub(crate) mod scratch;
pub(crate) mod swap;
pub(crate) mod throttle;
pub(crate) mod wal_end;
mod wal_gate;
