//! What one round of the supervisor ends with, and what it records.

use std::path::PathBuf;

use cellar_model::{InstanceState, Refusal};
use cellar_postgres::PostgresError;
use cellar_system::AtomicFile;
use cellar_topology::StoreError;

use crate::agent::Agent;
use crate::config_files::ConfigFileError;
use crate::instance::incarnation::StandingError;
use crate::instance::seed::SeedError;
use crate::repository::stanza::StanzaError;

/// A round failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    /// A config file could not be derived or written.
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    /// PostgreSQL failed.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The repo could not be read, or the stanza not be created.
    #[error(transparent)]
    Stanza(#[from] StanzaError),
    /// The data directory could not be filled.
    #[error(transparent)]
    Seed(#[from] SeedError),
    /// It is not known whether the data is from before a restore.
    #[error(transparent)]
    Standing(#[from] StandingError),
    /// The data directory lies so that it cannot be replaced.
    #[error("its data is from before the restore of the database and cannot be replaced: {}; {}", .0.message, .0.hint)]
    Layout(Refusal),
    /// etcd did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A marker could not be read or written, or a directory not be moved.
    #[error("cannot read or write {0}: {1}")]
    Marker(PathBuf, std::io::Error),
}

/// How a round ended.
pub(crate) enum Outcome {
    /// Something was done: look again at once.
    Progress,
    /// Everything is as it should be, or only time can help.
    Settled,
    /// Another cell is about to do what this one waits for: look again soon.
    Soon,
}

/// Writes the marker of a cell that has had its data, once.
pub(crate) fn mark_seeded(agent: &Agent, content: &str) -> Result<(), RoundError> {
    let path = agent.layout.seeded_marker();
    if path.exists() {
        return Ok(());
    }
    let created = AtomicFile::new(&path).create(content);
    created.map(drop).map_err(|error| RoundError::Marker(path, error))
}

/// Puts the instance's state into the status, and into the log when it has changed.
pub(crate) fn report_state(agent: &Agent, state: InstanceState, message: &str) {
    let unchanged = {
        let report = agent.report.borrow();
        report.state == state && report.message == message
    };
    if !unchanged {
        tracing::info!(state = state.as_str(), message, "instance");
    }
    agent.update_report(|report| {
        report.state = state;
        message.clone_into(&mut report.message);
    });
}
