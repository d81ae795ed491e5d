//! Giving up the records of jobs that have ended, as the view's scope says, and taking them in again when etcd was set
//! back to an older state.

use std::borrow::Cow;

use cellar_model::{CellName, DatabaseName, JobId, JobRecord, Key, Keyspace, Run};

use crate::view::ended_jobs::{EndedJob, Scope};
use crate::view::records::View;

/// Jobs that a listing must have for their summaries to stand.
#[derive(Debug, Default)]
pub(super) struct Expected {
    jobs: Vec<JobId>,
    runs: Vec<JobId>,
}

impl View {
    /// An empty view that will have the jobs of `scope`.
    #[must_use]
    pub(crate) fn of_scope(scope: Scope) -> Self {
        Self { scope, ..Self::default() }
    }

    /// Whether there is such a job, ended or not.
    #[must_use]
    pub fn knows(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.ended.contains_key(id)
    }

    /// The database and cell of a job, ended or not.
    #[must_use]
    pub fn place_of(&self, id: &JobId) -> Option<(&DatabaseName, &CellName)> {
        let open = self.jobs.get(id).map(|record| (&record.database, &record.cell));
        open.or_else(|| self.ended.get(id).map(|ended| (&ended.database, &ended.cell)))
    }

    /// Summaries of all jobs that have ended, those that the view has in full among them.
    pub fn ended_jobs(&self) -> impl Iterator<Item = (JobId, Cow<'_, EndedJob>)> {
        let whole = self.jobs.values().filter(|record| self.is_over(record)).map(|record| {
            let run = self.run(record);
            let revisions = (self.revision(&job_key(record)), self.revision(&run_key(record)));
            (record.id, Cow::Owned(EndedJob::of(record, run, revisions.0, revisions.1)))
        });
        self.ended.iter().map(|(id, ended)| (*id, Cow::Borrowed(ended))).chain(whole)
    }

    fn is_over(&self, record: &JobRecord) -> bool {
        record.closure.is_some() || self.run(record).is_some_and(|run| run.state.is_terminal())
    }

    /// Replaces the records of a job that has ended by a summary, if the scope says so and nothing needs the records.
    pub(super) fn settle(&mut self, id: &JobId) {
        let Some(record) = self.jobs.get(id).filter(|record| self.is_over(record)) else { return };
        let is_needed = match &self.scope {
            Scope::Everything => true,
            Scope::OpenJobs => {
                record.kind().is_driven()
                    || record
                        .parent
                        .and_then(|parent| self.jobs.get(&parent))
                        .is_some_and(|p| !self.is_over(p))
            }
            Scope::OpenJobsOf(_) => false,
        };
        if is_needed {
            return;
        }
        let (job, run) = (job_key(record), run_key(record));
        let summary = EndedJob::of(record, self.run(record), self.revision(&job), self.revision(&run));
        self.runs.remove(&(record.database.clone(), record.cell.clone(), record.id));
        self.revisions.remove(&job);
        self.revisions.remove(&run);
        self.jobs.remove(id);
        self.ended.insert(*id, summary);
    }

    /// Settles the steps of a job that has ended or is gone.
    pub(super) fn settle_steps(&mut self, parent: &JobId) {
        let steps: Vec<JobId> =
            self.jobs.values().filter(|step| step.parent == Some(*parent)).map(|step| step.id).collect();
        for step in &steps {
            self.settle(step);
        }
    }

    pub(super) fn settle_all(&mut self) {
        let all: Vec<JobId> = self.jobs.keys().copied().collect();
        for id in &all {
            self.settle(id);
        }
    }

    /// Takes in a job's record, unless the scope leaves it out.
    pub(super) fn insert_job(&mut self, record: JobRecord, revision: i64) {
        if let Scope::OpenJobsOf(cell) = &self.scope
            && record.cell != *cell
            && !record.kind().is_driven()
        {
            return;
        }
        let id = record.id;
        self.newer_jobs.remove(&id);
        if let Some(ended) = self.ended.get_mut(&id) {
            if record.closure.is_some() || !ended.closed {
                // A job that has ended stays so: its run is not looked at again.
                ended.closed = record.closure.is_some();
                ended.job_revision = revision;
                return;
            }
            self.reopen(&id);
        }
        self.revisions.insert(job_key(&record), revision);
        let is_over_and_driven = record.kind().is_driven() && record.closure.is_some();
        self.jobs.insert(id, record);
        if is_over_and_driven {
            self.settle_steps(&id);
        }
    }

