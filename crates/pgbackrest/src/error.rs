//! Why pgBackRest could not be run or understood.

use std::path::PathBuf;
use std::time::Duration;

use crate::repository::{LOST_INFO_HINT, names_info};
use crate::tool_error::{Failure, GARBLED_HINT, UNREADABLE_HINT};
use crate::versions::VersionError;

/// Why a command gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not installed.
    #[error("{program} was not found: install the Debian package `{package}`")]
    Missing {
        /// The program.
        program: PathBuf,
        /// The package that has it.
        package: &'static str,
    },
    /// The operating system refused.
    #[error("could not {what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The deadline passed; the command and its workers were killed.
    #[error("pgbackrest {command} did not end within {after:?} and was killed")]
    Timeout {
        /// The command.
        command: String,
        /// The time it had.
        after: Duration,
    },
    /// The command was killed and did not end.
    #[error(
        "pgbackrest's process group {group} did not end within {after:?} of SIGKILL: it waits for a disk or file system that does not answer"
    )]
    Unkillable {
        /// The process group.
        group: i32,
        /// The time it had.
        after: Duration,
    },
    /// The command ended with an error.
    #[error("pgbackrest {command} failed: {}", .failure.message)]
    Failed {
        /// The command.
        command: String,
        /// What is known of it.
        failure: Failure,
        /// The end of what it printed.
        output: String,
    },
    /// Its answer is not what it should be.
    #[error("{what} could not be read")]
    Unreadable {
        /// What.
        what: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The repository is there, and what it says of the stanza makes no sense.
    #[error("the repository's record of stanza {stanza} cannot be read: {message}")]
    Garbled {
        /// The stanza.
        stanza: String,
        /// pgBackRest's first line about it.
        message: String,
    },
    /// pgBackRest could not read the repository, which is not the same as a repository without backups.
    #[error("the repository cannot be read: {0}")]
    RepoUnreadable(String),
    /// The program's version cannot be read.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// Something that should be there is not.
    #[error("{0} is not in the repository")]
    NotInRepository(String),
}

impl Error {
    /// What a person can do about it; empty when nothing useful can be said.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Failed { failure, .. } => failure.hint,
            Self::Garbled { .. } => GARBLED_HINT,
            Self::RepoUnreadable(why) if why.contains("FileMissingError") && names_info(why) => {
                LOST_INFO_HINT
            }
            Self::RepoUnreadable(_) => UNREADABLE_HINT,
            _ => "",
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}
