//! The jobs addressed to this cell: found, claimed, run one at a time in each lane, and ended with what happened.
//!
//! The [`JobRunner`] does what a job is for. Which job comes next, and who may begin and end it, is decided here from
//! the records in etcd, also when etcd's answers to earlier writes were lost.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{JobId, JobKind, JobRecord, JobState, Key, Lock, Protocol, claimable};
use cellar_system::clock;
use cellar_topology::StoreError;
use tokio::sync::watch;

use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::claim_lease::ClaimLease;
use crate::jobs::control::{Control, interrupted_ending};
use crate::member::Member;

/// How often a lane looks for a job even when the topology does not change.
const IDLE_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait after etcd did not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How long to wait before taking over an earlier process's job is tried again.
const TAKEOVER_INTERVAL: Duration = Duration::from_secs(1);

/// What runs jobs.
#[expect(async_fn_in_trait, reason = "everything of one pooler lives on one thread")]
pub trait JobRunner {
    /// Runs a job to its end.
    async fn run(&self, job: &mut ClaimedJob, control: &Control) -> Ending;

    /// Finds out how a job ended that an earlier process of this cell left running.
    async fn take_over(&self, job: &mut ClaimedJob, control: &Control) -> Ending;

    /// Called before the first job, after the jobs of earlier processes have been ended.
    async fn begin(&self);

    /// Called from time to time while there is nothing to do.
    async fn idle(&self);
}

/// Jobs that run one after the other. Jobs that take no lock have lanes of their own, so that a drill of hours keeps neither
/// a backup nor the plan of a restore waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    /// Jobs that take the database's lock.
    Locked,
    /// Jobs that read all of a backup or of the repo: drills and verifications. Two at once would be in each other's way.
    Reading,
    /// What takes seconds or minutes and somebody waits for: plans and checks.
    Short,
}

impl Lane {
    fn of(kind: JobKind) -> Self {
        match kind {
            kind if kind.takes_lock() => Self::Locked,
            JobKind::Drill | JobKind::Verify => Self::Reading,
            _ => Self::Short,
        }
    }
}

/// Jobs of this process.
#[derive(Debug, Default)]
struct Begun {
    /// Those that run now, with the leases of their claims.
    running: BTreeMap<JobId, Rc<ClaimLease>>,
    /// All that this process ever began. None of them is begun again, even when the mirror is behind etcd.
    ever: BTreeSet<JobId>,
}

struct Lanes<R> {
    member: Rc<Member>,
    runner: Rc<R>,
    begun: RefCell<Begun>,
    /// When this process first saw each job of its cell, by [`clock::uptime`].
    seen: RefCell<BTreeMap<JobId, Duration>>,
}

/// Runs jobs until `stop` becomes true; jobs that run then are ended first.
pub async fn run_lanes<R: JobRunner>(member: Rc<Member>, runner: Rc<R>, stop: watch::Receiver<bool>) {
    end_orphaned_jobs(&member, runner.as_ref(), &stop).await;
    runner.begin().await;
    let lanes = Lanes { member, runner, begun: RefCell::default(), seen: RefCell::default() };
    let keep_claims = lanes.keep_claims(stop.clone());
    tokio::join!(
        lanes.work(Lane::Locked, stop.clone()),
        lanes.work(Lane::Reading, stop.clone()),
        lanes.work(Lane::Short, stop),
        keep_claims
    );
}

/// The jobs that an earlier process of this cell left running on this machine.
fn orphaned_jobs(member: &Member) -> Vec<JobRecord> {
    let view = member.mirror.view();
    let left = view
        .runs
        .values()
        .filter(|run| run.cell == member.cell && run.state == JobState::Running && run.epoch != member.epoch)
        .filter(|run| member.is_own(&run.epoch));
    let open = |record: &&JobRecord| record.closure.is_none();
    left.filter_map(|run| view.jobs.get(&run.id)).filter(open).cloned().collect()
}

/// Ends every job that an earlier process left running. Tries until etcd answers.
async fn end_orphaned_jobs<R: JobRunner>(member: &Member, runner: &R, stop: &watch::Receiver<bool>) {
    for record in orphaned_jobs(member) {
        let job = loop {
            match ClaimedJob::inherit(member, &record).await {
                Ok(job) => break job,
                Err(StoreError::Corrupt { key, reason }) => {
                    tracing::error!(job = %record.id, key, reason, "cannot take over: a record cannot be read");
                    break None;
                }
                Err(error) => {
                    tracing::debug!(job = %record.id, %error, "cannot take over yet");
                    tokio::time::sleep(TAKEOVER_INTERVAL).await;
                }
            }
        };
        let Some(mut job) = job else { continue };
        tracing::info!(job = %record.id, "taking over a job that an earlier process left running");
        let control = Control::new(&job.record, job.claim_lease(), stop.clone(), Duration::ZERO);
        let ending = runner.take_over(&mut job, &control).await;
        job.finish(member, ending).await;
    }
}

impl<R: JobRunner> Lanes<R> {
    fn is_in(lane: Lane, record: &JobRecord) -> bool {
        Lane::of(record.kind()) == lane
    }

    /// Notes which jobs of this cell there are. How long one has waited when it begins is told by this process's own
    /// clock, which no other host's clock and no change of the wall clock puts out.
    fn note_jobs(&self) {
        let view = self.member.mirror.view();
        let mut seen = self.seen.borrow_mut();
        seen.retain(|id, _| view.jobs.contains_key(id));
        for record in view.jobs.values().filter(|record| record.cell == self.member.cell) {
            seen.entry(record.id).or_insert_with(clock::uptime);
        }
    }

