//! Following one job until it has ended.
//!
//! There is no task per watcher: the stream itself waits for the mirror, so a
//! caller that goes away takes everything with it. A slow caller sees fewer
//! states, never stale ones.

use std::time::Duration;

use cellar_model::{Job, JobId, JobRecord, Key, Refusal};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use crate::admin::Admin;
use crate::cancel::unknown_job;
use crate::deadline::Deadline;
use crate::ended::{claim_key, job_key, run_key};
use crate::refusal;

/// How long a watcher bears with an etcd that does not answer. Long enough for a restart: a
/// backup goes on meanwhile, and so should its progress bar.
const STALE_LIMIT: Duration = Duration::from_secs(60);

/// How often that is looked at.
const CHECK: Duration = Duration::from_secs(5);

/// Revisions of everything that a job's picture is made of.
type Stamp = [i64; 4];

struct Watcher {
    admin: Admin,
    id: JobId,
    keys: [Key; 4],
    changes: watch::Receiver<u64>,
    ending: watch::Receiver<bool>,
    shown: Option<Stamp>,
    done: bool,
}

impl Admin {
    /// The job now and at every change, until it has ended.
    pub(crate) async fn watch(
        &self,
        id: JobId,
        deadline: Deadline,
    ) -> Result<impl Stream<Item = Result<Job, Refusal>> + Send + use<>, Refusal> {
        let first = self.job(id, deadline).await?;
        // A job found in etcd itself is about to appear in the mirror.
        let changes = self.mirror.changes();
        let _ = self.mirror.wait_for(deadline.remaining(), |view| view.jobs.contains_key(&id)).await;
        let watcher = Watcher {
            admin: self.clone(),
            id,
            keys: keys(&first.record),
            changes,
            ending: self.ending(),
            shown: None,
            done: false,
        };
        Ok(stream::unfold(watcher, |mut watcher| async move {
            let item = watcher.next().await?;
            Some((item, watcher))
        }))
    }
}

fn keys(record: &JobRecord) -> [Key; 4] {
    [job_key(record), run_key(record), claim_key(record), Key::Lock(record.database.clone())]
}

impl Watcher {
    async fn next(&mut self) -> Option<Result<Job, Refusal>> {
        while !self.done {
            self.changes.borrow_and_update();
            match self.look() {
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
                () = tokio::time::sleep(CHECK) => {
                    if let Some(age) = self.admin.mirror.stale_for().filter(|age| *age > STALE_LIMIT) {
                        self.done = true;
                        return Some(Err(refusal::unavailable(&format!("no contact for {} s", age.as_secs()))));
                    }
                }
            }
        }
        None
    }

    /// The job, if it is not as it was last shown.
    fn look(&mut self) -> Result<Option<Job>, Refusal> {
        let view = self.admin.mirror.view();
        let stamp = self.keys.each_ref().map(|key| view.revision(key));
        if self.shown == Some(stamp) {
            return Ok(None);
        }
        self.shown = Some(stamp);
        let job = view.job(&self.id).ok_or_else(|| unknown_job(self.id))?;
        Ok(Some(job))
    }
}

/// The stream ends because this process does.
pub(crate) fn shutting_down() -> Refusal {
    Refusal::new(cellar_model::Code::Unavailable, "this multiadmin is shutting down")
        .hint("the job goes on; ask again, or ask another multiadmin")
}
