//! What must hold after every change of the store, and what must have come about once all is calm.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{
    DatabaseName, Incarnation, JobId, JobKind, JobRecord, JobState, Key, Keyspace, Timeline, join,
};
use cellar_topology::{Change, View};

use crate::outside::{Cell, Mark, Outside};
use crate::vouching::Vouching;

/// How long a job may look lost though its multipooler works: a lease's time and the look of a leader.
const MAX_LOST: Duration = Duration::from_secs(30);

/// What has been seen so far.
#[derive(Debug)]
pub struct Invariants {
    keys: Keyspace,
    database: DatabaseName,
    view: View,
    ended: BTreeMap<JobId, (JobState, String)>,
    incarnation: Incarnation,
    lost_since: BTreeMap<JobId, Duration>,
}

impl Invariants {
    /// Of a database.
    #[must_use]
    pub fn new(keys: Keyspace, database: DatabaseName) -> Self {
        Self {
            keys,
            database,
            view: View::default(),
            ended: BTreeMap::new(),
            incarnation: Incarnation::default(),
            lost_since: BTreeMap::new(),
        }
    }

    /// Everything that the store shows now.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The jobs that have not ended, with their states. One that had ended and is open again is found by
    /// [`Invariants::see`].
    fn open(&self) -> impl Iterator<Item = (&JobRecord, JobState)> {
        let open = self.view.jobs.values().filter(|record| !self.ended.contains_key(&record.id));
        open.map(|record| (record, self.view.state(record))).filter(|(_, state)| !state.is_terminal())
    }

    /// Takes in one change; returns what must not be.
    pub fn see(&mut self, change: &Change, outside: &Outside, vouching: &Vouching) -> Vec<String> {
        let parsed = self.keys.parse(change.key());
        let before = self.view.incarnation(&self.database);
        let holder = self.view.locks.get(&self.database).and_then(|lock| lock.holder);
        self.view.apply(&self.keys, change);
        let mut wrong = Vec::new();
        match parsed {
            Some(Key::Job(_, id) | Key::Run(_, _, id)) => self.see_job(id, outside, &mut wrong),
            Some(Key::Incarnation(_)) => {
                self.see_incarnation(&before, holder, (outside, vouching), &mut wrong);
            }
            _ => {}
        }
        wrong
    }

    fn see_job(&mut self, id: JobId, outside: &Outside, wrong: &mut Vec<String>) {
        let Some(record) = self.view.jobs.get(&id).cloned() else { return };
        let run = self.view.run(&record).cloned();
        let ended = run.as_ref().is_some_and(|run| run.state.is_terminal());
        if ended && record.closure.is_some() {
            wrong.push(format!("{} {id} has two outcomes", record.kind()));
        }
        let lock = self.view.locks.get(&record.database);
        let job = join(&record, run.as_ref(), self.view.claim(&record).is_some(), lock);
        let message = job.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
        if job.state.is_terminal() {
            if let Some((state, said)) = self.ended.get(&id)
                && (*state, said) != (job.state, &message)
            {
                wrong.push(format!(
                    "{} {id} was {} ({said}) and is {} ({message})",
                    record.kind(),
                    state.as_str(),
                    job.state.as_str()
                ));
            }
            let news = self.ended.insert(id, (job.state, message.clone())).is_none();
            // A lost job that only reads holds up nobody, so its work is not ended with its claim. Somebody who cancels it is
            // told that its outcome is not known.
            let only_reads = !record.kind().takes_lock() && record.parent.is_none();
            let is_unknown = only_reads && message.contains("not known");
            if news && outside.works_for(&id) && !is_unknown {
                wrong.push(format!(
                    "{} {id} is {} while pgBackRest works for it",
                    record.kind(),
                    job.state.as_str()
                ));
            }
            if news && record.kind() == JobKind::Backup {
                let made = outside.backups.iter().any(|backup| backup.job == id);
                if made != (job.state == JobState::Succeeded) && !message.contains("not known") {
                    wrong.push(format!(
                        "backup {id} is {} ({message}), and in the repository there is {}",
                        job.state.as_str(),
                        if made { "one" } else { "none" }
                    ));
                }
            }
            // A restore that took effect may end with what one of its steps says of itself.
            let says_nothing_done =
                message.ends_with("nothing was done") && !message.contains("the database is restored");
            if news && record.kind().is_driven() && says_nothing_done {
                let incarnation = &self.incarnation;
                if incarnation.job == Some(id) || incarnation.fence == Some(id) {
                    wrong.push(format!(
                        "{} {id} says that nothing was done, and it was: {message}",
                        record.kind()
                    ));
                }
            }
        } else if self.ended.contains_key(&id) {
            wrong.push(format!("{} {id} had ended and is {}", record.kind(), job.state.as_str()));
        }
    }

