//! A multipooler: the real code that claims, runs and ends jobs, over a modelled PostgreSQL and pgBackRest.

mod instance;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellar_model::{
    BackupLabel, BackupParams, BackupResult, CLAIM_LEASE_SECONDS, CellName, Code, DatabaseName, FenceResult,
    Incarnation, InstanceState, JobError, JobId, JobKind, JobOutcome, JobRecord, JobSpec, Keyspace, LagClass,
    Leader, Lsn, OwnClaims, PoolerStatus, Progress, RebuildParams, RecoveryResult, RestorePlan, Role,
    SystemIdentifier, Target, Timeline,
};
use cellar_pooler::{
    ClaimOnCell, Claimed, ClaimedJob, Control, Ending, JobRunner, Member, interrupted_ending, run_lanes,
};
use cellar_system::clock;
use cellar_topology::{Kv, LeaseKeeper, Mirror, Scope, Store};
use tokio::sync::{Notify, watch};

use crate::outside::{Data, Mark, Outside, Work};
use crate::random::Chance;

/// How often a cell that cannot be claimed is claimed again.
const CLAIM_RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// The database's identity.
const IDENTITY: u64 = 7;

/// Everything that a multipooler of the simulation is made from.
#[derive(Debug, Clone)]
pub struct PoolerSetup {
    /// The database.
    pub database: DatabaseName,
    /// The cell.
    pub cell: CellName,
    /// The cell's index in [`Outside`].
    pub index: usize,
    /// All cells, by index.
    pub cells: Vec<CellName>,
    /// Where etcd's keys are.
    pub keys: Keyspace,
    /// What lies outside.
    pub outside: Rc<RefCell<Outside>>,
    /// Chance.
    pub chance: Chance,
}

struct Pooler {
    member: Rc<Member>,
    setup: PoolerSetup,
    /// A job has the instance to itself.
    held: Cell<bool>,
    nudge: Notify,
}

/// Runs a multipooler until it is killed.
pub async fn run(setup: PoolerSetup, kv: Arc<dyn Kv>) {
    let prefixes = setup.keys.watched_by_pooler(&setup.database, &setup.cell);
    let store = Store::new(Arc::clone(&kv), setup.keys.clone());
    let mirror = Mirror::start_with(&store, prefixes, Scope::OpenJobsOf(setup.cell.clone()));
    let remembered = setup.outside.borrow().cells[setup.index].claims.clone();
    let member = Rc::new(Member {
        database: setup.database.clone(),
        cell: setup.cell.clone(),
        epoch: clock::new_id().to_string(),
        store,
        mirror,
        lease: LeaseKeeper::start(kv, CLAIM_LEASE_SECONDS),
        claim: ClaimOnCell::new(setup.cell.to_string(), remembered),
    });
    while member.mirror.ready(Duration::from_secs(10)).await.is_err() {}
    let remember = async |own: &OwnClaims| {
        setup.outside.borrow_mut().cells[setup.index].claims = own.clone();
        Ok(())
    };
    while !matches!(member.claim_cell(member.card_revision(), remember).await, Ok(Claimed::Yes)) {
        tokio::time::sleep(CLAIM_RETRY_INTERVAL).await;
    }
    let pooler =
        Rc::new(Pooler { member: Rc::clone(&member), setup, held: Cell::new(false), nudge: Notify::new() });
    let (_stop, stopping) = watch::channel(false);
    let jobs = run_lanes(member, Rc::clone(&pooler), stopping);
    tokio::join!(jobs, pooler.report(), pooler.supervise());
}

fn failed(code: Code, message: &str) -> Ending {
    Ending::Failed(JobError {
        code,
        message: message.to_owned(),
        hint: String::new(),
        tool_output: String::new(),
    })
}

fn lsn(rows: u64) -> Lsn {
    Lsn::new(rows.max(1) * 100)
}

fn label(n: usize) -> BackupLabel {
    let text = format!("20260301-{:02}{:02}{:02}F", n / 3600 % 24, n / 60 % 60, n % 60);
    text.parse().unwrap_or_else(|_| unreachable!("a label: {text}"))
}

fn place_of(label: &BackupLabel) -> usize {
    let time = &label.as_str()[9..15];
    let part = |from: usize| time[from..from + 2].parse::<usize>().unwrap_or_default();
    part(0) * 3600 + part(2) * 60 + part(4)
}

/// The timeline on which a copy comes out: above every recorded one. That is also that of a restored primary which has
/// not recorded itself, or whose record is seen here later than that of the incarnation.
fn next_timeline(recorded: Option<Timeline>, restored: Option<Timeline>, from: u32) -> u32 {
    recorded.max(restored).map_or(from, |highest| highest.get().max(from)) + 1
}

