//! A PostgreSQL instance that no other process can reach: a copy that is being recovered, or that a drill checks.
//!
//! It has a directory, a socket, locks and a configuration of its own. It uses no spool, listens on no address, and
//! archives nothing unless its start says how. WAL reaches it through [`WalGate`] only.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Code, Database, JobError, JobId, Pooler, Refusal};
use cellar_postgres::{
    ControlData, DataDirectory, Endpoint, PostgresError, PrivateSettings, RecoverySettings, RecoveryTarget,
    RequiredSettings, StopTimeouts, Tools, inspect, start_private, stop,
};
use cellar_system::{available_memory, is_inside};

use crate::agent::Agent;
use crate::config_files::shell_quoted;
use crate::data_layout::wal_directory;
use crate::disk::write_refusal;
use crate::jobs::restore::replay_start::replay_start;
use crate::jobs::restore::scratch::stop_and_remove_scratch;
use crate::jobs::restore::wal_gate::{WalGate, why_refused};
use crate::repository::tool_failure::{last_lines, read_log};

/// Shared buffers of a copy that is recovered while the database is stopped, MiB: an eighth of the free memory, within
/// these bounds. More would not make a replay faster that fetches a segment every quarter of a second.
const RECOVERY_BUFFERS_MB: (u64, u64) = (64, 1024);

/// Shared buffers of a copy beside the running database, MiB: a thirty-second of the free memory, within these bounds.
const DRILL_BUFFERS_MB: (u64, u64) = (32, 128);