    fn see_incarnation(
        &mut self,
        before: &Incarnation,
        holder: Option<JobId>,
        (outside, vouching): (&Outside, &Vouching),
        wrong: &mut Vec<String>,
    ) {
        let now = self.view.incarnation(&self.database);
        self.incarnation = now.clone();
        for id in now.fence.into_iter().filter(|id| before.fence != Some(*id)) {
            if self.ended.contains_key(&id) || holder != Some(id) {
                wrong.push(format!("job {id} fences the database and does not hold its lock, or has ended"));
            }
        }
        if now.number == before.number {
            return;
        }
        // Numbers may be left out: a restore that was given up has marked data with one.
        let Some(id) = now.job.filter(|_| now.number > before.number) else {
            wrong.push(format!("incarnation {} follows {}", now.number, before.number));
            return;
        };
        let mark = Mark { number: now.number, job: Some(id) };
        if !outside.cells.iter().any(|cell| cell.has_data_of(mark)) {
            wrong.push(format!("job {id} took effect as incarnation {}, and no data is of that", now.number));
        }
        if self.ended.contains_key(&id) || holder != Some(id) {
            wrong.push(format!("job {id} took effect and does not hold the lock, or has ended"));
        }
        // A primary on a timeline that is recorded already could not record itself.
        let recorded = self.view.leaders.get(&self.database).map(|leader| leader.term).max(before.timeline);
        if now.timeline <= recorded {
            let shown = |timeline: Option<Timeline>| timeline.map(Timeline::get).unwrap_or_default();
            let (new, old) = (shown(now.timeline), shown(recorded));
            wrong.push(format!("job {id} took effect on timeline {new}, and {old} is recorded"));
        }
        let record = self.view.jobs.get(&id);
        let subject = record
            .filter(|record| record.kind() == JobKind::Rollback)
            .and_then(|record| record.spec.subject());
        if subject.is_some() && subject != before.job {
            wrong.push(format!("rollback {id} took effect though another restore came after its own"));
        }
        for (index, cell) in outside.cells.iter().enumerate() {
            if cell.is_primary() && !self.is_excused(index, id, vouching) {
                wrong.push(format!("job {id} took effect while the primary of cell {index} takes writes"));
            }
        }
    }

    /// Whether a primary takes writes beside a job that took effect only because the operator's word was wrong: the job
    /// went by it, and the primary has not reported since as far as anybody saw.
    fn is_excused(&self, cell: usize, job: JobId, vouching: &Vouching) -> bool {
        let dead = self.view.jobs.get(&job).and_then(|record| record.dead_primary.as_ref());
        dead.is_some_and(|dead| !dead.reported) && vouching.is_broken(&job, cell)
    }

    /// Looks at who takes writes: none whose data is from before the restore that stands.
    pub fn look_at_primaries(&mut self, outside: &Outside, vouching: &Vouching) -> Vec<String> {
        let Some(job) = self.incarnation.job else { return Vec::new() };
        let number = self.incarnation.number;
        let is_old = |cell: &Cell| {
            cell.is_primary() && cell.data.as_ref().is_some_and(|data| data.mark.number < number)
        };
        let old = outside.cells.iter().enumerate().filter(|(_, cell)| is_old(cell));
        old.filter(|(index, _)| !self.is_excused(*index, job, vouching))
            .map(|(index, _)| {
                format!("the primary of cell {index} takes writes, and its data is from before incarnation {number}")
            })
            .collect()
    }

    /// Looks at what may last only for a while. `works` says of a job whether its multipooler runs and is well
    /// connected.
    pub fn look(&mut self, now: Duration, works: impl Fn(&cellar_model::CellName) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let open = self.open();
        let lost = open.filter(|(record, state)| *state == JobState::Lost && works(&record.cell));
        let lost: Vec<JobId> = lost.map(|(record, _)| record.id).collect();
        self.lost_since.retain(|id, _| lost.contains(id));
        for id in lost {
            let since = *self.lost_since.entry(id).or_insert(now);
            if now - since > MAX_LOST {
                wrong.push(format!(
                    "job {id} looks lost for {} s though its multipooler is well",
                    MAX_LOST.as_secs()
                ));
                self.lost_since.insert(id, now);
            }
        }
        wrong
    }

    /// What has not come to rest; empty when all is well.
    #[must_use]
    pub fn unrest(&self, outside: &Outside) -> Vec<String> {
        let mut unrest = Vec::new();
        for (record, state) in self.open() {
            let (kind, id, cell, state) = (record.kind(), record.id, &record.cell, state.as_str());
            unrest.push(format!("{kind} {id} of {cell} is {state}"));
        }
        let incarnation = self.view.incarnation(&self.database);
        if let Some(fence) = incarnation.fence {
            unrest.push(format!("the database is fenced by {fence}"));
        }
        if let Some(job) = incarnation.job.filter(|_| incarnation.kept_in.is_some())
            && !self.view.jobs.contains_key(&job)
        {
            unrest
                .push(format!("restore {job} can be neither confirmed nor rolled back: its record is gone"));
        }
        if let Some(lock) = self.view.locks.get(&self.database)
            && (lock.holder.is_some() || !lock.queue.is_empty())
        {
            unrest.push("the lock is held".to_owned());
        }
        let primaries = outside.cells.iter().filter(|cell| cell.is_primary()).count();
        if primaries != 1 {
            unrest.push(format!("{primaries} primaries run"));
        }
        for (index, cell) in outside.cells.iter().enumerate() {
            if !cell.runs {
                unrest.push(format!("PostgreSQL of cell {index} does not run"));
            }
        }
        unrest
    }
}
