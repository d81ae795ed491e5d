//! Driven jobs against a small world: whole runs, and runs in which anything fails.

mod any_failure;
mod confirm;
mod primary_fence;
mod restore;
mod rollback;
mod way_out;
mod world;
