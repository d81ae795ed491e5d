//! `cellar drill`.

use std::path::{Path, PathBuf};

use cellar_api::v1::{DrillRestoreRequest, Job, ScheduledDrill};
use cellar_model::{BackupLabel, CellName};
use clap::Args;

use crate::client::run_job::{JobOptions, run_job};
use crate::client::submit::or_empty;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::render::drill::report;
use crate::render::units::parse_size;

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
    /// The backup [default: the newest]
    #[arg(long, value_name = "LABEL")]
    backup: Option<BackupLabel>,
    #[command(flatten)]
    drill: DrillOptions,
    #[command(flatten)]
    options: JobOptions,
}

/// The flags of a drill now and of a scheduled one.
#[derive(Debug, Args)]
pub(crate) struct DrillOptions {
    /// The cell that has room for the copy [default: a standby]
    #[arg(long, value_name = "CELL")]
    on: Option<CellName>,
    #[command(flatten)]
    checks: Checks,
}

/// How the copy is checked, and what that may cost.
#[derive(Debug, Args)]
struct Checks {
    /// SQL that must run without error; its rows, if it returns any, must begin with true. May be repeated
    #[arg(long, value_name = "SQL")]
    check: Vec<String>,
    /// A file whose whole content is one such check. May be repeated
    #[arg(long, value_name = "FILE")]
    check_file: Vec<PathBuf>,
    /// The database in which the checks run [default: postgres]
    #[arg(long, value_name = "NAME")]
    check_database: Option<String>,
    /// Leave pg_amcheck out
    #[arg(long)]
    skip_amcheck: bool,
    /// Niceness of everything it runs [default: 19]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=19))]
    nice: Option<u32>,
    /// Restore at most so much a second; 0 for no limit [default: 32MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_rate: Option<u64>,
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
    fn texts(&self) -> Outcome<Vec<String>> {
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

impl DrillOptions {
    /// The drill that the flags describe, with the content of the files of checks.
    pub(crate) fn read(&self) -> Outcome<ScheduledDrill> {
        Ok(ScheduledDrill {
            cell: self.on.as_ref().map(ToString::to_string),
            checks: self.checks.texts()?,
            check_database: self.checks.check_database.clone().unwrap_or_default(),
            skip_amcheck: self.checks.skip_amcheck,
            nice: self.checks.nice,
            max_bytes_per_second: self.checks.max_rate,
        })
    }
}

/// The request for a drill of the newest backup. It has no database, id or timeout yet.
pub(crate) fn request(drill: ScheduledDrill) -> DrillRestoreRequest {
    DrillRestoreRequest {
        cell: drill.cell.unwrap_or_default(),
        checks: drill.checks,
        check_database: drill.check_database,
        skip_amcheck: drill.skip_amcheck,
        nice: drill.nice,
        max_bytes_per_second: drill.max_bytes_per_second,
        ..DrillRestoreRequest::default()
    }
}

/// Submits the job.
pub(crate) async fn submit(target: &Target, request: DrillRestoreRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.drill_restore(request).await).await
}

impl Drill {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = DrillRestoreRequest {
            database: global.database(),
            backup: or_empty(self.backup.as_ref()),
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
            ..request(self.drill.read()?)
        };
        let target = Target::of(global).await?;
        // A job that failed has a result too: which checks failed.
        let report = async |job: &Job| Some(report(job, job.result.as_ref()?.drill()?));
        run_job(global, &target, &self.options, submit(&target, request), report).await
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
            Line::try_parse_from(std::iter::once(&"drill").chain(arguments))
                .unwrap()
                .drill
                .drill
                .read()
                .map(|drill| drill.checks)
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
    fn a_rate_of_zero_is_no_limit_and_not_the_default() {
        let rate = |arguments: &[&str]| {
            Line::try_parse_from(std::iter::once(&"drill").chain(arguments))
                .unwrap()
                .drill
                .drill
                .checks
                .max_rate
        };
        assert_eq!(rate(&["--max-rate", "0"]), Some(0));
        assert_eq!(rate(&["--max-rate", "10MiB"]), Some(10 << 20));
        assert_eq!(rate(&[]), None);
    }
}
