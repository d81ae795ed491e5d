//! `cellar backup`.

use std::time::Duration;

use cellar_api::v1::{BackupRequest, BackupType, GetDatabaseRequest};
use cellar_model::{CellName, RequestId};
use clap::{Args, ValueEnum};

use crate::arguments::Global;
use crate::client::retry::call;
use crate::client::submit::{request_id, span, to_its_end};
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::render::proof::summary;
use crate::render::units::{parse_duration, parse_size};

/// How much a backup copies.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    /// Every file
    Full,
    /// What changed since the last full backup
    Diff,
    /// What changed since the last backup
    Incr,
}

impl Kind {
    /// As requests carry it.
    pub(crate) fn message(self) -> BackupType {
        match self {
            Self::Full => BackupType::Full,
            Self::Diff => BackupType::Diff,
            Self::Incr => BackupType::Incr,
        }
    }
}

/// The limit of lag as requests carry it.
pub(crate) fn max_lag_bytes(given: Option<u64>) -> Outcome<u64> {
    if given == Some(0) {
        // The API reads 0 as "the default", which is not what was meant.
        return Err(Failure::usage(
            "--max-lag 0 is refused: 1 byte is the least",
            "give a size such as 16MiB",
        ));
    }
    Ok(given.unwrap_or(0))
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
    /// How much to copy
    #[arg(long = "type", value_name = "TYPE", default_value = "incr")]
    kind: Kind,
    /// Print the job and end at once
    #[arg(long)]
    no_wait: bool,
    /// Wait behind a running job rather than be refused
    #[arg(long)]
    queue: bool,
    /// Accept the primary as source
    #[arg(long)]
    allow_primary: bool,
    /// Refuse a standby that is further behind [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_lag: Option<u64>,
    /// When the job is given up [default: 3d]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
}

/// The present primary, for the words of the proof only.
async fn primary(target: &Target, database: &str) -> Option<String> {
    let mut client = target.client().ok()?;
    let view = client.get_database(GetDatabaseRequest { name: database.to_owned() }).await.ok()?;
    view.into_inner().leader.map(|leader| leader.cell)
}

impl Backup {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = BackupRequest {
            database: super::database(global),
            cell: self.from.to_string(),
            r#type: self.kind.message().into(),
            allow_primary: self.allow_primary,
            queue: self.queue,
            max_lag_bytes: max_lag_bytes(self.max_lag)?,
            timeout: self.timeout.map(span),
            request_id: request_id(self.request_id.as_ref()),
        };
        let target = global.target()?;
        let client = target.client()?;
        let job = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.backup(request).await }
        })
        .await?;
        let Some(job) = to_its_end(global, &target, job, self.no_wait).await? else { return Ok(()) };
        let Some(result) = job.result.as_ref().and_then(|result| result.backup()) else {
            return Err(Failure::Bug(format!("job {} succeeded without a backup", job.id)));
        };
        let primary = primary(&target, &job.database).await;
        output::print(&summary(&job, result, primary.as_deref()))
    }
}
