//! Following one job until it has ended.
//!
//! There is no task per watcher: the stream itself waits for the mirror, so nothing
//! remains when the caller hangs up. A slow caller sees fewer states, never stale ones.

use std::time::Duration;

use cellar_model::{Job, JobId, JobRecord, Key, Refusal};
use cellar_topology::View;
use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::jobs::stage::{claim_key, job_key, run_key};
use crate::refusal;

/// How long a watch goes on while etcd does not answer. Long enough for a restart of etcd: a
/// running backup continues meanwhile, and so should its progress bar.
const MAX_STALENESS: Duration = Duration::from_secs(60);

/// How often that is checked.
const STALENESS_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The revisions of all records that a job is shown from.
type Revisions = Vec<i64>;

struct Watcher {
    admin: Admin,
    id: JobId,
    changes: watch::Receiver<u64>,
    ending: watch::Receiver<bool>,
    shown: Option<Revisions>,
    done: bool,
}

impl Admin {
    /// The job now and at every change, until it has ended.
    pub(crate) async fn watch(
        &self,
        id: JobId,
        deadline: Deadline,
    ) -> Result<impl Stream<Item = Result<Job, Refusal>> + Send + use<>, Refusal> {
        self.job(id, deadline).await?;
        // A job found in etcd itself is about to appear in the mirror.
        let changes = self.mirror.changes();
        let _ = self.mirror.wait_for(deadline.remaining(), |view| view.knows(&id)).await;
        let watcher =
            Watcher { admin: self.clone(), id, changes, ending: self.ending(), shown: None, done: false };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        }))
    }
}

fn keys(record: &JobRecord) -> [Key; 3] {
    [job_key(record), run_key(record), claim_key(record)]
}

/// The revisions of a job's own records, those of its steps, and its lock.
fn revisions(view: &View, id: &JobId) -> Revisions {
    let Some(record) = view.jobs.get(id) else {
        let ended = view.ended.get(id);
        return ended.map(|ended| vec![ended.job_revision, ended.run_revision]).unwrap_or_default();
    };
    let steps = view.jobs.values().filter(|step| record.kind().is_driven() && step.parent == Some(*id));
    let of_jobs = std::iter::once(record).chain(steps).flat_map(keys);
    of_jobs.chain([Key::Lock(record.database.clone())]).map(|key| view.revision(&key)).collect()
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Job, Refusal>> {
        while !self.done {
            self.changes.borrow_and_update();
            match self.changed_job().await {
                Ok(Some(job)) => {
                    self.done = job.state.is_terminal();
                    return Some(Ok(job));
                }
                Ok(None) => {}
                Err(refusal) => {
                    self.done = true;
                    return Some(Err(refusal));
                }
            }
            tokio::select! {
                _ = self.changes.changed() => {}
                _ = self.ending.wait_for(|ending| *ending) => {
                    self.done = true;
                    return Some(Err(shutting_down()));
                }
                () = tokio::time::sleep(STALENESS_CHECK_INTERVAL) => {
                    if let Some(age) = self.admin.mirror.stale_for().filter(|age| *age > MAX_STALENESS) {
                        self.done = true;
                        return Some(Err(refusal::unavailable(&format!("no contact for {} s", age.as_secs()))));
                    }
                }
            }
        }
        None
    }

    /// The job, if it has changed since it was last shown.
    async fn changed_job(&mut self) -> Result<Option<Job>, Refusal> {
        let revisions = revisions(&self.admin.mirror.view(), &self.id);
        if self.shown.as_ref() == Some(&revisions) {
            return Ok(None);
        }
        self.shown = Some(revisions);
        let job = self.admin.known_job(self.id, Deadline::within(MAX_STALENESS)).await?;
        job.ok_or_else(|| refusal::unknown_job(self.id)).map(Some)
    }
}

/// The stream ends because this process shuts down.
pub(crate) fn shutting_down() -> Refusal {
    Refusal::new(cellar_model::Code::Unavailable, "this multiadmin is shutting down")
        .hint("the job continues; ask again, or ask another multiadmin")
}