impl Pooler {
    fn incarnation(&self) -> Incarnation {
        self.member.mirror.view().incarnation(&self.setup.database)
    }

    fn leader(&self) -> Option<Leader> {
        self.member.mirror.view().leaders.get(&self.setup.database).cloned()
    }

    fn mark(&self) -> Mark {
        let incarnation = self.incarnation();
        Mark { number: incarnation.number, job: incarnation.job }
    }

    fn here<T>(&self, look: impl FnOnce(&mut crate::outside::Cell) -> T) -> T {
        look(&mut self.setup.outside.borrow_mut().cells[self.setup.index])
    }

    fn index_of(&self, cell: &CellName) -> Option<usize> {
        self.setup.cells.iter().position(|other| other == cell)
    }

    /// The present status, without its time.
    fn status(&self) -> PoolerStatus {
        let leader = self.leader();
        let leads = leader.as_ref().and_then(|leader| self.index_of(&leader.cell));
        let outside = self.setup.outside.borrow();
        let cell = &outside.cells[self.setup.index];
        let primary = leads.map(|index| &outside.cells[index]);
        let follows = |data: &Data| {
            primary.is_some_and(|primary| {
                primary.is_primary() && primary.data.as_ref().is_some_and(|other| other.mark == data.mark)
            })
        };
        let mut status = PoolerStatus {
            database: self.setup.database.clone(),
            cell: self.setup.cell.clone(),
            epoch: self.member.epoch.clone(),
            pid: 1,
            state: if cell.runs { InstanceState::Running } else { InstanceState::Starting },
            message: String::new(),
            role: Role::Unknown,
            system_identifier: Some(SystemIdentifier::new(IDENTITY)),
            timeline: cell.data.as_ref().map(|data| Timeline::new(data.timeline)),
            streams_from: None,
            receive_lag: LagClass::Current,
            replay_lag: LagClass::Current,
            held_lsn: None,
            held_timeline: None,
            replays: std::collections::BTreeMap::new(),
            logical_slots: Vec::new(),
            archiver: cellar_model::Archiver::default(),
            versions: cellar_model::Versions {
                protocol: cellar_model::Protocol::OURS,
                ..cellar_model::Versions::default()
            },
            certificate_expiry: None,
            tls_server_up: true,
            tls_server_accepts: Vec::new(),
            incarnation: cell.highest_mark(),
            unreadable_records: Vec::new(),
            update_time: None,
        };
        if let (true, Some(data)) = (cell.runs, &cell.data) {
            status.role = if data.recovers { Role::Standby } else { Role::Primary };
            if data.recovers && follows(data) {
                status.streams_from = leader.map(|leader| leader.cell);
            }
        }
        status
    }

