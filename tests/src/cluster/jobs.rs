//! Jobs of a cluster.

use std::time::{Duration, Instant};

use cellar_api::v1;
use cellar_api::v1::JobState;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::Code;
use serde_json::Value;
use tonic::Status;
use tonic::transport::Channel;

use crate::cluster::connection::is_passing;
use crate::cluster::local::Cluster;
use crate::machine::hold::hold_backup;
use crate::machine::wait::wait_for;

/// How long a job of a test may take.
const END_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a pooler may take to report what is so, on a busy machine.
const REPORT_TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts a backup that must be accepted, without waiting; the job's id.
    ///
    /// # Panics
    /// When it is refused, and not only until the poolers have reported what is so already.
    #[must_use]
    #[track_caller]
    pub fn begin_backup(&self, cell: &str, backup_type: &str) -> String {
        let command = ["backup", "--from", cell, "--type", backup_type, "--no-wait", "--output", "json"];
        let finished = self.try_cellar(&command);
        // It is not known yet what the refusal is about, so the same is asked where it can be seen.
        if finished.code == 3 {
            return self.begin_backup_when_reported(cell, backup_type);
        }
        let text = finished.ok();
        match serde_json::from_str::<Value>(&text).map(|job| job["id"].as_str().map(str::to_owned)) {
            Ok(Some(id)) => id,
            _ => panic!("no job: {text}"),
        }
    }

    /// The same, as soon as nothing but the last reports of the poolers, which are up to a second old, is against it.
    #[track_caller]
    fn begin_backup_when_reported(&self, cell: &str, backup_type: &str) -> String {
        let name = format!("BACKUP_TYPE_{}", backup_type.to_uppercase());
        let Some(of_type) = v1::BackupType::from_str_name(&name) else { panic!("no type {backup_type}") };
        let request =
            v1::BackupRequest { cell: cell.to_owned(), r#type: of_type.into(), ..Default::default() };
        wait_for("the poolers to report that a backup can be taken", REPORT_TIMEOUT, || {
            match self.ask(async |client| client.backup(request.clone()).await) {
                Ok(response) => Some(response.into_inner().id),
                Err(status) => {
                    let reason = cellar_api::reason_of(&status);
                    let passes =
                        matches!(reason, Some(Code::CellDown | Code::NoPrimary | Code::WrongPrimary));
                    assert!(passes, "Backup of {cell}: {status}");
                    None
                }
            }
        })
    }

    /// A job as multiadmin shows it.
    #[must_use]
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.json(&["jobs", "show", id])
    }

    /// Waits until a job has ended, and returns it.
    ///
    /// # Panics
    /// When it does not end, or multiadmin answers with an error while it can be reached.
    #[must_use]
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        let deadline = Instant::now() + END_TIMEOUT;
        wait_for(&format!("job {id} to end"), END_TIMEOUT, || {
            // The stream of a job that does not end goes on and on.
            let left = deadline.saturating_duration_since(Instant::now());
            let watched = async |client: &mut MultiAdminClient<Channel>| {
                tokio::time::timeout(left, watch_to_end(client, id)).await.unwrap_or(Ok(false))
            };
            match self.ask(watched) {
                Ok(has_ended) => has_ended.then_some(()),
                // It was told to end, or the stream has lasted as long as a call may.
                Err(status) if is_passing(&status) => None,
                Err(status) => panic!("WatchJob {id}: {status}"),
            }
        });
        self.job(id)
    }

    /// A backup that must succeed; the ended job.
    #[must_use]
    #[track_caller]
    pub fn backup(&self, cell: &str, backup_type: &str) -> Value {
        let id = self.begin_backup(cell, backup_type);
        let job = self.ended(&id);
        assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
        job
    }

    /// pgBackRest's own output of a job, as its pooler keeps it.
    #[must_use]
    pub fn log_of(&self, cell: &str, job: &str) -> String {
        std::fs::read_to_string(self.directory.join(cell).join("jobs").join(format!("{job}.log")))
            .unwrap_or_default()
    }

    /// Stops the backup of this job of a cell as soon as it copies: pgBackRest's processes.
    #[must_use]
    #[track_caller]
    pub fn hold_backup(&self, cell: &str, job: &str) -> Vec<i32> {
        hold_backup(&format!("{job}.conf"), || self.log_of(cell, job))
    }
}

/// Follows a job; true when it has ended, false when only the stream has.
async fn watch_to_end(client: &mut MultiAdminClient<Channel>, id: &str) -> Result<bool, Status> {
    let mut updates = client.watch_job(v1::GetJobRequest { id: id.to_owned() }).await?.into_inner();
    while let Some(job) = updates.message().await? {
        if matches!(job.state(), JobState::Succeeded | JobState::Failed | JobState::Canceled) {
            return Ok(true);
        }
    }
    Ok(false)
}
