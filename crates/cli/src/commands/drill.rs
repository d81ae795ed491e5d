//! `cellar drill`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1::DrillRestoreRequest;
use cellar_model::{BackupLabel, CellName, RequestId};
use clap::Args;

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::retry::call;
use crate::client::submit::{accepted, judge, request_id, span};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::render::drill::report;
use crate::render::units::{parse_duration, parse_size};

/// Prove that a backup can be restored, by restoring it
///
/// Restores the backup into a scratch directory of a cell, replays all archived WAL, checks the copy and
/// deletes it. The database itself goes on and is not touched. Ends with exit code 1 when a check failed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar drill
  cellar drill --on zone3 --backup 20260301-101500F
  cellar drill --check-database shop --check 'select count(*) > 1000 from orders'
  cellar drill --check-file checks.sql --max-rate 0 --nice 0
  cellar drill --output json | jq .result.drill.readableMillis")]
pub(crate) struct Drill {
    /// The cell that has room for the copy [default: a standby]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
    /// The backup [default: the newest]
    #[arg(long, value_name = "LABEL")]
    backup: Option<BackupLabel>,
    #[command(flatten)]
    checks: Checks,
    /// Print the job and end at once
    #[arg(long)]
    no_wait: bool,
    /// When the job is given up [default: 3d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
}

/// How the copy is looked at, and what that may cost.
#[derive(Debug, Args)]
pub(crate) struct Checks {
    /// SQL that must run without error; its rows, if it returns any, must begin with true. May be repeated
    #[arg(long, value_name = "SQL")]
    check: Vec<String>,
    /// A file whose whole content is one such check. May be repeated
    #[arg(long, value_name = "FILE")]
    check_file: Vec<PathBuf>,
    /// The database in which the checks run [default: postgres]
    #[arg(long, value_name = "NAME")]
    pub(crate) check_database: Option<String>,
    /// Leave pg_amcheck out
    #[arg(long)]
    pub(crate) skip_amcheck: bool,
    /// Niceness of everything it runs [default: 19]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=19))]
    pub(crate) nice: Option<u32>,
    /// Restore at most so much a second; 0 for no limit [default: 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_rate: Option<u64>,
}

fn read_check(path: &Path) -> Outcome<String> {
    std::fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::InvalidData | std::io::ErrorKind::IsADirectory => {
            Failure::usage(format!("--check-file {}: {source}", path.display()), "name a text file of SQL")
        }
        _ => Failure::Io { what: format!("read {}", path.display()), source },
    })
}

impl Checks {
    /// All checks, those in files included.
    pub(crate) fn texts(&self) -> Outcome<Vec<String>> {
        let mut checks = self.check.clone();
        for path in &self.check_file {
            checks.push(read_check(path)?);
        }
        if checks.iter().any(|check| check.trim().is_empty()) {
            return Err(Failure::usage(
                "a check is empty",
                "give SQL such as 'select count(*) > 0 from orders'",
            ));
        }
        Ok(checks)
    }
}

impl Drill {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let checks = self.checks.texts()?;
        let target = global.target()?;
        let client = target.client()?;
        let request = DrillRestoreRequest {
            database: super::database(global),
            cell: self.on.map(|cell| cell.to_string()).unwrap_or_default(),
            backup: self.backup.map(|label| label.to_string()).unwrap_or_default(),
            checks,
            check_database: self.checks.check_database.unwrap_or_default(),
            skip_amcheck: self.checks.skip_amcheck,
            nice: self.checks.nice,
            max_bytes_per_second: self.checks.max_rate,
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.drill_restore(request).await }
        })
        .await?;
        if self.no_wait {
            return accepted(global, &job);
        }
        output::note(&format!("job {}", job.id));
        let job = follow(&target, &job.id, false, |_| Ok(())).await?;
        match (global.output, job.result.as_ref().and_then(|result| result.drill())) {
            (Form::Json, _) => output::json(&job)?,
            // One that failed tells what it found, too.
            (Form::Human, Some(result)) => output::print(&report(&job, result))?,
            (Form::Human, None) => {}
        }
        judge(job).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        drill: Drill,
    }

    #[test]
    fn a_file_is_one_check() {
        let dir = tempfile::tempdir().unwrap();
        let (file, empty) = (dir.path().join("a.sql"), dir.path().join("b.sql"));
        std::fs::write(&file, "select 1;\nselect true;\n").unwrap();
        std::fs::write(&empty, "\n").unwrap();
        let checks = |arguments: &[&str]| {
            Line::try_parse_from(std::iter::once(&"drill").chain(arguments)).unwrap().drill.checks.texts()
        };
        let path = file.to_str().unwrap();
        assert_eq!(
            checks(&["--check-file", path, "--check", "select 2"]).unwrap(),
            ["select 2", "select 1;\nselect true;\n"]
        );
        for bad in [empty.to_str().unwrap(), "/nonexistent/x.sql", dir.path().to_str().unwrap()] {
            assert_eq!(checks(&["--check-file", bad]).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn no_limit_is_not_the_default() {
        let rate = |arguments: &[&str]| {
            Line::try_parse_from(std::iter::once(&"drill").chain(arguments)).unwrap().drill.checks.max_rate
        };
        assert_eq!(rate(&["--max-rate", "0"]), Some(0));
        assert_eq!(rate(&["--max-rate", "10MiB"]), Some(10 << 20));
        assert_eq!(rate(&[]), None);
    }
}
