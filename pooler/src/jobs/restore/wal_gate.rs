//! The gate through which WAL reaches a private copy: a segment whose replay would make the copy write outside its own
//! directories is not handed over.
//!
//! PostgreSQL replays the creation of a tablespace by linking `pg_tblspc` to the place that the WAL names. On the host
//! of a member that place holds the live database's files, and the replay goes on to write older pages into them. No
//! setting prevents this, and no look at the backup shows it: a tablespace may have been made after the backup and even
//! dropped since. So every segment is searched before PostgreSQL has it, by PostgreSQL's own `pg_waldump`; this takes
//! some 15 ms a segment, and to fetch one some 250 ms.

use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{Code, JobError, Lsn, Refusal, Segment, SegmentSize, Timeline};
use cellar_postgres::{PostgresError, Tools, run};

use crate::config_files::{shell_quoted, shell_word};
use crate::disk::write_refusal;
use crate::jobs::restore::scratch::remove_directory;

/// How long the search of all the WAL of one data directory may take: some 15 ms a segment.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(600);

/// What `pg_waldump` says where the WAL ends, in its last version and in earlier ones. Replay ends there, too.
const ENDS_OF_WAL: [&str; 2] = ["error in WAL record", "could not find a valid record"];

/// A page of WAL, in bytes. Where the first of a segment holds nothing but zeros, the WAL ends before it: WAL receivers and
/// primaries make segments in advance. `pg_waldump` only says of such a segment that its size cannot be read.
const PAGE_BYTES: u64 = 8192;

/// How often a file is asked for, a second apart, while it cannot be found out whether there is one.
const FETCH_ATTEMPTS: u32 = 30;

/// How the gate's reason begins when it gave up.
const UNFETCHED: &str = "cannot be fetched: ";

/// The gate of one copy.
pub(super) struct WalGate<'a> {
    /// PostgreSQL's programs.
    pub(super) tools: Tools,
    /// The copy's data directory.
    pub(super) data: &'a Path,
    /// Where the gate's own files are. It exists.
    pub(super) directory: PathBuf,
    /// Where replay begins. What the WAL does before is not replayed.
    pub(super) redo: Lsn,
    /// The size of WAL segments.
    pub(super) size: SegmentSize,
}