    /// The job that may be claimed next.
    fn claimable(&self, lane: Lane) -> Option<JobId> {
        let view = self.member.mirror.view();
        let minimum = view.databases.get(&self.member.database).map(|database| database.minimum_protocol);
        if minimum.is_some_and(|minimum| minimum > Protocol::OURS) {
            return None;
        }
        let unlocked = Lock::default();
        let lock = view.locks.get(&self.member.database).unwrap_or(&unlocked);
        let mine = |record: &&JobRecord| record.cell == self.member.cell && Self::is_in(lane, record);
        view.jobs
            .values()
            .filter(mine)
            .find(|record| claimable(record, view.run(record), lock))
            .map(|record| record.id)
    }

    /// A run of this process that it never began: the claim was written, and etcd's answer was lost.
    fn unbegun(&self, lane: Lane) -> Option<JobId> {
        let view = self.member.mirror.view();
        let begun = self.begun.borrow();
        view.runs
            .values()
            .filter(|run| run.cell == self.member.cell && run.epoch == self.member.epoch)
            .filter(|run| run.state == JobState::Running && !begun.ever.contains(&run.id))
            .find(|run| {
                let record = view.jobs.get(&run.id);
                record.is_some_and(|record| record.closure.is_none() && Self::is_in(lane, record))
            })
            .map(|run| run.id)
    }

    async fn next(&self, lane: Lane) -> Result<Option<ClaimedJob>, StoreError> {
        if let Some(id) = self.unbegun(lane) {
            return ClaimedJob::adopt(&self.member, &id).await;
        }
        match self.claimable(lane) {
            Some(id) => ClaimedJob::take(&self.member, &id).await,
            None => Ok(None),
        }
    }

    async fn work(&self, lane: Lane, mut stop: watch::Receiver<bool>) {
        let mut topology = self.member.mirror.changes();
        while !*stop.borrow() {
            topology.borrow_and_update();
            if lane == Lane::Locked {
                // The claim of a process that has died since may have been written only now.
                end_orphaned_jobs(&self.member, self.runner.as_ref(), &stop).await;
            }
            match self.next(lane).await {
                Ok(Some(job)) => {
                    self.run(job, stop.clone()).await;
                    continue;
                }
                // Nothing to do; or taken, closed or canceled meanwhile, or no lease yet.
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "claim not written");
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
            }
            tokio::select! {
                biased;
                _ = topology.changed() => {}
                _ = stop.changed() => {}
                () = tokio::time::sleep(IDLE_INTERVAL) => {
                    if lane == Lane::Locked {
                        self.runner.idle().await;
                    }
                }
            }
        }
    }

    async fn run(&self, mut job: ClaimedJob, stop: watch::Receiver<bool>) {
        let id = job.record.id;
        {
            let mut begun = self.begun.borrow_mut();
            begun.running.insert(id, job.claim_lease());
            begun.ever.insert(id);
        }
        let seen = self.seen.borrow().get(&id).copied();
        let waited = seen.map_or(Duration::ZERO, |seen| clock::uptime().saturating_sub(seen));
        let control = Control::new(&job.record, job.claim_lease(), stop, waited);
        let ending = match control.interrupted(&self.member) {
            // The claim was answered late, as when this process stood still: the job may be closed by now, and another one
            // be at work in its place.
            Some(why) => interrupted_ending(why, "nothing was done"),
            None => self.runner.run(&mut job, &control).await,
        };
        job.finish(&self.member, ending).await;
        self.begun.borrow_mut().running.remove(&id);
    }

    /// Running jobs whose claim is missing, or bound to a lease that this process has lost. They look lost, or soon
    /// will.
    fn unclaimed(&self) -> Vec<(JobId, Rc<ClaimLease>)> {
        let view = self.member.mirror.view();
        let begun = self.begun.borrow();
        let running = begun.running.iter().map(|(id, lease)| (*id, Rc::clone(lease)));
        running
            .filter(|(id, lease)| {
                let claim = Key::Claim(self.member.database.clone(), self.member.cell.clone(), *id);
                !lease.is_current(&self.member) || view.revision(&claim) == 0
            })
            .collect()
    }

    /// Keeps the claims of running jobs: writes them again when the lease has changed, or when they are gone.
    async fn keep_claims(&self, mut stop: watch::Receiver<bool>) {
        let mut lease = self.member.lease.subscribe();
        let mut topology = self.member.mirror.changes();
        while !*stop.borrow() {
            lease.borrow_and_update();
            topology.borrow_and_update();
            self.note_jobs();
            let mut retry = false;
            for (id, claim_lease) in self.unclaimed() {
                if let Err(error) = ClaimedJob::claim_again(&self.member, &id, &claim_lease).await {
                    tracing::debug!(job = %id, %error, "the claim is not written again yet");
                    retry = true;
                }
            }
            let pause = if retry { RETRY_INTERVAL } else { IDLE_INTERVAL };
            tokio::select! {
                biased;
                _ = stop.changed() => {}
                changed = lease.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                _ = topology.changed(), if !retry => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_waits_for_is_behind_nothing_that_takes_hours() {
        let long = [JobKind::Backup, JobKind::Rebuild, JobKind::Expire, JobKind::Drill, JobKind::Verify];
        for short in [JobKind::Plan, JobKind::Check] {
            assert!(long.iter().all(|long| Lane::of(*long) != Lane::of(short)), "{short}");
        }
        assert_eq!(Lane::of(JobKind::Drill), Lane::of(JobKind::Verify), "one of them at a time");
        assert_ne!(Lane::of(JobKind::Drill), Lane::of(JobKind::Backup));
        assert_eq!(Lane::of(JobKind::Recover), Lane::of(JobKind::Backup), "one writer");
    }
}
