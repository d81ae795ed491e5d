//! The first full backup: what the standbys are made from, and the reason why `up` may end.

use std::time::{Duration, Instant};

use cellar_api::v1::{
    Backup, BackupRequest, BackupType, GetJobRequest, Job, JobError, JobState, ListBackupsRequest,
};
use cellar_api::{MISSING_STANZA, subject_of};
use cellar_model::Code;
use tonic::Code as Grpc;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::error::provision_error::{ProvisionError, Result};
use crate::local::watch::{Watcher, is_transient};

/// Jobs that are tried; after three failures a fourth attempt would fail too.
const MAX_ATTEMPTS: u32 = 3;

/// How often to ask again when something is not ready.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// What is known of the repo.
#[derive(Debug, PartialEq, Eq)]
enum Holding {
    FullBackup,
    /// No full backup of this database that counts.
    Nothing,
    /// It cannot be read, for this reason.
    Unknown(String),
}

/// Whether a backup is one that the cluster can rely on: full, without page errors, and proven, by the mark in the repo or by
/// the record of its job. Nothing else that chooses among backups relies on another one either.
fn counts(backup: &Backup) -> bool {
    backup.r#type() == BackupType::Full && !backup.error && backup.verified
}

fn is_terminal(state: JobState) -> bool {
    matches!(state, JobState::Succeeded | JobState::Failed | JobState::Canceled)
}

/// Whether the refusal passes by itself: the cluster is coming up.
fn is_transient_refusal(status: &tonic::Status) -> bool {
    let transient = [Code::CellDown, Code::NoPrimary, Code::Lagging, Code::WrongPrimary, Code::TwoPrimaries];
    is_transient(status)
        || status.code() == Grpc::Unavailable
        || cellar_api::reason_of(status).is_some_and(|code| transient.contains(&code))
}