impl WalGate<'_> {
    fn links(&self) -> PathBuf {
        self.directory.join("wal")
    }

    fn refused(&self) -> PathBuf {
        self.directory.join("refused")
    }

    /// The name under which a segment is searched. `pg_waldump` goes from one file to the next by their names, and must
    /// also do so where a timeline ends.
    fn link(&self, number: u64) -> PathBuf {
        self.links().join(self.size.file_name(Segment { timeline: Timeline::new(1), number }))
    }

    /// Makes the gate. `fetch` are commands of the shell that put the file `$name` at `$target`: with exit code 0 when it is
    /// there, with 1 when there is no such file, and with any other when that could not be found out. Returns the
    /// `restore_command`.
    ///
    /// # Errors
    /// When WAL that the data directory has already must not be replayed, or the gate's files cannot be written.
    pub(super) async fn close(&self, fetch: &str) -> Result<String, JobError> {
        let disk = |error: std::io::Error| {
            JobError::from(write_refusal(&format!("cannot write to {}", self.directory.display()), &error))
        };
        let links = self.links();
        remove_directory(&links).await;
        std::fs::create_dir(&links).map_err(disk)?;
        let there = self.link_what_is_there().map_err(disk)?;
        for run in there.chunk_by(|one, next| one + 1 == *next) {
            self.search_run(run).await?;
        }
        let script = self.directory.join("fetch-wal");
        std::fs::write(&script, self.script(fetch)).map_err(disk)?;
        Ok(format!("sh {} %f \"%p\"", shell_word(&script.to_string_lossy())))
    }

    /// Links all WAL that the data directory has from where replay begins, of two timelines' files with one number the
    /// newer. Returns the numbers, in order.
    fn link_what_is_there(&self) -> std::io::Result<Vec<u64>> {
        let wal = self.data.join("pg_wal");
        let names =
            std::fs::read_dir(&wal)?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let first = self.size.number_of(self.redo);
        let mut segments: Vec<(Segment, String)> = names
            .filter_map(|name| Some((self.size.parse_file_name(&name)?, name)))
            .filter(|(segment, _)| segment.number >= first)
            .collect();
        segments.sort_by_key(|(segment, _)| (segment.number, std::cmp::Reverse(segment.timeline)));
        segments.dedup_by_key(|(segment, _)| segment.number);
        for (segment, name) in &segments {
            symlink(wal.join(name), self.link(segment.number))?;
        }
        Ok(segments.iter().map(|(segment, _)| segment.number).collect())
    }

    /// Searches segments that follow each other.
    async fn search_run(&self, numbers: &[u64]) -> Result<(), JobError> {
        let [first, .., last] = numbers else { return self.search(numbers).await.map(drop) };
        if !self.search(&[*first, *last]).await? {
            // The archive may have whole what is damaged or unfinished here, and replay then goes on with what follows.
            for number in numbers {
                self.search(&[*number]).await?;
            }
        }
        Ok(())
    }

    /// Searches from the first to the last of these segments. False when the WAL ends before.
    async fn search(&self, numbers: &[u64]) -> Result<bool, JobError> {
        let mut command = self.tools.command("pg_waldump");
        command.arg("--rmgr=Tablespace").arg(format!("--path={}", self.links().display()));
        if numbers.first() == Some(&self.size.number_of(self.redo)) {
            command.arg(format!("--start={}", self.redo));
        }
        command
            .args(numbers.iter().filter_map(|number| self.link(*number).file_name().map(ToOwned::to_owned)));
        let (found, is_whole) = match run(command, SEARCH_TIMEOUT).await {
            Ok(output) => (output.stdout, true),
            Err(PostgresError::CommandFailed { stdout, output, .. })
                if ENDS_OF_WAL.iter().any(|text| output.contains(text))
                    || numbers.first().is_some_and(|first| is_blank(&self.link(*first))) =>
            {
                (stdout, false)
            }
            Err(error) => return Err(unsearchable(&error.to_string())),
        };
        refusal(&found).map_or(Ok(is_whole), Err)
    }

    /// The program that fetches WAL for the copy. An exit code above 125 ends PostgreSQL at once; any other failure
    /// means to it that there is no such file, and it goes on with another timeline's or ends its recovery there. So only the
    /// archive's word that there is none is passed on.
    fn script(&self, fetch: &str) -> String {
        let quoted = |path: &Path| shell_quoted(&path.to_string_lossy());
        let redo = self.link(self.size.number_of(self.redo));
        let redo_name = redo.file_name().unwrap_or_default().to_string_lossy();
        format!(
            r#"# Fetches one file of WAL for a private copy; its arguments are PostgreSQL's %f and %p.
LC_ALL=C
export LC_ALL
name=$1
target=$2
links={links}
errors={errors}
refuse() {{
    rm -f "$target"
    printf '%s\n' "$1" >{refused}
    exit 126
}}
attempt=1
while :; do
    {fetch}
    status=$?
    case $status in
    0) break ;;
    1) exit 1 ;;
    esac
    [ "$attempt" -lt {attempts} ] || refuse "{unfetched}$name, exit code $status"
    attempt=$((attempt + 1))
    sleep 1
