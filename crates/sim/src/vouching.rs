//! What the operator has said of primaries that do not report, and whether it was true and stayed so.

use std::collections::{BTreeMap, BTreeSet};

use cellar_model::{DatabaseName, JobId, RequestId};
use cellar_topology::View;

/// The operator's words, by the jobs that were asked for with them.
#[derive(Debug)]
pub struct Vouching {
    database: DatabaseName,
    /// The cell that is said to be dead.
    words: BTreeMap<JobId, usize>,
    /// What was false, or became so before the job had ended: its cell was switched on again.
    broken: BTreeSet<JobId>,
    count: u64,
}

impl Vouching {
    /// Nothing was said yet.
    #[must_use]
    pub fn new(database: DatabaseName) -> Self {
        Self { database, words: BTreeMap::new(), broken: BTreeSet::new(), count: 0 }
    }

    /// The operator vouches for the death of a cell's primary. The id of the request.
    pub fn vouch(&mut self, cell: usize, is_true: bool) -> String {
        self.count += 1;
        let text = format!("vouched-{}", self.count);
        let request: RequestId = text.parse().unwrap_or_else(|_| unreachable!("a request id: {text}"));
        let job = JobId::for_request(&self.database, &request);
        self.words.insert(job, cell);
        if !is_true {
            self.broken.insert(job);
        }
        text
    }

    /// A cell's processes are started. Jobs that have neither taken effect nor ended were asked for on a word that does
    /// not hold any more.
    pub fn switch_on(&mut self, cell: usize, view: &View) {
        let has_effect = view.incarnation(&self.database).job;
        for (job, _) in self.words.iter().filter(|(_, said)| **said == cell) {
            let is_open = !view.jobs.contains_key(job) || !view.has_ended(job);
            if is_open && has_effect != Some(*job) {
                self.broken.insert(*job);
            }
        }
    }

    /// Whether a job was asked for on a word about this cell that was not true or not kept. What it did to a primary there
    /// that nobody could see is not Cellar's fault.
    #[must_use]
    pub fn is_broken(&self, job: &JobId, cell: usize) -> bool {
        self.broken.contains(job) && self.words.get(job) == Some(&cell)
    }
}