/// How long the last checkpoint of a copy may take: a copy that does not come to a clean end is of no use, and to recover it
/// took hours.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(3600);

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
    /// Where the WAL goes, for a copy in the place of data whose WAL is elsewhere.
    pub(crate) wal_directory: Option<PathBuf>,
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
            wal_directory: None,
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

    /// The commands of a shell that put the file of WAL `$name` at `$target`; 1 is `archive-get`'s word that there is none.
    fn fetch_wal(&self) -> String {
        // WAL is fetched one segment at a time: asynchronous fetching would share its spool with the live instance.
        let fetch = format!(
            "{} --config={} --stanza={} --pg1-path={} --lock-path={} --no-archive-async archive-get \"$name\" \"$target\"",
            shell_quoted(&self.agent.pgbackrest.binary.to_string_lossy()),
            shell_quoted(&self.card.config_path),
            shell_quoted(self.database.stanza.as_str()),
            shell_quoted(&self.data.to_string_lossy()),
            shell_quoted(&self.lock_directory().to_string_lossy()),
        );
        match &self.wal_of {
            // What the primary had sent to this member but not archived is only in the member's pg_wal.
            Some(member) => {
                let wal = shell_quoted(&member.join("pg_wal").to_string_lossy());
                format!(
                    "{{ {fetch}; code=$?; if [ $code = 1 ] && [ -e {wal}/\"$name\" ]; then cp {wal}/\"$name\" \"$target\" && code=0 || code=2; fi; (exit $code); }}"
                )
            }
            None => fetch,
        }
    }

    /// The version and the control data of the copy, which must be whole.
    async fn inspect(&self) -> Result<(u32, ControlData), JobError> {
        match inspect(&self.tools, &self.data).await {
            Ok(DataDirectory::Valid { version, control, .. }) => Ok((version, control)),
            Ok(other) => Err(self.failed("looking at the copy", &format!("it is not whole: {other:?}"))),
            Err(error) => Err(self.failed("looking at the copy", &error)),
        }
    }

    /// The configuration of the instance: what replay demands is taken from the copy and from this cell's member, which
    /// has replayed more.
    async fn settings(
        &self,
        recovery: Option<RecoverySettings>,
        archive_mode: bool,
    ) -> Result<PrivateSettings, JobError> {
        let (version, control) = self.inspect().await?;
        let member = inspect(&self.agent.tools, Path::new(&self.card.data_directory)).await;
        let required = match member {
            Ok(DataDirectory::Valid { control: member, .. })
                if member.system_identifier == control.system_identifier =>
            {
                control.required.greatest(member.required)
            }
            _ => control.required,
        };
        Ok(PrivateSettings {
            directory: self.scratch.clone(),
            port: self.card.postgres_port,
            os_user: self.agent.user.name.clone(),
            cluster_name: format!("{}/{} copy", self.agent.database, self.agent.cell),
            version,
            recovery,
            archive_mode,
            // Empty: PostgreSQL keeps what is to be archived until this is a member, or until the copy is removed.
            archive_command: String::new(),
            // A copy that never archives is removed at the end, and its syncs would slow the live instance down.
            fsync: archive_mode,
            may_write: None,
            shared_buffers_mb: shared_buffers_mb(archive_mode),
            segment_mb: u32::try_from(control.segment_size.bytes() >> 20).unwrap_or(u32::MAX),
            required,
        })
    }

    /// Starts the copy in recovery. Returns what it can replay.
    ///
    /// # Errors
    /// When it does not start, or could write outside its own directories.
    pub(super) async fn start_recovery(
        &self,
        target: RecoveryTarget,
        timeline: cellar_model::Timeline,
        archive_mode: bool,
        timeout: Duration,
    ) -> Result<RequiredSettings, JobError> {
        self.check_tablespaces()?;
        let (_, control) = self.inspect().await?;
        let gate = WalGate {
            tools: self.tools(),
            data: &self.data,
            directory: self.scratch.clone(),
            redo: replay_start(&self.data, &control)
                .map_err(|error| self.failed("looking for the start of the recovery", &error))?,
            size: control.segment_size,
        };
        let restore_command = gate.close(&self.fetch_wal()).await?;
        // With this file PostgreSQL waits at the end of the WAL rather than promote itself.
        std::fs::write(self.data.join("standby.signal"), "")
            .map_err(|error| self.failed("preparing the recovery", &error))?;
        let recovery = RecoverySettings { target, timeline, restore_command };
        let mut settings = self.settings(Some(recovery), archive_mode).await?;
        // pgBackRest, which fetches the WAL, writes a log.
        let log_directory = Some(PathBuf::from(&self.card.log_directory));
        let elsewhere = [self.tablespaces.clone(), wal_directory(&self.data), log_directory];
        settings.may_write = Some(elsewhere.into_iter().flatten().collect());
        let replays = settings.replays();
        match self.start_with(&settings, timeout).await {
            // It has ended already, and whoever follows it sees why.
            Err(_) if self.needs_more_than(&replays).await => Ok(replays),
            started => started.map(|()| replays),
        }
    }

    /// Refuses a copy with a tablespace that is not below [`PrivateInstance::tablespaces`]: others may use its files.
    fn check_tablespaces(&self) -> Result<(), JobError> {
        let entries = std::fs::read_dir(self.data.join("pg_tblspc"))
            .map_err(|error| self.failed("looking for tablespaces", &error))?;
        for link in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_symlink()) {
            let place = std::fs::read_link(&link).map_err(|error| self.failed("reading a link", &error))?;
            if !self.tablespaces.as_ref().is_some_and(|ours| is_inside(&place, ours)) {
                let message =
                    format!("the copy has a tablespace in {}, whose files others may use", place.display());
                return Err(Refusal::new(Code::Unsupported, message)
                    .hint("restore by hand with `pgbackrest restore --tablespace-map`; a drill works")
                    .into());
            }
        }
        Ok(())
    }

    /// Whether the copy has met WAL that demands more than it was started with.
    pub(super) async fn needs_more_than(&self, replays: &RequiredSettings) -> bool {
        self.inspect().await.is_ok_and(|(_, control)| !replays.suffice_for(&control.required))
    }

    /// Starts the copy without recovery settings and with this `archive_command`, private as before. It replays what its own
    /// WAL holds, perhaps behind this call.
    pub(super) async fn start(&self, archive_command: &str, timeout: Duration) -> Result<(), JobError> {
        let mut settings = self.settings(None, true).await?;
        archive_command.clone_into(&mut settings.archive_command);
        self.start_with(&settings, timeout).await
    }

    async fn start_with(&self, settings: &PrivateSettings, timeout: Duration) -> Result<(), JobError> {
        match start_private(&self.tools, &self.data, settings, &self.log, timeout).await {
            Ok(_) => Ok(()),
            Err(PostgresError::CommandFailed { .. }) => Err(self.died()),
            Err(error) => Err(self.failed("starting the copy", &error)),
        }
    }

    /// The job's error for a copy that does not run any more; its log says why.
    pub(super) fn died(&self) -> JobError {
        if let Some(refused) = why_refused(&self.scratch) {
            return refused;
        }
        let log = read_log(&self.log);
        let fatal = log.lines().rev().find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
        let reason =
            fatal.and_then(|line| line.split_once(":  ").map(|(_, text)| text.trim())).unwrap_or("it ended");
        let mut error = self.failed("recovering", &reason);
        if reason.contains("before consistent recovery point") {
            error.code = Code::TargetUnreachable;
            "the target lies before the end of the backup: begin from an earlier one (`--backup LABEL`), or restore to another target"
                .clone_into(&mut error.hint);
        } else if log.contains("No space left on device") {
            error.code = Code::DiskFull;
            "make room on the cell's disk, then ask again".clone_into(&mut error.hint);
        } else if reason.contains("resource manager") {
            error.code = Code::Unsupported;
            "the WAL is partly of an extension's own kind; a copy loads no library of `shared_preload_libraries`, because libraries may reach outside it. Restore by hand with `pgbackrest restore`"
                .clone_into(&mut error.hint);
        }
        error
    }

    /// The job's error for a copy that has become consistent and was never open to connections; none when it has not become
    /// consistent.
    pub(super) fn never_opened(&self) -> Option<JobError> {
        let log = read_log(&self.log);
        has_become_consistent(&log).then(|| {
            let message = "the copy is consistent, and PostgreSQL lets nobody read it before it has replayed the end of a transaction that was open during the backup and had more than 64 subtransactions (savepoints or PL/pgSQL exception blocks)";
            let refusal = Refusal::new(Code::Unsupported, message)
                .hint("begin from another backup (`--backup LABEL`), or restore to a later target, after the end of that transaction");
            JobError { tool_output: last_lines(&log), ..refusal.into() }
        })
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
        let timeouts = StopTimeouts { checkpoint: CHECKPOINT_TIMEOUT, ..StopTimeouts::default() };
        let stopped = stop(&self.data, &timeouts).await;
        stopped.map(drop).map_err(|error| self.failed("stopping the copy", &error))
    }

    /// Stops whatever still runs of the copy and removes its private directories. The data stays.
    pub(crate) async fn leave(&self) {
        stop_and_remove_scratch(&self.data, &self.scratch).await;
    }
}

