//! `cellar backup`.

use cellar_api::v1::{BackupRequest, BackupType, GetDatabaseRequest, Job, ScheduledBackup};
use cellar_model::CellName;
use clap::{Args, ValueEnum};

use crate::client::run_job::{JobOptions, QueueOption, run_job};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::render::backup::summary;
use crate::render::units::parse_size;

/// How much a backup copies.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Every file
    Full,
    /// What changed since the last full backup
    Diff,
    /// What changed since the last backup
    Incr,
}

/// The flags of a backup now and of a scheduled one.
#[derive(Debug, Args)]
pub(crate) struct BackupOptions {
    /// How much to copy
    #[arg(long = "type", value_name = "TYPE", default_value = "incr")]
    kind: Kind,
    /// Accept the primary as source
    #[arg(long)]
    allow_primary: bool,
    /// Refuse a standby that lags by more [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_lag: Option<u64>,
}

impl BackupOptions {
    /// The backup of the first of these cells that can be backed up.
    pub(crate) fn of_cells(&self, cells: &[CellName]) -> Outcome<ScheduledBackup> {
        if self.max_lag == Some(0) {
            // Requests carry the default as 0, which is not what was meant.
            return Err(Failure::usage(
                "--max-lag 0 is refused: 1 byte is the least",
                "give a size such as 16MiB",
            ));
        }
        let kind = match self.kind {
            Kind::Full => BackupType::Full,
            Kind::Diff => BackupType::Diff,
            Kind::Incr => BackupType::Incr,
        };
        Ok(ScheduledBackup {
            cells: cells.iter().map(ToString::to_string).collect(),
            r#type: kind.into(),
            allow_primary: self.allow_primary,
            max_lag_bytes: self.max_lag.unwrap_or(0),
        })
    }
}

/// Back up exactly the cell you name, and prove it
///
/// Copies the named cell's own files or fails; it never takes another cell instead. Without
/// --no-wait it follows the job and ends with the proof: how many files came from where.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar backup --from zone3
  cellar backup --from zone3 --type full --queue
  cellar backup --from zone1 --allow-primary
  cellar backup --from zone3 --no-wait --request-id nightly-2026-03-01
  cellar backup --from zone3 --output json | jq .result.backup.source")]
pub(crate) struct Backup {
    /// The cell to copy
    #[arg(long, value_name = "CELL")]
    from: CellName,
    #[command(flatten)]
    backup: BackupOptions,
    #[command(flatten)]
    queue: QueueOption,
    #[command(flatten)]
    options: JobOptions,
}

/// The request for the backup of one of the cells. It has no database, id or timeout yet.
pub(crate) fn request(backup: &ScheduledBackup, cell: &str) -> BackupRequest {
    BackupRequest {
        cell: cell.to_owned(),
        r#type: backup.r#type,
        allow_primary: backup.allow_primary,
        max_lag_bytes: backup.max_lag_bytes,
        ..BackupRequest::default()
    }
}

/// Submits the job.
pub(crate) async fn submit(target: &Target, request: BackupRequest) -> Outcome<Job> {
    target.call(request, async |mut client, request| client.backup(request).await).await
}

/// The present primary, which only the words of the proof need; `None` also if it cannot be found out.
async fn primary(target: &Target, database: &str) -> Option<String> {
    let mut client = target.client().ok()?;
    let view = client.get_database(GetDatabaseRequest { name: database.to_owned() }).await.ok()?;
    view.into_inner().leader.map(|leader| leader.cell)
}

impl Backup {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let backup = self.backup.of_cells(std::slice::from_ref(&self.from))?;
        let request = BackupRequest {
            database: global.database(),
            queue: self.queue.queue,
            timeout: self.options.timeout(),
            request_id: self.options.request_id(),
            ..request(&backup, self.from.as_str())
        };
        let target = Target::of(global).await?;
        let report = async |job: &Job| {
            let result = job.result.as_ref()?.backup()?;
            let primary = primary(&target, &job.database).await;
            Some(summary(job, result, primary.as_deref()))
        };
        run_job(global, &target, &self.options, submit(&target, request), report).await
    }
}
