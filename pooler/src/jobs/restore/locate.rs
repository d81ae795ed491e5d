//! Finding a restore point or a transaction in the WAL, and with it the position that a restore must stop at.
//!
//! PostgreSQL accepts a name or a transaction as a target, but does not say beforehand whether it exists, nor which of
//! two of the same name is meant; and the backup to begin with must be known. So the WAL is read, newest segment first.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Database, Found, JobError, Lineage, Lsn, Segment, SegmentSize, Survey, Target, Timeline};
use cellar_postgres::{PostgresError, Tools, run};

use crate::agent::Agent;
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::scratch::remove_directory;
use crate::repository::reader::Repo;
use crate::repository::tool_failure::tool_error;

/// How long one segment may take to be fetched or read; a quarter of a second is usual.
const SEGMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// More than a restore point or a commit takes, in bytes. A commit that drops a hundred thousand tables has some 2 MB.
const MAX_RECORD_BYTES: u64 = 8 << 20;

/// Looks for the newest record that the target means, on one lineage.
///
/// `data` is this cell's data directory: what is not archived yet is read from it.
pub(crate) async fn locate(
    context: &mut JobContext<'_>,
    database: &Database,
    data: &Path,
    repo: &Repo<'_>,
    survey: &Survey,
    lineage: &Lineage,
    target: &Target,
) -> Result<Option<Found>, JobFailure> {
    let size = repo.segment_size();
    let on_it = survey.backups.iter().filter(|backup| lineage.contains(backup.timeline, backup.stop_lsn));
    let Some(first) = on_it.map(|backup| backup.first_segment).min() else { return Ok(None) };
    let written =
        survey.write_lsn.filter(|_| lineage.timeline() == survey.current).map(|lsn| size.number_of(lsn));
    let Some(last) = lineage.newest(&survey.archive).max(written) else { return Ok(None) };
    let scratch = context.agent.layout.scratch(context.job.record.id);
    std::fs::create_dir_all(&scratch).map_err(|source| {
        let what = format!("write to {}", scratch.display());
        tool_error("reading WAL", &cellar_pgbackrest::Error::Io { what, source })
    })?;
    let wal = WalSource { agent: context.agent, database, data, repo, survey, scratch: &scratch };
    let found = search(context, &wal, lineage, first..=last, target).await;
    remove_directory(&scratch).await;
    found
}

/// Where segments come from, and where their copies go.
struct WalSource<'a> {
    agent: &'a Agent,
    database: &'a Database,
    data: &'a Path,
    repo: &'a Repo<'a>,
    survey: &'a Survey,
    scratch: &'a Path,
}

