//! Jobs of a cluster.

use std::time::Duration;

use serde_json::Value;

use crate::cluster::local::Cluster;
use crate::machine::wait::wait_for;

impl Cluster {
    /// Starts a backup without waiting; the job's id.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    #[track_caller]
    pub fn begin_backup(&self, cell: &str, backup_type: &str) -> String {
        let job = self.json(&["backup", "--from", cell, "--type", backup_type, "--no-wait"]);
        match job["id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("no job: {job}"),
        }
    }

    /// A job as multiadmin shows it.
    #[must_use]
    #[track_caller]
    pub fn job(&self, id: &str) -> Value {
        self.json(&["jobs", "show", id])
    }

    /// Waits until a job has ended, and returns it.
    #[must_use]
    #[track_caller]
    pub fn ended(&self, id: &str) -> Value {
        wait_for(&format!("job {id} to end"), Duration::from_secs(120), || {
            let job = self.job(id);
            let state = job["state"].as_str().unwrap_or_default();
            matches!(state, "JOB_STATE_SUCCEEDED" | "JOB_STATE_FAILED" | "JOB_STATE_CANCELED").then_some(job)
        })
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
}
