//! What a multipooler does beside its jobs: it reports, and starts, stops and rebuilds its instance.

use std::time::Duration;

use cellar_model::{Key, Leader, SystemIdentifier, Timeline};
use cellar_topology::TxnOutcome;

use crate::outside::{Data, Mark};
use crate::pooler::{IDENTITY, Pooler};

impl Pooler {
    /// Writes the status on change, bound to the lease, at most once a second.
    pub(super) async fn report(&self) {
        let key = Key::Status(self.setup.database.clone(), self.setup.cell.clone());
        let mut written = None;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Some(lease) = self.member.lease.current() else { continue };
            let status = self.status();
            if written.as_ref() == Some(&(lease, status.clone())) {
                continue;
            }
            let put = self.member.transaction().put_leased(&key, &status, lease).commit().await;
            written = matches!(put, Ok(TxnOutcome::Committed(_))).then_some((lease, status));
        }
    }

    /// Starts, stops and rebuilds the instance as etcd has it.
    pub(super) async fn supervise(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            if self.held.get()
                || self.member.mirror.stale_for().is_some_and(|age| age > Duration::from_secs(5))
            {
                continue;
            }
            self.supervise_once().await;
        }
    }

    async fn supervise_once(&self) {
        let (incarnation, leader, mark) = (self.incarnation(), self.leader(), self.mark());
        let left_alone = incarnation.job.is_none_or(|job| self.member.mirror.view().has_ended(&job));
        let leads = leader.as_ref().is_some_and(|leader| leader.cell == self.setup.cell);
        let current = self.here(|cell| cell.data.as_ref().is_some_and(|data| data.mark == mark));
        let successor = self.here(|cell| {
            let made = incarnation.job.filter(|_| incarnation.cell.as_ref() == Some(&self.setup.cell))?;
            let kept = cell.kept.iter().find(|(_, data)| data.mark == mark).map(|(job, _)| (*job, true));
            cell.restored.get(&made).filter(|data| data.mark == mark).map(|_| (made, false)).or(kept)
        });
        let waits = incarnation.fence.is_some() || !left_alone || leads;
        if self.here(|cell| cell.runs) {
            let primary = self.here(|cell| cell.is_primary());
            if !current && (primary || successor.is_some() || !waits) {
                self.here(|cell| cell.runs = false);
                self.nudge.notify_one();
            } else if primary {
                self.record_leadership(leader.as_ref()).await;
            }
            return;
        }
        if let (false, Some((from, was_kept))) = (current, successor) {
            self.here(|cell| {
                let new = if was_kept { cell.kept.remove(&from) } else { cell.restored.remove(&from) };
                if let (Some(old), Some(made)) = (cell.data.take(), incarnation.job) {
                    cell.kept.insert(made, old);
                }
                cell.data = new;
            });
            self.nudge.notify_one();
            return;
        }
        if !current {
            if !waits {
                self.seed(leader.as_ref(), mark);
            }
            return;
        }
        let recovers = self.here(|cell| cell.data.as_ref().is_some_and(|data| data.recovers));
        let deposed = self.here(|cell| {
            let timeline = cell.data.as_ref().map_or(0, |data| data.timeline);
            leader
                .as_ref()
                .is_some_and(|leader| leader.cell != self.setup.cell && leader.term.get() > timeline)
        });
        if !recovers && (incarnation.fence.is_some() || deposed) {
            return;
        }
        self.here(|cell| cell.runs = true);
    }

    /// Copies the leader's data, as a restore from the repository and streaming would.
    pub(super) fn seed(&self, leader: Option<&Leader>, mark: Mark) {
        let Some(from) = leader.and_then(|leader| self.index_of(&leader.cell)) else { return };
        let mut outside = self.setup.outside.borrow_mut();
        let source = outside.cells[from].data.clone().filter(|data| data.mark == mark);
        if let (Some(data), true) = (source, outside.cells[from].runs) {
            let cell = &mut outside.cells[self.setup.index];
            cell.data = Some(Data { recovers: true, ..data });
            cell.runs = true;
        }
    }

    async fn record_leadership(&self, present: Option<&Leader>) {
        let timeline = self.here(|cell| cell.data.as_ref().map_or(0, |data| data.timeline));
        if present.is_some_and(|leader| leader.term.get() >= timeline) {
            return;
        }
        let key = Key::Leader(self.setup.database.clone());
        let revision = self.member.mirror.view().revision(&key);
        let leader = Leader {
            cell: self.setup.cell.clone(),
            term: Timeline::new(timeline),
            system_identifier: Some(SystemIdentifier::new(IDENTITY)),
            lsn: None,
            leadership: None,
        };
        let _ = self.member.transaction().expect(&key, revision).put(&key, &leader).commit().await;
    }
}
