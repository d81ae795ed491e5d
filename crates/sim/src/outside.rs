//! What lies outside Cellar's processes and outlives them: PostgreSQL servers, data directories, the repository, and
//! pgBackRest at work. A model, as coarse as the decisions that are looked at here.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{JobId, JobKind, OwnClaims};

/// The mark of a data directory: which incarnation it belongs to, and which job made that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The incarnation's number.
    pub number: u32,
    /// The restore or rollback that made it.
    pub job: Option<JobId>,
}

/// A data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// Which incarnation it is of.
    pub mark: Mark,
    /// Its timeline.
    pub timeline: u32,
    /// How many rows it has.
    pub rows: u64,
    /// Whether it starts as a standby.
    pub recovers: bool,
}

/// One cell's host, without its multipooler.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// The data directory.
    pub data: Option<Data>,
    /// Old data that restores keep.
    pub kept: BTreeMap<JobId, Data>,
    /// Copies that restores have made and that are not in place yet.
    pub restored: BTreeMap<JobId, Data>,
    /// Whether PostgreSQL runs on the data directory.
    pub runs: bool,
    /// What the machine remembers of its claims on the cell.
    pub claims: OwnClaims,
}

impl Cell {
    /// Whether a server runs here that takes writes.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.runs && self.data.as_ref().is_some_and(|data| !data.recovers)
    }

    /// The data directory, and what is beside it.
    fn all_data(&self) -> impl Iterator<Item = &Data> {
        self.data.iter().chain(self.kept.values()).chain(self.restored.values())
    }

    /// The highest incarnation with which any data here is marked.
    #[must_use]
    pub fn highest_mark(&self) -> Option<u32> {
        self.all_data().map(|data| data.mark.number).max()
    }

    /// Whether any data here is of an incarnation.
    #[must_use]
    pub fn has_data_of(&self, mark: Mark) -> bool {
        self.all_data().any(|data| data.mark == mark)
    }
}

/// A backup in the repository.
#[derive(Debug, Clone)]
pub struct StoredBackup {
    /// The job that made it.
    pub job: JobId,
    /// The data in it.
    pub data: Data,
}

/// pgBackRest at work for a job.
#[derive(Debug, Clone)]
pub struct Work {
    /// The job.
    pub job: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Where.
    pub cell: usize,
    /// When it is done.
    pub ends: Duration,
    /// When its watchdog kills it, unless its multipooler gives it more time.
    pub until: Option<Duration>,
}

/// Everything outside.
#[derive(Debug, Default)]
pub struct Outside {
    /// Time since the simulation began.
    pub now: Duration,
    /// The cells by index.
    pub cells: Vec<Cell>,
    /// The repository.
    pub backups: Vec<StoredBackup>,
    /// Rows in the archive, by the mark of the primary that sent them.
    pub archived: u64,
    /// What runs.
    pub works: Vec<Work>,
    /// How often work was begun for each job.
    pub begun: BTreeMap<JobId, u32>,
    /// What went wrong, for good.
    pub violations: Vec<String>,
}

impl Outside {
    /// Begins work. Says so when that must not be.
    pub fn begin(&mut self, work: Work) {
        let times = self.begun.entry(work.job).or_default();
        *times += 1;
        if *times > 1 {
            let violation = format!("{} {} is run a second time", work.kind, work.job);
            self.violations.push(violation);
        }
        // Steps of one restore work beside each other, in different cells; beside these two kinds nothing does.
        let alone = |kind: JobKind| matches!(kind, JobKind::Backup | JobKind::Expire);
        let excludes = |other: &&Work| {
            let both = work.kind.takes_lock() && other.kind.takes_lock();
            both && other.job != work.job && (alone(work.kind) || alone(other.kind))
        };
        let others = self.works.iter().filter(excludes);
        let beside: Vec<String> = others.map(|other| format!("{} {}", other.kind, other.job)).collect();
        if !beside.is_empty() {
            self.violations.push(format!("{} {} works beside {}", work.kind, work.job, beside.join(", ")));
        }
        self.works.push(work);
    }

    /// Whether the work of a job still runs.
    #[must_use]
    pub fn works_for(&self, job: &JobId) -> bool {
        self.works.iter().any(|work| work.job == *job)
    }

    /// Gives the work of a job time until then.
    pub fn extend(&mut self, job: &JobId, until: Option<Duration>) {
        for work in self.works.iter_mut().filter(|work| work.job == *job) {
            work.until = until;
        }
    }

    /// Ends the work of a job without effect.
    pub fn abort(&mut self, job: &JobId) {
        self.works.retain(|work| work.job != *job);
    }

    /// Ends all work of a cell without effect: its multipooler has died, and with it its children.
    pub fn abort_all_of(&mut self, cell: usize) {
        self.works.retain(|work| work.cell != cell);
    }

    /// Lets time pass: primaries take writes, standbys follow, work ends.
    pub fn advance(&mut self, now: Duration) {
        self.now = now;
        let primary = self.cells.iter().find(|cell| cell.is_primary()).and_then(|cell| cell.data.clone());
        for cell in &mut self.cells {
            let primary_here = cell.is_primary();
            if let (true, Some(data)) = (cell.runs, &mut cell.data) {
                if primary_here {
                    data.rows += 1;
                } else if let Some(primary) = primary.as_ref().filter(|primary| primary.mark == data.mark) {
                    data.rows = data.rows.max(primary.rows);
                    data.timeline = data.timeline.max(primary.timeline);
                }
            }
        }
        if let Some(primary) = &primary {
            self.archived = self.archived.max(primary.rows);
        }
        self.works.retain(|work| work.until.is_none_or(|until| now < until));
        let (ended, going): (Vec<Work>, Vec<Work>) =
            std::mem::take(&mut self.works).into_iter().partition(|work| work.ends <= now);
        self.works = going;
        for work in ended {
            if work.kind == JobKind::Backup
                && let Some(data) = self.cells[work.cell].data.clone()
            {
                self.backups.push(StoredBackup { job: work.job, data });
            }
        }
    }
}
