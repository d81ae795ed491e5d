//! Explores the failover protocol exhaustively within bounds. What is covered, and what is not, is in
//! `docs/decisions/0053-terms-promises-and-a-model-that-checks-them.md`.

#![expect(clippy::unwrap_used, reason = "a test ends where it must not go on")]

mod facts;
mod model;
mod mutations;
mod recovery;
mod safety;
mod state;
mod steps;
mod worlds;
