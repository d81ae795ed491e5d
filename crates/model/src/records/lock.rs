//! One writer per stanza: the database's lock and the queue behind it.
//!
//! pgBackRest's own locks are per host, so this is the only one that holds
//! across cells. A holder that has ended no longer counts, whether or not
//! anybody has tidied up yet: release needs no message that could be lost.

use serde::{Deserialize, Serialize};

use crate::records::job::id::JobId;

/// Jobs that may wait for one database.
const MAX_QUEUE: usize = 32;

/// Which job may write to the stanza, and which wait. Written by multiadmin only.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lock {
    /// The job that may run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<JobId>,
    /// The jobs that follow, first come first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queue: Vec<JobId>,
}

/// What a new job gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockDecision {
    /// It holds the lock when this record is written.
    Granted(Lock),
    /// It waits when this record is written.
    Queued(Lock),
    /// Refused: this job holds the lock.
    Busy(JobId),
    /// Refused: too many wait already.
    QueueFull,
}

impl Lock {
    /// The lock after everything that has ended is out of it and the first that
    /// waits has moved up.
    #[must_use]
    pub fn advanced(&self, ended: impl Fn(&JobId) -> bool) -> Self {
        let mut alive = self.holder.iter().chain(&self.queue).filter(|id| !ended(id)).copied();
        Self { holder: alive.next(), queue: alive.collect() }
    }

    /// Asks for the lock on behalf of a new job. Never displaces anybody.
    #[must_use]
    pub fn request(&self, job: JobId, may_wait: bool, ended: impl Fn(&JobId) -> bool) -> LockDecision {
        let mut lock = self.advanced(ended);
        match lock.holder {
            None => {
                lock.holder = Some(job);
                LockDecision::Granted(lock)
            }
            Some(_) if may_wait && lock.queue.len() >= MAX_QUEUE => LockDecision::QueueFull,
            Some(_) if may_wait => {
                lock.queue.push(job);
                LockDecision::Queued(lock)
            }
            Some(holder) => LockDecision::Busy(holder),
        }
    }

    /// The jobs in front of `job`, nearest to running first; empty when it holds the lock
    /// or is not here.
    #[must_use]
    pub fn in_front_of(&self, job: &JobId) -> Vec<JobId> {
        match self.queue.iter().position(|id| id == job) {
            Some(at) => self.holder.iter().chain(&self.queue[..at]).copied().collect(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn id(n: u128) -> JobId {
        JobId::new(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn second_job_is_refused_naming_the_holder() {
        let LockDecision::Granted(lock) = Lock::default().request(id(1), false, |_| false) else { panic!() };
        assert_eq!(lock.request(id(2), false, |_| false), LockDecision::Busy(id(1)));
        let LockDecision::Queued(lock) = lock.request(id(2), true, |_| false) else { panic!() };
        assert_eq!(lock.in_front_of(&id(2)), vec![id(1)]);
        assert_eq!(lock.advanced(|job| *job == id(1)).holder, Some(id(2)));
    }

    #[test]
    fn queue_is_bounded() {
        let lock = Lock { holder: Some(id(1)), queue: (10..10 + MAX_QUEUE as u128).map(id).collect() };
        assert_eq!(lock.request(id(2), true, |_| false), LockDecision::QueueFull);
    }

    proptest! {
        /// Whatever is asked and whatever ends, no job is displaced or lost, and the order holds.
        #[test]
        fn first_come_first_served(steps in proptest::collection::vec((0u8..3, 0usize..40), 1..120)) {
            let mut lock = Lock::default();
            let mut ended = BTreeSet::new();
            let mut expected: Vec<JobId> = Vec::new();
            for (n, (what, which)) in steps.into_iter().enumerate() {
                if what == 2 {
                    if let Some(job) = expected.get(which % expected.len().max(1)).copied() {
                        ended.insert(job);
                        expected.retain(|id| *id != job);
                    }
                    continue;
                }
                let job = id(n as u128 + 1);
                match lock.request(job, what == 1, |id| ended.contains(id)) {
                    LockDecision::Granted(new) => {
                        prop_assert!(expected.is_empty());
                        expected.push(job);
                        lock = new;
                    }
                    LockDecision::Queued(new) => { expected.push(job); lock = new; }
                    LockDecision::Busy(holder) => prop_assert_eq!(holder, expected[0]),
                    LockDecision::QueueFull => prop_assert!(expected.len() > MAX_QUEUE),
                }
                let now = lock.advanced(|id| ended.contains(id));
                prop_assert_eq!(now.holder.into_iter().chain(now.queue).collect::<Vec<_>>(), expected.clone());
            }
        }
    }
}
