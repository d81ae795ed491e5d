//! Finding a restore point or a transaction in the WAL, and with it the position that a restore must stop at.
//!
//! PostgreSQL can be told a name or a transaction, but not whether there is such a thing nor which of two of the same
//! name is meant; and the backup to begin with must be known beforehand. So the WAL is read, newest segment first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Database, Found, JobError, Lineage, Lsn, Segment, Survey, Target};
use cellar_postgres::{PostgresError, run};

use crate::agent::Agent;
use crate::jobs::claim::ClaimedJob;
use crate::jobs::control::Control;
use crate::jobs::restore::private_instance::{Broken, remove, say};
use crate::repository::backup_proof::tool_error;
use crate::repository::reader::Repo;

/// How long one segment may take to be fetched or read; a quarter of a second is usual.
const SEGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Looks for the newest record that the target means, on one lineage.
///
/// `data` is this cell's data directory: what is not archived yet is read from it.
#[expect(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
pub(crate) async fn locate(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    database: &Database,
    data: &Path,
    repo: &Repo<'_>,
    survey: &Survey,
    lineage: &Lineage,
    target: &Target,
) -> Result<Option<Found>, Broken> {
    let size = repo.segment_size();
    let on_it = survey.backups.iter().filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn));
    let Some(first) = on_it.map(|backup| backup.first_segment).min() else { return Ok(None) };
    let written =
        survey.write_lsn.filter(|_| lineage.timeline() == survey.current).map(|lsn| size.number_of(lsn));
    let Some(last) = lineage.newest(&survey.archive).max(written) else { return Ok(None) };
    let scratch = agent.layout.scratch(job.record.id);
    let failed = |error: std::io::Error| {
        Broken::Failed(tool_error(
            "reading WAL",
            &cellar_pgbackrest::Error::Io { what: format!("write to {}", scratch.display()), source: error },
        ))
    };
    std::fs::create_dir_all(&scratch).map_err(failed)?;
    let mut newer: Option<PathBuf> = None;
    let mut answer = None;
    for number in (first..=last).rev() {
        if let Some(why) = control.interrupted(agent) {
            remove(&scratch);
            return Err(Broken::Interrupted(why));
        }
        say(
            agent,
            job,
            &format!("looking for {target} in the WAL, {} segments to go", number + 1 - first),
            0,
            0,
        )
        .await;
        let mut here = None;
        for segment in lineage.files(number, size) {
            here = fetch(agent, database, data, repo, survey, segment, &scratch).await?;
            if here.is_some() {
                break;
            }
        }
        let Some(file) = here else {
            // A gap: whether it matters is decided when the way to the target is planned.
            newer = None;
            continue;
        };
        answer = records(agent, &file, target).await?.pop();
        // The next older segment's last record may end in this one, so that stays for one round.
        if let Some(old) = newer.replace(file) {
            let _ = std::fs::remove_file(old);
        }
        if answer.is_some() {
            break;
        }
    }
    remove(&scratch);
    Ok(answer)
}

/// A copy of a WAL file below `scratch`; none when it is nowhere.
async fn fetch(
    agent: &Agent,
    database: &Database,
    data: &Path,
    repo: &Repo<'_>,
    survey: &Survey,
    segment: Segment,
    scratch: &Path,
) -> Result<Option<PathBuf>, JobError> {
    let name = repo.segment_size().file_name(segment);
    let to = scratch.join(&name);
    if survey.archive.has(&segment) {
        let got = agent
            .pgbackrest
            .archive_get(&repo.config, &database.stanza, data, &name, &to, SEGMENT_TIMEOUT)
            .await;
        return got.map(|there| there.then_some(to)).map_err(|error| tool_error("fetching WAL", &error));
    }
    // Not archived yet: the primary still has it, or a standby that it was sent to. A copy, because it is being written.
    let copied = std::fs::copy(data.join("pg_wal").join(&name), &to).is_ok();
    Ok(copied.then_some(to))
}

/// The records of one segment that the target means, in the order of the WAL.
async fn records(agent: &Agent, file: &Path, target: &Target) -> Result<Vec<Found>, JobError> {
    let mut command = agent.tools.command("pg_waldump");
    match target {
        Target::Name(_) => command.args(["--rmgr=XLOG"]),
        Target::Xid(xid) => command.args(["--rmgr=Transaction", &format!("--xid={}", low_bits(*xid))]),
        _ => return Ok(Vec::new()),
    };
    command.arg(file);
    let output = match run(command, SEGMENT_TIMEOUT).await {
        Ok(output) => output.stdout,
        // It ends so where the WAL does, in the middle of a record, or of a segment that is being written; what it
        // printed before is right.
        Err(PostgresError::CommandFailed { stdout, .. }) => stdout,
        Err(error) => {
            return Err(JobError {
                code: cellar_model::Code::PostgresFailed,
                message: format!("reading WAL: {error}"),
                hint: String::new(),
                tool_output: String::new(),
            });
        }
    };
    Ok(output.lines().filter_map(|line| parse(line, target)).collect())
}

/// PostgreSQL's own target has the low 32 bits of a transaction's number, and so has the WAL.
fn low_bits(xid: u64) -> u64 {
    xid & 0xFFFF_FFFF
}

/// Reads a line of `pg_waldump`: `rmgr: XLOG … tx: 0, lsn: 0/03000148, prev …, desc: RESTORE_POINT name`.
fn parse(line: &str, target: &Target) -> Option<Found> {
    let (head, description) = line.split_once(", desc: ")?;
    let field = |name: &str| head.split(',').find_map(|part| Some(part.split_once(name)?.1.trim()));
    let lsn: Lsn = field("lsn: ")?.parse().ok()?;
    let matches = match target {
        Target::Name(name) => {
            description.strip_prefix("RESTORE_POINT ").is_some_and(|text| text.trim_end() == name.as_str())
        }
        Target::Xid(_) => description.starts_with("COMMIT"),
        _ => false,
    };
    matches.then(|| Found { lsn, record: description.chars().take(120).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POINT: &str = "rmgr: XLOG        len (rec/tot):     98/    98, tx:          0, lsn: 0/03000148, prev 0/03000110, desc: RESTORE_POINT before x";
    const COMMIT: &str = "rmgr: Transaction len (rec/tot):     46/    46, tx:        742, lsn: 0/0301A2B8, prev 0/0301A278, desc: COMMIT 2026-11-21 05:55:00.123456 UTC";

    #[test]
    fn lines_of_pg_waldump() {
        let name = |text: &str| Target::Name(text.parse().unwrap());
        assert_eq!(parse(POINT, &name("before x")).unwrap().lsn.to_string(), "0/3000148");
        assert_eq!(parse(POINT, &name("before")), None);
        let commit = parse(COMMIT, &Target::Xid(742)).unwrap();
        assert!(commit.record.starts_with("COMMIT 2026-11-21"));
        assert_eq!(parse(&COMMIT.replace("COMMIT", "ABORT"), &Target::Xid(742)), None);
        assert_eq!(low_bits(0x1_0000_02E6), 742);
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in ".{0,200}") {
            let _ = parse(&line, &Target::Xid(1));
        }
    }
}