impl Watcher<'_> {
    fn backup_failed(&self, message: String, hint: String) -> ProvisionError {
        ProvisionError::FirstBackup { database: self.database.to_string(), message, hint }
    }

    fn check_deadline(&self, waiting_for: &str) -> Result<()> {
        if Instant::now() < self.deadline {
            return Ok(());
        }
        let after = self.begun.elapsed().as_secs();
        Err(self.backup_failed(format!("after {after} s {waiting_for}"), String::new()))
    }

    /// What the repo holds; `None` when multiadmin cannot tell yet.
    async fn look_into_repo(&mut self) -> Result<Option<Holding>> {
        let database = self.database.to_string();
        match self.admin.list_backups(ListBackupsRequest { database }).await {
            Ok(answer) => {
                let holds = answer.get_ref().backups.iter().any(counts);
                Ok(Some(if holds { Holding::FullBackup } else { Holding::Nothing }))
            }
            Err(status) if is_transient_refusal(&status) => Ok(None),
            // A repo without stanza gets one by the first backup's own job, which also tells more of an unreadable one.
            Err(status) if status.code() == Grpc::Internal => {
                let has_no_stanza = subject_of(&status, MISSING_STANZA).is_some();
                let unreadable = || Holding::Unknown(status.message().to_owned());
                Ok(Some(if has_no_stanza { Holding::Nothing } else { unreadable() }))
            }
            Err(status) => Err(status.into()),
        }
    }

    /// Whether the repo is known to hold a full backup that [counts]; waits until multiadmin can tell.
    pub(crate) async fn holds_full_backup(&mut self) -> Result<bool> {
        Ok(self.holding().await? == Holding::FullBackup)
    }

    async fn holding(&mut self) -> Result<Holding> {
        loop {
            self.check_deadline("the repository could not be read or backed up to")?;
            self.check_launched()?;
            if let Some(holding) = self.look_into_repo().await? {
                return Ok(holding);
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Makes sure that the repo holds a full backup. Each attempt has its own request id, derived from `name`, so that
    /// a `cellar up` that was killed in the middle finds its job again instead of starting another.
    pub(crate) async fn ensure_first_backup(&mut self, primary: &str, name: Uuid) -> Result<()> {
        let mut primary = primary.to_owned();
        let mut attempt = 1;
        // What the repo holds counts, also after a job that has succeeded: it may have been of another repo.
        loop {
            let holding = self.holding().await?;
            if holding == Holding::FullBackup {
                return Ok(());
            }
            let request = BackupRequest {
                database: self.database.to_string(),
                cell: primary.clone(),
                r#type: BackupType::Full.into(),
                allow_primary: true,
                request_id: format!("first-full-{name}-{attempt}"),
                ..BackupRequest::default()
            };
            let status = match self.admin.backup(request).await {
                Ok(job) => {
                    let id = job.into_inner().id;
                    self.tell(&format!("first full backup of cell {primary}: job {id}"));
                    let job = self.follow(&id).await?;
                    if job.state() == JobState::Succeeded && self.holds_full_backup().await? {
                        return Ok(());
                    }
                    let error = job.error.unwrap_or_else(|| JobError {
                        message: format!(
                            "job {id} succeeded, and the repository holds no proven full backup"
                        ),
                        ..JobError::default()
                    });
                    if attempt >= MAX_ATTEMPTS {
                        let output = match error.tool_output.as_str() {
                            "" => String::new(),
                            output => format!("\n    {}", output.trim_end().replace('\n', "\n    ")),
                        };
                        return Err(self.backup_failed(format!("{}{output}", error.message), error.hint));
                    }
                    self.tell(&format!("first full backup failed ({}): trying again", error.message));
                    attempt += 1;
                    continue;
                }
                Err(status) => status,
            };
            match cellar_api::reason_of(&status) {
                Some(Code::Busy) => match holding {
                    // The job may wait for the repo itself.
                    Holding::Unknown(why) => {
                        let message =
                            format!("the repository cannot be read ({why}), and {}", status.message());
                        let hint = "make the repository readable; `cellar jobs cancel` ends the job that waits for it";
                        return Err(self.backup_failed(message, hint.to_owned()));
                    }
                    _ => self.wait_for_other(&status).await?,
                },
                // Another cell has become the primary since an earlier attempt.
                Some(Code::RequestIdReused) if attempt < MAX_ATTEMPTS => attempt += 1,
                Some(Code::NotPrimary) => primary = self.wait_for_primary().await?,
                _ if is_transient_refusal(&status) => {
                    self.check_deadline(&format!("multiadmin still answers: {}", status.message()))?;
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                _ => return Err(status.into()),
            }
        }
    }

    /// Waits for the job that a refusal names.
    async fn wait_for_other(&mut self, status: &tonic::Status) -> Result<()> {
        let info = status.get_details_error_info();
        match info.and_then(|info| info.metadata.get("job").cloned()) {
            Some(job) => {
                self.tell(&format!("waiting for job {job}, which holds the stanza"));
                self.follow(&job).await.map(drop)
            }
            None => {
                tokio::time::sleep(RETRY_INTERVAL).await;
                Ok(())
            }
        }
    }

    /// Follows a job until it has ended, through broken connections.
    async fn follow(&mut self, id: &str) -> Result<Job> {
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let mut client = self.cluster.admin_stream().await?;
        let mut phase = String::new();
        loop {
            let watch = async {
                let mut updates = client.watch_job(GetJobRequest { id: id.to_owned() }).await?.into_inner();
                while let Some(job) = updates.message().await? {
                    if is_terminal(job.state()) {
                        return Ok(Some(job));
                    }
                    let now = job.progress.map(|progress| progress.phase).unwrap_or_default();
                    if !now.is_empty() && now != phase {
                        self.tell(&format!("first full backup: {now}"));
                        phase = now;
                    }
                }
                Ok::<_, tonic::Status>(None)
            };
            match tokio::time::timeout_at(deadline, watch).await {
                Ok(Ok(Some(job))) => return Ok(job),
                Ok(Ok(None)) => {}
                Ok(Err(status)) if is_transient(&status) => {}
                Ok(Err(status)) => return Err(status.into()),
                Err(_) => {}
            }
            self.check_deadline(&format!("job {id} still runs"))?;
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proven_full_backup_without_page_errors_counts() {
        let backup = |kind: BackupType, verified: bool, error: bool| {
            counts(&Backup { r#type: kind.into(), verified, error, ..Backup::default() })
        };
        assert!(backup(BackupType::Full, true, false));
        assert!(
            !backup(BackupType::Full, false, false),
            "its job failed, or nobody knows where it came from"
        );
        assert!(!backup(BackupType::Full, true, true));
        assert!(!backup(BackupType::Incr, true, false));
    }
}