/// Whether the server that was started last has written to its log that it is consistent. Then it is open to connections at
/// once, unless it does not know yet which transactions run (`STANDBY_SNAPSHOT_PENDING` in its `procarray.c`).
fn has_become_consistent(log: &str) -> bool {
    let started = log.rfind("starting PostgreSQL ").unwrap_or(0);
    log[started..].contains("consistent recovery state reached")
}

/// The size of a copy's shared buffers, MiB. `is_alone` while the database is stopped.
fn shared_buffers_mb(is_alone: bool) -> u32 {
    let (part, (least, most)) = if is_alone { (8, RECOVERY_BUFFERS_MB) } else { (32, DRILL_BUFFERS_MB) };
    let megabytes = available_memory().map_or(least, |bytes| (bytes >> 20) / part);
    u32::try_from(megabytes.clamp(least, most)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consistency_is_that_of_the_last_start() {
        let (start, consistent) =
            ("LOG:  starting PostgreSQL 15.18\n", "LOG:  consistent recovery state reached at 0/3000100\n");
        assert!(has_become_consistent(&[start, consistent, "more\n"].concat()));
        assert!(!has_become_consistent(&[start, consistent, start, "LOG:  redo starts\n"].concat()));
        assert!(!has_become_consistent("é"));
    }
}
