//! What a job says when pgBackRest failed: the error's code, message, hint, and the quoted end of the output.

use std::path::Path;

use cellar_model::{CellName, Code, JobError, Repository, Store};
use cellar_pgbackrest::{Error, ExitClass, Failure, LOST_INFO_HINT, is_out_of_reach, names_info, printable};

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

/// What a pgBackRest command wrote to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disks<'a> {
    /// The repository.
    pub(crate) repository: &'a Repository,
    /// This cell, whose host may have it.
    pub(crate) cell: &'a CellName,
    /// The data directory.
    pub(crate) data_directory: &'a str,
}

/// What to do when a repository on another cell's host, or in a store, cannot be used from this cell's; none when it is one
/// of the directories here.
pub(crate) fn hint_at_home(repository: &Repository, cell: &CellName) -> Option<String> {
    if let Some(store) = repository.store() {
        return Some(look_at_store(store));
    }
    repository.reached_through(cell).map(|home| look_at_home(home, repository))
}

fn look_at_store(store: &Store) -> String {
    let (host, port) = store.address();
    format!(
        "see that the store at {host}:{port} can be reached from this cell's host, that {store} names it, and that the credentials in `secrets/repo-credentials` of the cell's directory may read and write there (`cellar up --repo-credentials-file FILE` replaces them); then ask again"
    )
}

fn look_at_home(home: &CellName, repository: &Repository) -> String {
    format!(
        "the repository is on the host of cell {home}: see that this host is up, that its multipooler runs (`cellar status`), and that {repository} is where it was, and mounted; then ask again"
    )
}

/// What pgBackRest says of a store's answer that is no success, and of a certificate that it does not accept.
const REFUSED_BY_STORE: &str = "HTTP request failed with";
const UNVERIFIED_STORE: &str = "unable to verify certificate presented by";

/// What to do about a store that was reached and said no, as far as what pgBackRest says shows that. Its exit code is then
/// 39, as for a session between hosts that was cut, or 95.
fn hint_of_store(repository: &Repository, log: &str) -> Option<String> {
    let store = repository.store()?;
    if log.contains(UNVERIFIED_STORE) {
        return Some(
            "the certificate of the store is not accepted: name the file of its authority in the repository's URL (ca-file=), on every host"
                .to_owned(),
        );
    }
    log.contains(REFUSED_BY_STORE).then(|| look_at_store(store))
}

/// What archive-push and archive-get end with when the repository was not reached, be it its host or its directory.
const NO_REPOSITORY_CODE: u8 = 103;

/// What a command ends with whose session at a host was ended, as with the host's pgBackRest server (measured with 2.45).
const BROKEN_SESSION_CODE: u8 = 39;

/// Whether a host may not have been reached.
fn is_unreached(failure: &Failure) -> bool {
    failure.class == ExitClass::Unavailable
        || failure.exit_code.is_some_and(|code| [NO_REPOSITORY_CODE, BROKEN_SESSION_CODE].contains(&code))
}

/// The job's error for a pgBackRest command that failed, which used the repository and the data directory.
///
/// pgBackRest reports a full disk as any other failed write (64), or as WAL that did not arrive (82) when the
/// archive's disk is full. So the file systems are asked too. That of a repository on another cell's host cannot be.
pub(crate) fn tool_failure(doing: &str, failure: &Failure, log: &str, disks: Disks<'_>) -> JobError {
    let may_be_full = failure.exit_code.is_some_and(|code| FULL_DISK_CODES.contains(&code));
    let repository = disks.repository;
    let mut places = repository.directory_in(disks.cell).into_iter().chain([Path::new(disks.data_directory)]);
    let full = log.contains("No space left on device") || (may_be_full && places.any(is_full));
    // pgBackRest advises to create a stanza then, which whoever has a repository that is not mounted must not do.
    let away = failure.exit_code == Some(MISSING_FILE_CODE) && is_out_of_reach(repository, disks.cell);
    // Nor one whose repository has lost a file.
    let lost = failure.exit_code == Some(MISSING_FILE_CODE) && names_info(log);
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
            "make room in the repo or on the cell's disk, then ask again; what a failed backup left in the repo is removed by the next one that comes to copying".to_owned()
        } else if away {
            "see that the repo is mounted and where it was, then ask again".to_owned()
        } else if let Some(hint) = hint_of_store(repository, log) {
            hint
        } else if lost && repository.reached_through(disks.cell).is_none() {
            LOST_INFO_HINT.to_owned()
        } else {
            match repository.reached_through(disks.cell) {
                Some(home) if may_be_full => {
                    let own =
                        if failure.hint.is_empty() { String::new() } else { format!("{}; ", failure.hint) };
                    format!("{own}see whether the disk of the repository on the host of cell {home} is full")
                }
                // Its own advice is to create the stanza, which who has a repository that is not mounted must not do.
                Some(home) if failure.exit_code == Some(MISSING_FILE_CODE) => look_at_home(home, repository),
                _ => failure.hint.to_owned(),
            }
        },
        tool_output: last_lines(log),
    }
}

