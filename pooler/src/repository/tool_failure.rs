//! What a job says when pgBackRest failed: the error's code, message, hint, and the quoted end of the output.

use std::path::Path;

use cellar_model::{Code, JobError, Repository};
use cellar_pgbackrest::{Error, Failure, is_out_of_reach, printable};

use crate::disk::is_full;

/// Lines of pgBackRest's output that an error quotes.
const MAX_QUOTED_LINES: usize = 12;

/// Characters of a line that an error quotes; about the width of a wide screen.
const MAX_QUOTED_WIDTH: usize = 240;

/// Exit codes that mean that a file of the repo is damaged or gone: checksum, invalid file, format, missing file.
const DAMAGED_FILE_CODES: [u8; 4] = [26, 28, 29, 55];

/// Exit code of a file that is missing in the repo.
const MISSING_FILE_CODE: u8 = 55;

/// Exit codes behind which a full disk may stand: a failed write, and WAL that did not arrive in the archive.
const FULL_DISK_CODES: [u8; 2] = [64, 82];

/// A log as text. A log that cannot be read counts as empty, and an empty log proves nothing.
pub(crate) fn read_log(log_file: &Path) -> String {
    std::fs::read(log_file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The last lines of pgBackRest's output that an error quotes.
///
/// The list of copied files is left out, long lines are cut, and unprintable characters are escaped.
/// The job's log keeps the whole output.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .filter(|line| !line.contains(" DETAIL: "))
        .map(printable)
        .map(|line| {
            if line.chars().count() > MAX_QUOTED_WIDTH {
                line.chars().take(MAX_QUOTED_WIDTH).chain("...".chars()).collect()
            } else {
                line
            }
        })
        .collect();
    lines[lines.len().saturating_sub(MAX_QUOTED_LINES)..].join("\n")
}

/// The job's error for a pgBackRest command that failed, which used the repository and the data directory.
///
/// pgBackRest reports a full disk as any other failed write (64), or as WAL that did not arrive (82) when the
/// archive's disk is full. So the file systems are asked too.
pub(crate) fn tool_failure(
    doing: &str,
    failure: &Failure,
    log: &str,
    repository: &Repository,
    data_directory: &str,
) -> JobError {
    let may_be_full = failure.exit_code.is_some_and(|code| FULL_DISK_CODES.contains(&code));
    let mut disks = repository.local_directory().into_iter().chain([Path::new(data_directory)]);
    let full = log.contains("No space left on device") || (may_be_full && disks.any(is_full));
    // pgBackRest advises to create a stanza then, which whoever has a repository that is not mounted must not do.
    let away = failure.exit_code == Some(MISSING_FILE_CODE) && is_out_of_reach(repository);
    let message = match failure.exit_code {
        Some(code) => {
            let first = failure.message.lines().next().unwrap_or_default();
            format!("{doing}: pgbackrest ended with {code}: {first}")
        }
        None => format!("{doing}: pgbackrest was killed"),
    };
    JobError {
        code: if full { Code::DiskFull } else { Code::PgbackrestFailed },
        message: if away { format!("{message}: the repo {repository} is out of reach") } else { message },
        hint: if full {
            "make room in the repo or on the cell's disk, then ask again; what a failed backup left in the repo is removed by the next one that comes to copying"
        } else if away {
            "see that the repo is mounted and where it was, then ask again"
        } else {
            failure.hint
        }
        .to_owned(),
        tool_output: last_lines(log),
    }
}

/// The job's error for a restore that failed.
///
/// pgBackRest checks every file that it reads from the repo, so here a failure may mean that the backup is damaged.
pub(crate) fn restore_failure(
    doing: &str,
    failure: &Failure,
    log: &str,
    repository: &Repository,
    data_directory: &str,
) -> JobError {
    let mut error = tool_failure(doing, failure, log, repository, data_directory);
    if failure.exit_code == Some(MISSING_FILE_CODE) && is_out_of_reach(repository) {
        return error;
    }
    let may_be_damaged = failure.exit_code.is_some_and(|code| DAMAGED_FILE_CODES.contains(&code));
    if may_be_damaged && !failure.garbled && error.code != Code::DiskFull {
        error.code = Code::RepoDamaged;
        "a file of this backup is damaged in the repo: restore another backup (`cellar backups list`), and take a new full one"
            .clone_into(&mut error.hint);
    }
    error
}

/// The job's error for a pgBackRest command that gave no answer.
pub(crate) fn tool_error(doing: &str, error: &Error) -> JobError {
    let tool_output = match error {
        Error::Failed { output, .. } => last_lines(output),
        _ => String::new(),
    };
    let hint = error.hint().to_owned();
    JobError { code: Code::PgbackrestFailed, message: format!("{doing}: {error}"), hint, tool_output }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_that_is_not_mounted_is_not_a_stanza_to_create() {
        let dir = tempfile::tempdir().unwrap();
        let repository: Repository = dir.path().join("repo").display().to_string().parse().unwrap();
        let log = "P00  ERROR: [055]: unable to load info file";
        let failure = Failure::of_output(Some(MISSING_FILE_CODE), log);
        let told = |kind: fn(&str, &Failure, &str, &Repository, &str) -> JobError| {
            kind("backing up", &failure, log, &repository, "/")
        };
        for error in [told(tool_failure), told(restore_failure)] {
            assert!(error.message.ends_with("is out of reach"), "{error:?}");
            assert!(error.hint.contains("is mounted"), "{error:?}");
        }
        std::fs::create_dir_all(dir.path().join("repo/backup")).unwrap();
        assert!(told(tool_failure).hint.contains("create the stanza"));
    }
}