    /// Takes in a run.
    pub(super) fn insert_run(&mut self, run: Run, revision: i64) {
        let of_run = |ended: &EndedJob| (&ended.database, &ended.cell) == (&run.database, &run.cell);
        if let Some(ended) = self.ended.get_mut(&run.id).filter(|ended| of_run(ended)) {
            if ended.closed || run.state.is_terminal() {
                ended.run_revision = revision;
                ended.start_time = Some(run.start_time);
                return;
            }
            self.reopen(&run.id);
        }
        let key = Key::Run(run.database.clone(), run.cell.clone(), run.id);
        self.revisions.insert(key, revision);
        self.runs.insert((run.database.clone(), run.cell.clone(), run.id), run);
    }

    /// Forgets that a job has ended: etcd was set back to a state from before its end. The records that were given up
    /// with its summary must be listed again.
    fn reopen(&mut self, id: &JobId) {
        self.ended.remove(id);
        self.is_behind = true;
    }

    /// Whether listings are needed that were made before the view knew better; asked once.
    pub(crate) fn take_behind(&mut self) -> bool {
        std::mem::take(&mut self.is_behind)
    }

    /// Prepares the summaries for a new listing of `prefix`. Returns those whose job, and those whose run, must be in it.
    pub(super) fn expect_listing(&mut self, keys: &Keyspace, prefix: &str) -> Expected {
        let mut expected = Expected::default();
        self.ended.retain(|id, ended| {
            let job = Keyspace::is_in_range(prefix, &keys.path(&Key::Job(ended.database.clone(), *id)));
            let run = Key::Run(ended.database.clone(), ended.cell.clone(), *id);
            let run = Keyspace::is_in_range(prefix, &keys.path(&run));
            if job && !run {
                ended.job_revision = 0;
                expected.jobs.push(*id);
            }
            if run && !job {
                ended.run_revision = 0;
                expected.runs.push(*id);
            }
            !(job && run)
        });
        expected
    }

    /// Takes in the jobs of a listing.
    pub(super) fn merge_jobs(&mut self, listed: &mut Self, expected: &Expected) {
        for (id, new) in std::mem::take(&mut listed.ended) {
            let known = self.ended.get(&id).map(|known| (known.run_revision, known.start_time));
            let run = Key::Run(new.database.clone(), new.cell.clone(), id);
            let followed = self.runs.remove(&(new.database.clone(), new.cell.clone(), id));
            let followed = followed.map(|run| run.start_time).zip(self.revisions.remove(&run));
            let known = known.or(followed.map(|(start, revision)| (revision, Some(start))));
            let (run_revision, start_time) = known.unwrap_or((new.run_revision, new.start_time));
            self.ended.insert(id, EndedJob { run_revision, start_time, ..new });
            self.jobs.remove(&id);
        }
        for (id, record) in std::mem::take(&mut listed.jobs) {
            let revision = listed.revision(&Key::Job(record.database.clone(), id));
            self.insert_job(record, revision);
        }
        for (key, run) in std::mem::take(&mut listed.runs) {
            let revision = listed.revision(&Key::Run(key.0, key.1, key.2));
            self.insert_run(run, revision);
        }
        self.ended.retain(|id, ended| ended.job_revision != 0 || !expected.jobs.contains(id));
        for id in &expected.runs {
            if self.ended.get(id).is_some_and(|ended| ended.run_revision == 0 && !ended.closed) {
                self.reopen(id);
            }
        }
        self.settle_all();
    }

    /// Removes the summary of a deleted job; notes that a run is deleted. Returns whether there was a summary.
    pub(super) fn remove_ended(&mut self, key: &Key) -> bool {
        match key {
            Key::Job(db, id) if self.ended.get(id).is_some_and(|ended| ended.database == *db) => {
                self.ended.remove(id);
                true
            }
            Key::Run(db, cell, id) => match self.ended.get_mut(id) {
                Some(ended) if (&ended.database, &ended.cell) == (db, cell) => {
                    // The job stays ended until it is deleted too, which it is in the same transaction.
                    ended.run_revision = 0;
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// The revision of a record of a job that has ended.
    pub(super) fn ended_revision(&self, key: &Key) -> Option<i64> {
        match key {
            Key::Job(db, id) => {
                self.ended.get(id).filter(|ended| ended.database == *db).map(|ended| ended.job_revision)
            }
            Key::Run(db, cell, id) => self
                .ended
                .get(id)
                .filter(|ended| (&ended.database, &ended.cell) == (db, cell))
                .map(|ended| ended.run_revision),
            _ => None,
        }
    }
}

fn job_key(record: &JobRecord) -> Key {
    Key::Job(record.database.clone(), record.id)
}

fn run_key(record: &JobRecord) -> Key {
    Key::Run(record.database.clone(), record.cell.clone(), record.id)
}