/// As [`tool_failure`], of a command that ran on this cell's host: a host that it did not reach is that of the repository.
pub(crate) fn failure_here(doing: &str, failure: &Failure, log: &str, disks: Disks<'_>) -> JobError {
    let mut error = tool_failure(doing, failure, log, disks);
    let is_told = hint_of_store(disks.repository, log).is_some();
    if let Some(hint) =
        hint_at_home(disks.repository, disks.cell).filter(|_| is_unreached(failure) && !is_told)
    {
        error.hint = hint;
    }
    error
}

/// The job's error for a restore that failed.
///
/// pgBackRest checks every file that it reads from the repo, so here a failure may mean that the backup is damaged.
pub(crate) fn restore_failure(doing: &str, failure: &Failure, log: &str, disks: Disks<'_>) -> JobError {
    let mut error = failure_here(doing, failure, log, disks);
    if failure.exit_code == Some(MISSING_FILE_CODE) && is_out_of_reach(disks.repository, disks.cell) {
        return error;
    }
    let may_be_damaged = failure.exit_code.is_some_and(|code| DAMAGED_FILE_CODES.contains(&code));
    if may_be_damaged && !failure.garbled && error.code != Code::DiskFull {
        error.code = Code::RepoDamaged;
        "a file of this backup is damaged in the repo: restore another backup (`cellar backups list`), and take a new full one"
            .clone_into(&mut error.hint);
        // Whether it is only not mounted cannot be seen from here.
        let at_home = hint_at_home(disks.repository, disks.cell);
        if let Some(hint) = at_home.filter(|_| failure.exit_code == Some(MISSING_FILE_CODE)) {
            error.hint = format!("{hint}. If all is: {}", error.hint);
        }
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

/// The same for one that read or wrote the repository from this cell's host.
pub(crate) fn repository_error(
    doing: &str,
    error: &Error,
    repository: &Repository,
    cell: &CellName,
) -> JobError {
    let job_error = tool_error(doing, error);
    if let Error::Failed { output, .. } = error
        && let Some(hint) = hint_of_store(repository, output)
    {
        return JobError { hint, ..job_error };
    }
    match hint_at_home(repository, cell).filter(|_| may_be_unreached(error)) {
        Some(hint) => JobError { hint, ..job_error },
        None => job_error,
    }
}

/// Whether an error may mean that the host of the repository was not reached.
pub(crate) fn may_be_unreached(error: &Error) -> bool {
    match error {
        Error::RepoUnreadable(_) | Error::Timeout { .. } => true,
        Error::Failed { failure, .. } => is_unreached(failure),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_that_refuses_is_not_another_version_of_pgbackrest() {
        let url = "s3://backups/p?region=r&endpoint=s3.example&port=9000";
        let repository: Repository = url.parse().unwrap();
        let cell: CellName = "zone1".parse().unwrap();
        let disks = Disks { repository: &repository, cell: &cell, data_directory: "/" };
        let hint = |code, log: &str| {
            failure_here("backing up", &Failure::of_output(Some(code), log), log, disks).hint
        };
        // Measured with 2.45.
        let refused = hint(39, "P00  ERROR: [039]: HTTP request failed with 403 (Forbidden):");
        assert!(
            refused.contains("s3.example:9000") && refused.contains("--repo-credentials-file"),
            "{refused}"
        );
        let unknown = "P00  ERROR: [095]: unable to verify certificate presented by 's3.example:9000': [20] unable to get local issuer certificate";
        assert!(hint(95, unknown).contains("ca-file="));
        assert!(hint(103, "P00  ERROR: [103]: unable to find a valid repository").contains("can be reached"));
        assert!(hint(93, "P00  ERROR: [093]: file exists").contains("share the repository"));
    }

    #[test]
    fn repository_that_is_not_mounted_is_not_a_stanza_to_create() {
        let dir = tempfile::tempdir().unwrap();
        let repository: Repository = dir.path().join("repo").display().to_string().parse().unwrap();
        let cell: CellName = "zone1".parse().unwrap();
        let log = "P00  ERROR: [055]: unable to load info file";
        let failure = Failure::of_output(Some(MISSING_FILE_CODE), log);
        let disks = Disks { repository: &repository, cell: &cell, data_directory: "/" };
        let told =
            |kind: fn(&str, &Failure, &str, Disks<'_>) -> JobError| kind("backing up", &failure, log, disks);
        for error in [told(tool_failure), told(restore_failure)] {
            assert!(error.message.ends_with("is out of reach"), "{error:?}");
            assert!(error.hint.contains("is mounted"), "{error:?}");
        }
        std::fs::create_dir_all(dir.path().join("repo/backup")).unwrap();
        assert!(told(tool_failure).hint.contains("create the stanza"));
        // The repository is there, and has lost a file of the stanza: a new one would lose its backups.
        let log = "P00  ERROR: [055]: unable to load info file '/r/backup/app/backup.info' or '/r/backup/app/backup.info.copy':";
        let error = tool_failure("backing up", &Failure::of_output(Some(55), log), log, disks);
        assert!(error.hint.contains("backup.info or archive.info is lost"), "{error:?}");
        assert!(!error.hint.contains("create the stanza"), "{error:?}");
    }

    fn failed(code: u8, log: &str) -> Failure {
        Failure::of_output(Some(code), log)
    }

    #[test]
    fn what_cannot_be_seen_of_another_hosts_repository_is_said() {
        let repository = Repository::in_cell("zone3".parse().unwrap(), "/repo".parse().unwrap());
        let everywhere: Repository = "/tmp".parse().unwrap();
        let (zone1, zone3): (CellName, CellName) = ("zone1".parse().unwrap(), "zone3".parse().unwrap());
        let at = |repository, cell| Disks { repository, cell, data_directory: "/" };
        let (away, home, shared) =
            (at(&repository, &zone1), at(&repository, &zone3), at(&everywhere, &zone1));
        let missing = failed(55, "P00  ERROR: [055]: unable to open missing file '/repo/x' for read");
        let restore = |disks| restore_failure("restoring", &missing, "", disks);
        assert!(restore(away).hint.contains("zone3") && restore(away).hint.contains("another backup"));
        // Where it is, the directory is looked at.
        assert!(
            restore(home).message.contains("out of reach") && !restore(home).hint.contains("host of cell")
        );
        let cut = failed(49, "P00  ERROR: [049]: unable to connect to 'db3:8434'");
        assert!(failure_here("checking", &cut, "", away).hint.contains("host of cell zone3"));
        let ended = failed(39, "P00  ERROR: [039]: invalid data 'x' (not an offset)");
        assert!(failure_here("restoring", &ended, "", away).hint.contains("host of cell zone3"));
        assert!(!failure_here("restoring", &ended, "", shared).hint.contains("host of cell"));
        // It is not mounted there: the stanza must not be created, as pgBackRest advises.
        let backup = tool_failure("backing up", &missing, "", away).hint;
        assert!(backup.contains("and mounted") && !backup.contains("create the stanza"), "{backup}");
        // At the repository it is the host of an instance.
        assert!(!tool_failure("backing up", &cut, "", away).hint.contains("host of cell"));
        // Measured with 2.45 and 2.55.1.
        let get = "P00   WARN: repo1: [HostConnectError] unable to connect to 'db3:8434': [111] Connection refused\n\
                   P00  ERROR: [103]: unable to find a valid repository";
        assert!(failure_here("reading", &failed(103, get), "", away).hint.contains("host of cell zone3"));
        let late = failed(82, "P00  ERROR: [082]: WAL segment was not archived before the 60000ms timeout");
        let hint = |disks| tool_failure("checking", &late, "", disks).hint;
        assert!(hint(away).contains("host of cell zone3 is full"), "{}", hint(away));
        assert!(!hint(shared).contains("host of cell"), "{}", hint(shared));
        let cut = Error::RepoUnreadable("[HostConnectError] unable to connect to 'db3:8434'".to_owned());
        let read = |repository, cell| repository_error("reading", &cut, repository, cell).hint;
        assert!(read(&repository, &zone1).contains("host of cell zone3"));
        assert!(!read(&repository, &zone3).contains("host of cell"));
        assert!(!read(&everywhere, &zone1).contains("host of cell"));
    }
}
