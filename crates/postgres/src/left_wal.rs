//! What lies in a data directory's WAL behind a position.

use std::path::Path;
use std::time::Duration;

use cellar_model::{Lsn, Timeline};

use crate::command::run;
use crate::error::PostgresError;
use crate::tools::Tools;

/// The WAL behind a position, as far as it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeftWal {
    /// Where the last whole record ends.
    pub end: Lsn,
    /// Transactions that were committed in it.
    pub commits: u64,
}

/// Reads the WAL of `timeline` behind `from` with `pg_waldump`; none when there is no record.
///
/// # Errors
/// When the program cannot be run, is not done in `timeout`, or writes something else than its statistics.
pub async fn left_wal(
    tools: &Tools,
    data: &Path,
    timeline: Timeline,
    from: Lsn,
    timeout: Duration,
) -> Result<Option<LeftWal>, PostgresError> {
    let mut command = tools.for_data(data).command("pg_waldump");
    command.arg("--path").arg(data.join("pg_wal"));
    command.arg("--timeline").arg(timeline.get().to_string()).arg("--start").arg(from.to_string());
    command.arg("--stats=record");
    let text = match run(command, timeout).await {
        Ok(output) => output.stdout,
        // It always ends so at the end of the WAL.
        Err(PostgresError::CommandFailed { stdout, .. }) => stdout,
        Err(error) => return Err(error),
    };
    Ok(parse(&text))
}

fn parse(text: &str) -> Option<LeftWal> {
    let range = text.lines().find_map(|line| line.strip_prefix("WAL statistics between "))?;
    let (from, end) = range.trim_end_matches(':').split_once(" and ")?;
    let end: Lsn = end.parse().ok()?;
    let count =
        |line: &str| line.strip_prefix("Transaction/COMMIT ")?.split_whitespace().next()?.parse().ok();
    let commits = text.lines().find_map(count).unwrap_or(0);
    (Some(end) > from.parse().ok()).then_some(LeftWal { end, commits })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statistics_of_pg_waldump_say_how_much_there_is() {
        let text = "WAL statistics between 0/5000028 and 0/8005128:\nType    N  (%)\n----\n\
                    Transaction/COMMIT                      4 (  1.27)      2974 (  9.58)\n\
                    Transaction/COMMIT_PREPARED             7 (  1.27)      2974 (  9.58)\n";
        let end = Lsn::new(0x0800_5128);
        assert_eq!(parse(text), Some(LeftWal { end, commits: 4 }));
        assert_eq!(parse("WAL statistics between 0/1 and 0/2:\n").map(|left| left.commits), Some(0));
        for nothing in ["", "WAL statistics between 0/1 and 0/1:\n", "pg_waldump: error: could not find"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }
}
