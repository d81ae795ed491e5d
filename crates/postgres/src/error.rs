//! What can go wrong with an instance, told apart as far as a caller would act differently.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why something could not be done with a PostgreSQL instance.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// One of PostgreSQL's programs is not installed.
    #[error(
        "{program} was not found in {searched}: install the Debian package {package}, or set CELLAR_PG_BINDIR"
    )]
    MissingBinary {
        /// The program, such as `initdb`.
        program: &'static str,
        /// The Debian package that has it.
        package: String,
        /// The directories that were looked at.
        searched: String,
    },
    /// Nothing runs there: no process, or no socket to connect to.
    #[error("PostgreSQL is not running at {0}")]
    NotRunning(String),
    /// It runs and refuses connections for now: it starts, recovers or shuts down.
    #[error("PostgreSQL is not ready: {0}")]
    NotReady(String),
    /// It did not answer in time. Says nothing about its role, nor that it is dead.
    #[error("PostgreSQL at {endpoint} gave no answer within {after:?}")]
    NoAnswer {
        /// Socket directory and port.
        endpoint: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke or could not be made.
    #[error("the connection to PostgreSQL at {endpoint} failed")]
    Connection {
        /// Socket directory and port.
        endpoint: String,
        /// What the driver says.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL answered with an error.
    #[error("PostgreSQL says: {message} (SQLSTATE {code})")]
    Sql {
        /// The five characters of the SQLSTATE.
        code: String,
        /// PostgreSQL's message and, where it gave them, its detail and hint.
        message: String,
    },
    /// PostgreSQL answered, and the answer makes no sense to us.
    #[error("PostgreSQL's answer has an unexpected {0}")]
    UnexpectedAnswer(String),
    /// It would not start with its configuration.
    #[error("PostgreSQL would not start: {0}")]
    WouldNotStart(String),
    /// A program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    CommandFailed {
        /// The program's name.
        program: String,
        /// How it ended, such as `exit status: 1`.
        status: String,
        /// The last lines that it wrote.
        output: String,
        /// All of its standard output, for programs that fail at the end of what they can read.
        stdout: String,
    },
    /// A program did not end in time and was killed.
    #[error("{program} did not end within {after:?} and was killed: {output}")]
    CommandTimeout {
        /// The program's name.
        program: String,
        /// How long was waited.
        after: Duration,
        /// The last lines that it wrote.
        output: String,
    },
    /// The data directory is not as the operation needs it. Nothing was changed.
    #[error("the data directory {} {reason}", path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// What is the matter, and what to do.
        reason: String,
    },
    /// Processes of a server whose postmaster is dead still use the data directory.
    #[error("{} is still in use by processes {pids:?} of a server that died: stop it first", path.display())]
    Orphans {
        /// The data directory.
        path: PathBuf,
        /// Their process ids.
        pids: Vec<i32>,
    },
    /// The server did not end, not even when it was killed.
    #[error("PostgreSQL (pid {pid}) did not end within {after:?} of being killed")]
    WouldNotStop {
        /// The postmaster.
        pid: i32,
        /// How long was waited after SIGKILL.
        after: Duration,
    },
    /// A process could not be signaled.
    #[error("process {pid} could not be sent {signal}")]
    Signal {
        /// The process.
        pid: i32,
        /// The signal's name.
        signal: &'static str,
        /// Why.
        source: nix::errno::Errno,
    },
    /// A value cannot be written into a configuration file.
    #[error("{name} {reason}")]
    InvalidSetting {
        /// The setting.
        name: String,
        /// What is wrong with the value.
        reason: &'static str,
    },
    /// The operating system refused something.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was being done, such as `read`.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl PostgresError {
    /// Turns an I/O error into one that says what was being done to which path.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_path_buf(), source }
    }
}
