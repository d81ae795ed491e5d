//! From a finished pgBackRest backup to a proven result.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{
    BackupResult, BackupSource, Code, Database, JobError, JobId, Lsn, PROOF_ANNOTATION, Pooler, Proof, prove,
};
use cellar_pgbackrest::{DetailLog, Error, Failure, Invocation, PrimarySource, printable};
use cellar_system::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;

/// How long pgBackRest may take to read what it has written.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Lines of a tool's output that an error quotes.
const QUOTED_LINES: usize = 12;

/// Characters of a line that are quoted.
const WIDTH: usize = 240;

/// Bytes of a WAL segment, unless initdb was told otherwise.
const WAL_SEGMENT: u64 = 16 << 20;

/// The last lines of a tool's output that say something: not the list of copied files, no line longer
/// than a screen is wide, and none of what cannot be printed. All of it stays in the job's log.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains(" DETAIL: "))
        .map(printable)
        .map(|line| {
            if line.chars().count() > WIDTH {
                line.chars().take(WIDTH).chain("...".chars()).collect()
            } else {
                line
            }
        })
        .collect();
    lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
}

/// Whether a file system has no room left for so much as a WAL segment.
fn is_full(path: &str) -> bool {
    nix::sys::statvfs::statvfs(path)
        .is_ok_and(|stat| stat.blocks_available() * stat.fragment_size() < WAL_SEGMENT)
}

/// The job's error for a pgBackRest command that failed.
///
/// pgBackRest reports a full disk as any other failed write (64) or, when it is the archive that is
/// full, as WAL that did not arrive (82), so the disks are asked too.
pub(crate) fn tool_failure(doing: &str, failure: &Failure, log: &str, disks: &[&str]) -> JobError {
    let full = log.contains("No space left on device")
        || (matches!(failure.exit_code, Some(64 | 82)) && disks.iter().any(|disk| is_full(disk)));
    JobError {
        code: if full { Code::DiskFull } else { Code::PgbackrestFailed },
        message: match failure.exit_code {
            Some(code) => {
                let first = failure.message.lines().next().unwrap_or_default();
                format!("{doing}: pgbackrest ended with {code}: {first}")
            }
            None => format!("{doing}: pgbackrest was killed"),
        },
        hint: if full {
            "make room in the repo or on the cell's disk, then ask again; what a failed backup left in the repo is removed by the next one that comes to copying".to_owned()
        } else {
            failure.hint.to_owned()
        },
        tool_output: last_lines(log),
    }
}

/// The same for a restore: pgBackRest checks every file that it reads from the repo, and says here that one is damaged.
pub(crate) fn restore_failure(
    doing: &str,
    failure: &Failure,
    log: &str,
    repo: &Path,
    disks: &[&str],
) -> JobError {
    let mut error = tool_failure(doing, failure, log, disks);
    if failure.exit_code == Some(55) && repo.is_absolute() && !repo.join("backup").exists() {
        error.message = format!("{}: the repo {} is out of reach", error.message, repo.display());
        "see that the repo is mounted and where it was, then ask again".clone_into(&mut error.hint);
        return error;
    }
    // Checksum, invalid file, format, missing file.
    if matches!(failure.exit_code, Some(26 | 28 | 29 | 55))
        && !failure.garbled
        && error.code != Code::DiskFull
    {
        error.code = Code::RepoDamaged;
        "a file of this backup is damaged in the repo: restore another backup (`cellar backups list`), and take a new full one"
            .clone_into(&mut error.hint);
    }
    error
}

/// The job's error for a tool that gave no answer.
pub(crate) fn tool_error(doing: &str, error: &Error) -> JobError {
    let tool_output = match error {
        Error::Failed { output, .. } => last_lines(output),
        _ => String::new(),
    };
    let hint = error.hint().to_owned();
    JobError { code: Code::PgbackrestFailed, message: format!("{doing}: {error}"), hint, tool_output }
}

/// Who was copied, as known before the backup began. Kept beside the log, so that a pooler that has
/// come back can still judge it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Source {
    /// What the instance said of itself; the counts are filled in at the end.
    pub(crate) claimed: BackupSource,
    /// The primary, when a standby was named.
    pub(crate) primary: Option<Pooler>,
}

impl Source {
    fn path(agent: &Agent, id: &JobId) -> PathBuf {
        agent.layout.jobs().join(format!("{id}.source.json"))
    }

    /// Writes it down beside the log.
    pub(crate) fn keep(&self, agent: &Agent, id: &JobId) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other)?;
        AtomicFile::new(&Self::path(agent, id)).replace(text)
    }

    /// What an earlier process wrote down; `None` when it had not come that far.
    pub(crate) fn recall(agent: &Agent, id: &JobId) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(Self::path(agent, id)).ok()?).ok()
    }
}