done
case ${{#name}}-$name in
24-*[!0-9A-F]*) exit 0 ;;
24-*) ;;
*) exit 0 ;;
esac
number=${{name#????????}}
count=$((0x${{number%????????}} * {per_log} + 0x${{number#????????}}))
this=00000001$number
before=$(printf '00000001%08X%08X' $(((count - 1) / {per_log})) $(((count - 1) % {per_log})))
search() {{
    start=
    if [ "$1" = {redo_name} ]; then start=--start={redo_lsn}; fi
    found="$found
$({waldump} --rmgr=Tablespace $start --path="$links" "$1" "$this" 2>"$errors")"
    status=$?
}}
ln -sfn "$PWD/$target" "$links/$this" || refuse "cannot link $this"
found=
status=1
# A record that begins in the segment before is seen only together with it.
if [ "$this" != {redo_name} ] && [ -e "$links/$before" ]; then search "$before"; fi
# What a primary left unfinished in a crash ends that search early.
if [ "$status" != 0 ]; then search "$this"; fi
is_blank() {{
    [ "$(head -c {page} "$links/$this" | tr -d '\000' | wc -c)" -eq 0 ]
}}
if [ "$status" != 0 ] && ! grep -q {ends} "$errors" && ! is_blank; then refuse "$(cat "$errors")"; fi
if created=$(printf '%s\n' "$found" | grep 'desc: CREATE ' | grep -v '""$'); then refuse "$created"; fi
# PostgreSQL gives it this name when it opens it.
ln -sfn "$PWD/pg_wal/$name" "$links/$this"
exit 0
"#,
            attempts = FETCH_ATTEMPTS,
            unfetched = UNFETCHED,
            links = quoted(&self.links()),
            errors = quoted(&self.directory.join("errors")),
            refused = quoted(&self.refused()),
            per_log = (1_u64 << 32) / self.size.bytes(),
            redo_lsn = self.redo,
            page = PAGE_BYTES,
            waldump = quoted(&self.tools.bindir().join("pg_waldump")),
            ends = ENDS_OF_WAL.map(|text| format!("-e '{text}'")).join(" "),
        )
    }
}

/// Whether a segment's first page holds nothing but zeros.
fn is_blank(segment: &Path) -> bool {
    let page = std::fs::File::open(segment).and_then(|file| {
        let mut page = Vec::new();
        file.take(PAGE_BYTES).read_to_end(&mut page).map(|_| page)
    });
    page.is_ok_and(|page| page.iter().all(|byte| *byte == 0))
}

/// Why the gate in `directory` has refused a segment; none when it has not.
pub(super) fn why_refused(directory: &Path) -> Option<JobError> {
    let text = std::fs::read_to_string(directory.join("refused")).ok()?;
    if let Some(what) = text.trim_end().strip_prefix(UNFETCHED) {
        let message = format!("the archive neither gave {what} nor said that there is no such file");
        return Some(
            Refusal::new(Code::PgbackrestFailed, message)
                .hint("see that the repo can be reached and its files can be read (`cellar check`), then ask again")
                .into(),
        );
    }
    Some(refusal(&text).unwrap_or_else(|| unsearchable(&text)))
}

fn unsearchable(why: &str) -> JobError {
    Refusal::new(
        Code::PostgresFailed,
        format!("the WAL cannot be searched before its replay: {}", why.trim()),
    )
    .hint("is pg_waldump beside PostgreSQL's other programs, and the segment undamaged?")
    .into()
}

/// The refusal for what `pg_waldump` has found of tablespaces; none when no place outside the data directory is named.
fn refusal(found: &str) -> Option<JobError> {
    let (lsn, place) = found.lines().find_map(created)?;
    let message = format!(
        "the WAL makes a tablespace in {place} at {lsn}; a copy that replays it would write to the files there"
    );
    Some(
        Refusal::new(Code::Unsupported, message)
            .hint("take a backup (`cellar backup`): the tablespace is in it, and a drill of it works. A restore works to a time before the tablespace was made")
            .into(),
    )
}

/// Position and place of a created tablespace, from a line `…, lsn: 0/5255E78, …, desc: CREATE 16389 "/place"`. An empty
/// place is inside the data directory.
fn created(line: &str) -> Option<(&str, &str)> {
    let (head, description) = line.split_once(", desc: CREATE ")?;
    let (_, place) = description.trim_end().split_once(' ')?;
    let (_, lsn) = head.split_once("lsn: ")?;
    (place != "\"\"").then_some((lsn.split(',').next()?, place))
}

#[cfg(test)]
mod tests;