    /// Runs pgBackRest for a job: to its end, or until the job is interrupted.
    async fn pgbackrest(&self, job: &mut ClaimedJob, control: &Control, longest: u64) -> Result<(), Ending> {
        let length = self.setup.chance.between(Duration::from_millis(500), Duration::from_secs(longest));
        let (id, kind) = (job.record.id, job.record.kind());
        {
            let mut outside = self.setup.outside.borrow_mut();
            let ends = outside.now + length;
            let until = control.work_until(&self.member);
            outside.begin(Work { job: id, kind, cell: self.setup.index, ends, until });
        }
        let mut reported = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            if !self.setup.outside.borrow().works_for(&id) {
                return Ok(());
            }
            if let Some(why) = control.interrupted(&self.member) {
                self.setup.outside.borrow_mut().abort(&id);
                return Err(interrupted_ending(why, "pgBackRest was ended"));
            }
            self.setup.outside.borrow_mut().extend(&id, control.work_until(&self.member));
            if kind == JobKind::Backup && reported.elapsed() > Duration::from_secs(1) {
                reported = tokio::time::Instant::now();
                let progress = Progress {
                    phase: "copying".to_owned(),
                    bytes_done: 1,
                    bytes_total: 2,
                    ..Progress::default()
                };
                let _ = job.progress(&self.member, progress).await;
            }
        }
    }

    async fn backup(&self, job: &mut ClaimedJob, control: &Control, params: &BackupParams) -> Ending {
        let (runs, primary) = self.here(|cell| (cell.runs, cell.is_primary()));
        if !runs || (primary && !params.allow_primary) {
            return failed(Code::CellDown, "no healthy standby here");
        }
        if let Err(ending) = self.pgbackrest(job, control, 25).await {
            return ending;
        }
        self.backup_ending(&job.record.id)
    }

    fn backup_ending(&self, job: &JobId) -> Ending {
        let outside = self.setup.outside.borrow();
        match outside.backups.iter().position(|backup| backup.job == *job) {
            Some(n) => Ending::Succeeded(Some(JobOutcome::Backup(result(n)))),
            None => failed(Code::PgbackrestFailed, "no backup was made"),
        }
    }

    fn plan(&self, record: &JobRecord) -> Ending {
        let outside = self.setup.outside.borrow();
        let (JobSpec::Plan(params), Some(newest)) = (&record.spec, outside.backups.len().checked_sub(1))
        else {
            return failed(Code::UnknownBackup, "there is no backup");
        };
        let text = serde_json::json!({
            "target": params.target, "resolved": Target::Latest {}, "timeline": outside.backups[newest].data.timeline,
            "backup": label(newest), "why": "the newest", "walStart": "a", "walStop": "b",
        });
        match serde_json::from_value::<RestorePlan>(text) {
            Ok(plan) => Ending::Succeeded(Some(JobOutcome::Plan(plan))),
            Err(error) => failed(Code::Internal, &error.to_string()),
        }
    }

    async fn fence(&self, record: &JobRecord, control: &Control) -> Ending {
        let fenced =
            |view: &cellar_topology::View| view.incarnation(&self.setup.database).fence == record.parent;
        if self.member.mirror.wait_for(Duration::from_secs(20), fenced).await.is_err() {
            return failed(Code::Internal, "not fenced for this job");
        }
        self.held.set(true);
        tokio::time::sleep(self.setup.chance.between(Duration::from_millis(100), Duration::from_secs(3)))
            .await;
        let ending = if let Some(why) = control.interrupted(&self.member) {
            interrupted_ending(why, "the fence is lifted again")
        } else {
            let leads = self.leader().is_some_and(|leader| leader.cell == self.setup.cell);
            let result = self.here(|cell| {
                let data = cell.data.clone();
                let recovers = data.as_ref().is_some_and(|data| data.recovers);
                if !recovers {
                    cell.runs = false;
                }
                FenceResult {
                    was_primary: !recovers && data.is_some() && leads,
                    whole: data.is_some(),
                    timeline: Timeline::new(data.map_or(1, |data| data.timeline)),
                    last_segment: String::new(),
                }
            });
            Ending::Succeeded(Some(JobOutcome::Fence(result)))
        };
        self.held.set(false);
        ending
    }

    async fn recover(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        let (JobSpec::Recover(params), Some(parent)) = (job.record.spec.clone(), job.record.parent) else {
            return failed(Code::InvalidArgument, "no parameters");
        };
        if let Err(ending) = self.pgbackrest(job, control, 15).await {
            return ending;
        }
        let mark = Mark { number: params.incarnation, job: Some(parent) };
        let from = match (&params.set, params.kept) {
            (_, Some(kept)) => self.here(|cell| cell.kept.get(&kept).cloned()),
            (Some(set), None) => {
                let outside = self.setup.outside.borrow();
                outside
                    .backups
                    .get(place_of(set))
                    .map(|backup| Data { rows: outside.archived, ..backup.data.clone() })
            }
            (None, None) => None,
        };
        let Some(from) = from else { return failed(Code::UnknownBackup, "nothing to recover from") };
        let recorded = self.leader().map(|leader| leader.term);
        let timeline = next_timeline(recorded, self.incarnation().timeline, from.timeline);
        let data = Data { mark, timeline, rows: from.rows, recovers: false };
        self.here(|cell| match params.kept {
            Some(kept) => drop(cell.kept.insert(kept, data.clone())),
            None => drop(cell.restored.insert(parent, data.clone())),
        });
        let result = RecoveryResult {
            timeline: Timeline::new(timeline),
            from_timeline: Timeline::new(from.timeline),
            lsn: lsn(data.rows),
            last_commit: None,
            stopped: "the end".to_owned(),
            size_bytes: 1,
            restore_millis: 1,
            recovery_millis: 1,
        };
        Ending::Succeeded(Some(JobOutcome::Recovery(result)))
    }

    async fn swap(&self, record: &JobRecord, control: &Control) -> Ending {
        let committed =
            |view: &cellar_topology::View| view.incarnation(&self.setup.database).job == record.parent;
        let _ = self.member.mirror.wait_for(Duration::from_secs(20), committed).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(300);
        loop {
            self.nudge.notify_one();
            let mark = self.mark();
            let done =
                self.here(|cell| cell.is_primary() && cell.data.as_ref().is_some_and(|d| d.mark == mark));
            let recorded = self.leader().is_some_and(|leader| leader.cell == self.setup.cell);
            if done && recorded {
                return Ending::Succeeded(None);
            }
            if let Some(why) = control.interrupted(&self.member) {
                return interrupted_ending(why, "the multipooler goes on with it by itself");
            }
            if tokio::time::Instant::now() > deadline {
                return failed(Code::PostgresFailed, "the restored instance is not the primary");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn rebuild(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        let params = match &job.record.spec {
            JobSpec::Rebuild(params) => params.clone(),
            _ => RebuildParams::default(),
        };
        let Some(leader) = self.leader().filter(|leader| leader.cell != self.setup.cell) else {
            return failed(Code::IsPrimary, "only standbys are rebuilt");
        };
        if self
            .here(|cell| cell.is_primary() && cell.data.as_ref().is_some_and(|data| data.mark == self.mark()))
        {
            return failed(Code::IsPrimary, "it is a primary");
        }
        self.held.set(true);
        self.here(|cell| {
            cell.runs = false;
            if let (Some(keep), Some(data)) = (params.keep_for, cell.data.take()) {
                cell.kept.entry(keep).or_insert(data);
            }
        });
        let copied = self.pgbackrest(job, control, 10).await;
        if copied.is_ok() {
            self.seed(Some(&leader), self.mark());
        }
        self.held.set(false);
        if let Err(ending) = copied {
            return ending;
        }
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while self.status().streams_from.is_none() {
            if let Some(why) = control.interrupted(&self.member) {
                return interrupted_ending(why, "it goes on by itself");
            }
            if tokio::time::Instant::now() > deadline {
                return failed(Code::PostgresFailed, "it does not stream");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ending::Succeeded(None)
    }
}

fn result(n: usize) -> BackupResult {
    let text = serde_json::json!({
        "label": label(n), "type": "BACKUP_TYPE_FULL", "startLsn": "0/1", "stopLsn": "0/2", "walStart": "a",
        "walStop": "b", "sizeBytes": "1", "repoBytes": "1",
        "source": {
            "cell": "zone1", "dataDirectory": "/d", "systemIdentifier": IDENTITY.to_string(), "timeline": 1,
            "replayLsn": "0/1", "filesFromSource": "1", "filesFromPrimary": "1", "verified": true,
        },
    });
    serde_json::from_value(text).unwrap_or_else(|error| unreachable!("a result: {error}"))
}

impl JobRunner for Pooler {
    async fn run(&self, job: &mut ClaimedJob, control: &Control) -> Ending {
        let record = job.record.clone();
        match &record.spec {
            JobSpec::Backup(params) => self.backup(job, control, params).await,
            JobSpec::Rebuild(_) => self.rebuild(job, control).await,
            JobSpec::Plan(_) => {
                tokio::time::sleep(Duration::from_millis(700)).await;
                self.plan(&record)
            }
            JobSpec::Fence => self.fence(&record, control).await,
            JobSpec::Recover(_) => self.recover(job, control).await,
            JobSpec::Swap => self.swap(&record, control).await,
            JobSpec::Discard(subject) => {
                self.here(|cell| cell.kept.retain(|job, _| job != subject && Some(*job) != record.parent));
                Ending::Succeeded(None)
            }
            _ if record.kind().is_driven() => failed(Code::Internal, "driven"),
            // What changes nothing that the simulation has takes its time.
            _ => match self.pgbackrest(job, control, 20).await {
                Ok(()) => Ending::Succeeded(None),
                Err(ending) => ending,
            },
        }
    }

    async fn take_over(&self, job: &mut ClaimedJob, _control: &Control) -> Ending {
        let record = &job.record;
        if record.kind() == JobKind::Backup {
            return self.backup_ending(&record.id);
        }
        if let (JobKind::Recover, Some(parent)) = (record.kind(), record.parent) {
            let _ = self.here(|cell| cell.restored.remove(&parent));
        }
        failed(Code::PoolerRestarted, "the multipooler restarted")
    }

    async fn begin(&self) {}

    async fn idle(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_comes_out_above_the_timeline_of_a_restored_primary_that_is_not_recorded() {
        let on = |n| Some(Timeline::new(n));
        assert_eq!(next_timeline(None, None, 1), 2);
        assert_eq!(next_timeline(on(3), None, 1), 4);
        assert_eq!(next_timeline(on(3), on(4), 3), 5);
        assert_eq!(next_timeline(on(3), on(2), 6), 7);
    }
}