/// Reads the log and the repo and judges.
///
/// A backup whose source is not proven is annotated so in the repo, and is an error here.
pub(crate) async fn judge(
    agent: &Agent,
    database: &Database,
    config: &Path,
    log_file: &Path,
    source: &Source,
) -> Result<BackupResult, JobError> {
    let text = read(log_file);
    let log = parse(&source.claimed.data_directory, source.primary.as_ref(), &text);
    let internal = |message: String| JobError {
        code: Code::Internal,
        message,
        hint: "look at the job's log (`cellar jobs logs`)".to_owned(),
        tool_output: last_lines(&text),
    };
    let Some(label) = log.label().cloned() else {
        return Err(internal("pgbackrest ended well, but its log names no backup".to_owned()));
    };
    let (tool, stanza) = (&agent.pgbackrest, &database.stanza);
    let (info, record, manifest) = tokio::join!(
        tool.info(config, stanza, READ_TIMEOUT),
        tool.backup_record(config, stanza, &label, READ_TIMEOUT),
        tool.manifest_count(config, stanza, &label, READ_TIMEOUT),
    );
    let doing = "reading the finished backup";
    let failed = |error: Error| tool_error(doing, &error);
    let (info, record, manifest) =
        (info.map_err(failed)?, record.map_err(failed)?, manifest.map_err(failed)?);
    let Some(backup) = info.backup(&label) else {
        return Err(internal(format!("backup {label} is not in the repo")));
    };
    let copied = log.copied();
    let verdict = prove(&Proof {
        copied,
        option_backup_standby: record.option_backup_standby,
        standby: source.primary.is_some(),
        expected_files: Some(manifest.copied(log.stored_empty())),
    });
    // What an earlier backup holds of this one is only as good as that one's proof.
    let unproven = backup.references.iter().find(|label| {
        let earlier = info.backup(label);
        earlier.is_some_and(|earlier| earlier.annotations.contains_key(PROOF_ANNOTATION))
    });
    let verdict = match (verdict, unproven) {
        (Err(why), _) => Err(why.to_string()),
        (Ok(()), Some(label)) => Err(format!("it builds on {label}, which is not proven")),
        (Ok(()), None) => Ok(()),
    };
    if let Err(why) = verdict {
        let annotate = Invocation::on("annotate", config, stanza)
            .option("set", label.as_str())
            .option("annotation", &format!("{PROOF_ANNOTATION}=unproven"));
        if let Err(error) = tool.run_checked(&annotate, READ_TIMEOUT).await {
            tracing::warn!(%label, %error, "the unproven backup could not be annotated");
        }
        return Err(JobError {
            code: Code::ProofFailed,
            message: format!("backup {label} was made, but it is not proven that it came from {}: {why}", source.claimed.cell),
            hint: "do not rely on it: it is annotated cellar-proof=unproven. Look at the job's log for what was copied from where".to_owned(),
            tool_output: last_lines(&text),
        });
    }
    let nowhere = Lsn::new(0);
    Ok(BackupResult {
        label,
        backup_type: backup.backup_type,
        prior: backup.prior.clone(),
        start_lsn: backup.lsn_start.unwrap_or(nowhere),
        stop_lsn: backup.lsn_stop.unwrap_or(nowhere),
        wal_start: backup.archive_start.clone().unwrap_or_default(),
        wal_stop: backup.archive_stop.clone().unwrap_or_default(),
        size_bytes: backup.size.unwrap_or(0),
        repo_bytes: backup.repo_size_delta.or(backup.repo_size).unwrap_or(0),
        source: BackupSource {
            files_from_source: copied.local_inside,
            files_from_primary: copied.from_primary_required,
            verified: true,
            ..source.claimed.clone()
        },
    })
}

/// A log as text; what cannot be read counts as empty, and an empty log proves nothing.
pub(crate) fn read(log_file: &Path) -> String {
    std::fs::read(log_file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A log's parser for this source.
pub(crate) fn parser(data_directory: &str, primary: Option<&Pooler>) -> DetailLog {
    let primary = primary
        .map(|card| PrimarySource { host: card.host.clone(), data_directory: card.data_directory.clone() });
    DetailLog::new(data_directory, primary)
}

fn parse(data_directory: &str, primary: Option<&Pooler>, text: &str) -> DetailLog {
    let mut log = parser(data_directory, primary);
    for line in text.lines() {
        log.line(line);
    }
    log
}

/// Where a job's output goes.
pub(crate) fn log_path(agent: &Agent, id: &JobId) -> PathBuf {
    agent.layout.jobs().join(format!("{id}.log"))
}
