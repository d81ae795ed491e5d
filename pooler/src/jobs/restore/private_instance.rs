//! A PostgreSQL instance that no other process can reach: a copy that is being recovered, or that a drill checks.
//!
//! It has a directory, a socket and locks of its own. It uses no spool, listens on no address, and archives nothing
//! unless its start says how.

use std::path::PathBuf;
use std::time::Duration;

use cellar_model::{Code, Database, JobError, JobId, Pooler};
use cellar_postgres::{
    Endpoint, InstanceConfig, PostgresError, RecoverySettings, Settings, StopTimeouts, Tools, start, stop,
};

use crate::agent::Agent;
use crate::config_files::shell_word;
use crate::disk::write_refusal;
use crate::jobs::restore::scratch::stop_and_remove_scratch;
use crate::repository::tool_failure::{last_lines, read_log};

/// A copy and its private instance.
pub(crate) struct PrivateInstance<'a> {
    pub(super) agent: &'a Agent,
    pub(super) database: &'a Database,
    pub(super) card: &'a Pooler,
    pub(super) tools: Tools,
    /// Niceness of everything that works on the copy; 0 is the usual priority.
    pub(super) nice: u32,
    /// The copy's data directory.
    pub(crate) data: PathBuf,
    /// Where tablespaces go, for a copy that must not share any.
    pub(crate) tablespaces: Option<PathBuf>,
    /// A member's data directory. Its WAL is used where the archive has none.
    pub(crate) wal_of: Option<PathBuf>,
    pub(super) scratch: PathBuf,
    pub(super) log: PathBuf,
}

impl<'a> PrivateInstance<'a> {
    /// A copy in `data`, for a job. Nothing is created yet.
    pub(crate) fn new(
        agent: &'a Agent,
        database: &'a Database,
        card: &'a Pooler,
        job: JobId,
        data: PathBuf,
        nice: u32,
    ) -> Self {
        Self {
            agent,
            database,
            card,
            tools: agent.tools.niced(nice),
            nice,
            data,
            tablespaces: None,
            wal_of: None,
            scratch: agent.layout.scratch(job),
            log: agent.job_log(&job),
        }
    }

    /// The job's error for something that failed with the copy.
    pub(crate) fn failed(&self, doing: &str, error: &dyn std::fmt::Display) -> JobError {
        JobError {
            code: Code::PostgresFailed,
            message: format!("{doing}: {error}"),
            hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
            tool_output: last_lines(&read_log(&self.log)),
        }
    }

    /// Creates the private directories and the data directory.
    pub(crate) fn prepare(&self) -> Result<(), JobError> {
        use std::os::unix::fs::DirBuilderExt;
        for directory in [&self.scratch, &self.lock_directory(), &self.data] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| {
                JobError::from(write_refusal(&format!("cannot create {}", directory.display()), &error))
            })?;
        }
        Ok(())
    }

    pub(super) fn lock_directory(&self) -> PathBuf {
        self.scratch.join("lock")
    }

    /// Where the copy accepts connections.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { socket_directory: self.scratch.clone(), port: self.card.postgres_port }
    }

    pub(super) fn config(&self, recovery: Option<RecoverySettings>, archive_mode: bool) -> InstanceConfig {
        // WAL is fetched one segment at a time: asynchronous fetching would share its spool with the live instance.
        let mut restore_command = format!(
            "{} --config={} --stanza={} --pg1-path={} --lock-path={} --no-archive-async archive-get %f \"%p\"",
            shell_word(&self.agent.pgbackrest.binary.to_string_lossy()),
            shell_word(&self.card.config_path),
            self.database.stanza,
            shell_word(&self.data.to_string_lossy()),
            shell_word(&self.lock_directory().to_string_lossy()),
        );
        if let Some(member) = &self.wal_of {
            // What the primary had sent to this member but not archived is only in the member's pg_wal.
            let wal = shell_word(&member.join("pg_wal").to_string_lossy());
            restore_command = format!("{restore_command} || cp {wal}/%f \"%p\"");
        }
        InstanceConfig {
            settings: Settings {
                port: self.card.postgres_port,
                listen_addresses: String::new(),
                socket_directory: self.scratch.clone(),
                cluster_name: format!("{}/{} copy", self.agent.database, self.agent.cell),
                // Empty: PostgreSQL keeps what is to be archived until this is a member, or until the copy is removed.
                archive_command: String::new(),
                restore_command: Some(restore_command),
                recovery,
                archive_mode,
                // A copy that never archives is removed at the end, and its syncs would slow the live instance down.
                fsync: archive_mode,
                ..Settings::default()
            },
            os_user: self.agent.user.name.clone(),
            replication_from: Vec::new(),
        }
    }

    /// Starts the copy without recovery settings and with this `archive_command`, private as before.
    pub(crate) async fn start(&self, archive_command: &str, timeout: Duration) -> Result<(), JobError> {
        let mut config = self.config(None, true);
        archive_command.clone_into(&mut config.settings.archive_command);
        self.start_with(&config, timeout).await
    }

    pub(super) async fn start_with(
        &self,
        config: &InstanceConfig,
        timeout: Duration,
    ) -> Result<(), JobError> {
        match start(&self.tools, &self.data, config, &self.log, timeout).await {
            Ok(_) => Ok(()),
            Err(PostgresError::CommandFailed { .. }) => Err(self.died()),
            Err(error) => Err(self.failed("starting the copy", &error)),
        }
    }

    /// The job's error for a copy that does not run any more; its log says why.
    pub(super) fn died(&self) -> JobError {
        let log = read_log(&self.log);
        let fatal = log.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let reason =
            fatal.and_then(|line| line.split_once(":  ").map(|(_, text)| text.trim())).unwrap_or("it ended");
        let mut error = self.failed("recovering", &reason);
        if reason.contains("before consistent recovery point") {
            error.code = Code::TargetUnreachable;
            "the target lies before the end of the backup: restore an earlier one, or another target"
                .clone_into(&mut error.hint);
        } else if log.contains("No space left on device") {
            error.code = Code::DiskFull;
            "make room on the cell's disk, then ask again".clone_into(&mut error.hint);
        }
        error
    }

    /// A client program of PostgreSQL's that connects to the copy.
    pub(crate) fn client(&self, program: &str) -> tokio::process::Command {
        let mut command = self.tools().command(program);
        command.arg("-h").arg(&self.scratch).arg("-p").arg(self.card.postgres_port.to_string());
        command
    }

    /// PostgreSQL's programs of the copy's version, at its priority.
    pub(crate) fn tools(&self) -> Tools {
        self.tools.for_data(&self.data)
    }

    /// Stops the copy cleanly.
    pub(crate) async fn stop(&self) -> Result<(), JobError> {
        let stopped = stop(&self.data, &StopTimeouts::default()).await;
        stopped.map(drop).map_err(|error| self.failed("stopping the copy", &error))
    }

    /// Stops whatever still runs of the copy and removes its private directories. The data stays.
    pub(crate) async fn leave(&self) {
        stop_and_remove_scratch(&self.data, &self.scratch).await;
    }
}