async fn search(
    context: &mut JobContext<'_>,
    wal: &WalSource<'_>,
    lineage: &Lineage,
    numbers: RangeInclusive<u64>,
    target: &Target,
) -> Result<Option<Found>, JobFailure> {
    let first = *numbers.start();
    let mut newer: Option<PathBuf> = None;
    for number in numbers.rev() {
        context.check_interrupted()?;
        let left = number + 1 - first;
        context.progress(&format!("looking for {target} in the WAL, {left} segments to go")).await;
        let mut file = None;
        for segment in lineage.files(number, wal.repo.segment_size()) {
            file = wal.fetch(segment).await?;
            if file.is_some() {
                break;
            }
        }
        let Some(file) = file else {
            // A gap. Whether it matters is decided when the way to the target is planned.
            newer = None;
            continue;
        };
        // The last record may end in the next newer segment, whose copy was kept for that.
        let piece = Piece { number, size: wal.repo.segment_size(), has_next: newer.is_some() };
        let found = records(&wal.tools(), wal.scratch, piece, target).await?.pop();
        if let Some(old) = newer.replace(file) {
            let _ = std::fs::remove_file(old);
        }
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

impl WalSource<'_> {
    /// PostgreSQL's programs of the version that wrote the WAL; there may be no data here that tells it.
    fn tools(&self) -> Tools {
        let tools = &self.agent.tools;
        self.repo.postgres_version().map_or_else(|| tools.clone(), |version| tools.of_version(version))
    }

    /// Copies a segment into the scratch directory, under the name that [`Piece::name`] gives it; none when it is nowhere.
    async fn fetch(&self, segment: Segment) -> Result<Option<PathBuf>, JobError> {
        let size = self.repo.segment_size();
        let name = size.file_name(segment);
        let to = self.scratch.join(Piece::name(size, segment.number));
        if self.survey.archive.has(&segment) {
            let (pgbackrest, stanza) = (&self.agent.pgbackrest, &self.database.stanza);
            let fetched = pgbackrest
                .archive_get(&self.repo.config, stanza, self.data, &name, &to, SEGMENT_TIMEOUT)
                .await;
            return fetched
                .map(|there| there.then_some(to))
                .map_err(|error| self.repo.error("fetching WAL", &error));
        }
        // Not archived yet: the primary still has it, or a standby that it was sent to. It is being written, so a copy
        // is read.
        let places = [self.data.join("pg_wal"), self.agent.layout.received_wal()];
        // A segment may have a gigabyte, and this thread also renews the lease.
        let copying = tokio::task::spawn_blocking(move || {
            places.iter().any(|wal| std::fs::copy(wal.join(&name), &to).is_ok()).then_some(to)
        });
        Ok(copying.await.ok().flatten())
    }
}

/// A segment whose copy is in the scratch directory.
#[derive(Clone, Copy)]
struct Piece {
    number: u64,
    size: SegmentSize,
    /// Whether the copy of the next newer one is there, too.
    has_next: bool,
}

impl Piece {
    /// The name of a segment's copy. `pg_waldump` goes from one file to the next by their names, and must also do so where
    /// a timeline ends.
    fn name(size: SegmentSize, number: u64) -> String {
        size.file_name(Segment { timeline: Timeline::new(1), number })
    }

    /// What `pg_waldump` is told to read: this segment, and of the next one as much as a record that begins here may fill.
    fn arguments(self) -> Vec<String> {
        let mut arguments = vec![Self::name(self.size, self.number)];
        if self.has_next {
            arguments.push(Self::name(self.size, self.number + 1));
            let end = self.size.start_of(self.number + 1).bytes() + MAX_RECORD_BYTES.min(self.size.bytes());
            arguments.push(format!("--end={}", Lsn::new(end)));
        }
        arguments
    }

    fn has(self, lsn: Lsn) -> bool {
        self.size.number_of(lsn) == self.number
    }
}

/// The records that begin in one segment and that the target means, in the order of the WAL.
async fn records(
    tools: &Tools,
    directory: &Path,
    piece: Piece,
    target: &Target,
) -> Result<Vec<Found>, JobError> {
    let mut found = Vec::new();
    for filter in filters(target) {
        let output = dump(tools, directory, piece, &filter).await?;
        found.extend(
            output.lines().filter_map(|line| parse(line, target)).filter(|found| piece.has(found.lsn)),
        );
    }
    Ok(found)
}

/// What keeps `pg_waldump` from printing everything; a search for each. A transaction that was prepared is committed by a
/// record that belongs to no transaction and names it.
fn filters(target: &Target) -> Vec<Vec<String>> {
    let of_xid = |xid: u64| vec!["--rmgr=Transaction".to_owned(), format!("--xid={xid}")];
    match target {
        Target::Name(_) => vec![vec!["--rmgr=XLOG".to_owned()]],
        Target::Xid(xid) => vec![of_xid(low_bits(*xid)), of_xid(0)],
        _ => Vec::new(),
    }
}

async fn dump(tools: &Tools, directory: &Path, piece: Piece, filter: &[String]) -> Result<String, JobError> {
    let mut command = tools.command("pg_waldump");
    command.args(filter).arg(format!("--path={}", directory.display())).args(piece.arguments());
    Ok(match run(command, SEGMENT_TIMEOUT).await {
        Ok(output) => output.stdout,
        // pg_waldump fails where the WAL ends: in the middle of a record, or of a segment that is being written. What
        // it printed before that is right.
        Err(PostgresError::CommandFailed { stdout, .. }) => stdout,
        Err(error) => {
            return Err(JobError {
                code: cellar_model::Code::PostgresFailed,
                message: format!("reading WAL: {error}"),
                hint: String::new(),
                tool_output: String::new(),
            });
        }
    })
}

/// The WAL holds the low 32 bits of a transaction's number, and so does PostgreSQL's own recovery target.
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
        Target::Xid(xid) => match description.strip_prefix("COMMIT_PREPARED ") {
            Some(prepared) => {
                prepared.split_once(':').is_some_and(|(of, _)| of == low_bits(*xid).to_string())
            }
            None => description.starts_with("COMMIT ") && field("tx: ") == Some(&low_bits(*xid).to_string()),
        },
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
    fn restore_points_and_commits_are_found_in_lines_of_pg_waldump() {
        let name = |text: &str| Target::Name(text.parse().unwrap());
        assert_eq!(parse(POINT, &name("before x")).unwrap().lsn.to_string(), "0/3000148");
        assert_eq!(parse(POINT, &name("before")), None);
        let commit = parse(COMMIT, &Target::Xid(742)).unwrap();
        assert!(commit.record.starts_with("COMMIT 2026-11-21"));
        assert_eq!(parse(&COMMIT.replace("COMMIT", "ABORT"), &Target::Xid(742)), None);
        assert_eq!(parse(COMMIT, &Target::Xid(74)), None, "another's");
        let prepared =
            COMMIT.replace("tx:        742", "tx:          0").replace("COMMIT ", "COMMIT_PREPARED 742: ");
        assert!(parse(&prepared, &Target::Xid(742)).is_some());
        assert_eq!(parse(&prepared, &Target::Xid(74)), None);
        assert_eq!(
            filters(&Target::Xid(0x1_0000_02E6)).concat()[1..],
            ["--xid=742", "--rmgr=Transaction", "--xid=0"]
        );
        assert_eq!(low_bits(0x1_0000_02E6), 742);
    }

    proptest! {
        #[test]
        fn any_line_can_be_read(line in ".{0,200}") {
            let _ = parse(&line, &Target::Xid(1));
        }
    }
}
