//! The pooler's status in etcd: bound to its lease, written on change, at most once a second.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{
    InstanceState, Key, LagClass, Lsn, PoolerStatus, Protocol, Role, Timeline, Versions, timestamp_ms,
};
use cellar_pgbackrest::Version;
use cellar_postgres::InstanceFacts;
use cellar_system::LoopPulse;
use cellar_topology::{LeaseId, TxnOutcome};
use jiff::Timestamp;

use crate::agent::Agent;
use crate::data_layout::{Obstacle, obstacles};
use crate::services::server_files::UNCONFINED;
use crate::wal_files::timeline_of_wal;

/// The shortest time between two writes, so that a flapping instance does not load etcd.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait before a status that could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How often to look even when nothing seems to have changed.
const IDLE_INTERVAL: Duration = Duration::from_secs(60);

/// What is said of a primary whose commits have had no quorum for a while.
const COMMITS_WAIT: &str =
    "commits wait until enough standbys stream from here: `cellar explain` says whom the primary waits for";

/// The status that should be in etcd now, without its time.
fn status(agent: &Agent) -> PoolerStatus {
    let report = agent.report.borrow().clone();
    let facts = agent.facts.borrow();
    // The last facts say nothing about an instance that does not answer now.
    let facts = facts.as_ref().filter(|_| report.state == InstanceState::Running);
    let commits_wait =
        if agent.availability.isolated.get() { COMMITS_WAIT.to_owned() } else { String::new() };
    let mut status = PoolerStatus {
        database: agent.database.clone(),
        cell: agent.cell.clone(),
        epoch: agent.epoch.clone(),
        pid: std::process::id(),
        state: report.state,
        // The record has room for one message: the most urgent one.
        message: [report.message, commits_wait, report.certificate_problem, report.certificate_warning]
            .into_iter()
            .find(|message| !message.is_empty())
            .unwrap_or_default(),
        role: Role::Unknown,
        system_identifier: None,
        timeline: None,
        streams_from: None,
        receive_lag: LagClass::Unknown,
        replay_lag: LagClass::Unknown,
        held_lsn: None,
        held_timeline: None,
        replays: std::collections::BTreeMap::new(),
        logical_slots: Vec::new(),
        archiver: cellar_model::Archiver::default(),
        versions: Versions {
            postgres: facts.map(|f| f.server_version.clone()).unwrap_or_default(),
            pgbackrest: report.pgbackrest_version.map(|version| version.to_string()).unwrap_or_default(),
            multipooler: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: Protocol::OURS,
            notes: report
                .pgbackrest_version
                .and_then(Version::note)
                .into_iter()
                .chain(report.tls_server_unconfined.then(|| UNCONFINED.to_owned()))
                .chain(Some(report.pool_problem).filter(|problem| !problem.is_empty()))
                .chain(obstacles(&agent.layout.data()).into_iter().map(|obstacle: Obstacle| obstacle.note()))
                .collect(),
        },
        certificate_expiry: report.certificate_expiry,
        tls_server_up: report.tls_server_up,
        tls_server_accepts: report.tls_server_accepts,
        incarnation: report.highest_mark,
        unreadable_records: agent.mirror.view().unreadable.keys().take(20).cloned().collect(),
        update_time: None,
    };
    if let Some(facts) = facts {
        status.role = facts.role;
        status.system_identifier = Some(facts.system_identifier);
        status.timeline = Some(facts.timeline);
        status.archiver = facts.archiver.clone();
        let replays = facts.replays.numbers().into_iter();
        status.logical_slots.clone_from(&report.logical_slots);
        status.replays = replays.map(|(name, number)| (name.to_owned(), number)).collect();
        if facts.role == Role::Standby {
            status.streams_from = facts.streaming_from().and_then(|(host, port)| agent.cell_at(host, *port));
            let observed = facts.to_observed();
            if let Some(primary) = observed.primary_lsn {
                status.receive_lag =
                    facts.held_lsn().map_or(LagClass::Unknown, |at| LagClass::of(primary, at));
                status.replay_lag = LagClass::of(primary, observed.replay_lsn);
            }
        }
    }
    status
}

/// How far a standby without a WAL receiver has the WAL in `wal`, and on which timeline.
fn held(facts: &InstanceFacts, wal: &Path) -> Option<(Timeline, Lsn)> {
    if facts.role != Role::Standby || facts.wal_receiver.is_some() {
        return None;
    }
    Some((timeline_of_wal(wal, facts.timeline, facts.redo_lsn), facts.held_lsn()?))
}

/// The last status that etcd has confirmed.
struct Written {
    /// Without its time.
    status: PoolerStatus,
    lease: LeaseId,
    /// The revision of the key that the write has made.
    revision: i64,
}

impl Written {
    /// Whether it is still what etcd has, and what it should have. `revision` is that of the key as it was seen last, 0 when
    /// it is not there: others may have deleted it (the cell was removed and added again), and the lease may have expired while
    /// etcd did not answer. A higher one than ours is of an earlier write that was given up for want of an answer: what the
    /// kernel had already taken of it arrives when the network is whole again, and an old status would stay.
    fn stands(&self, wanted: &PoolerStatus, lease: LeaseId, revision: i64) -> bool {
        (&self.status, self.lease) == (wanted, lease) && (1..=self.revision).contains(&revision)
    }
}

/// Keeps the status in etcd up to date. Never returns.
pub(crate) async fn report(agent: Rc<Agent>, pulse: LoopPulse) {
    let key = Key::Status(agent.database.clone(), agent.cell.clone());
    let mut lease_changes = agent.lease.subscribe();
    let mut topology = agent.mirror.changes();
    let mut written: Option<Written> = None;
    let mut failing = false;
    let mut held_now = None;
    loop {
        pulse.beat();
        let mut wanted = status(&agent);
        // One that replays from the archive moves all the time, and its status is not written each time.
        let wal = agent.layout.data().join("pg_wal");
        let held_then = agent.facts.borrow().as_ref().and_then(|facts| held(facts, &wal));
        let held_before = std::mem::replace(&mut held_now, held_then);
        if let Some((timeline, lsn)) =
            held_now.filter(|_| held_now == held_before && wanted.role == Role::Standby)
        {
            (wanted.held_timeline, wanted.held_lsn) = (Some(timeline), Some(lsn));
        }
        let seen = agent.mirror.view().revision(&key);
        let stands = |lease| written.as_ref().is_some_and(|written| written.stands(&wanted, lease, seen));
        match agent.lease.current() {
            Some(lease) if !stands(lease) => {
                let mut record = wanted.clone();
                record.update_time = Some(timestamp_ms(Timestamp::now()));
                // A pooler without an address card is not part of the topology and does not report.
                if agent.card_of(&agent.cell).is_some() {
                    match agent.transaction().put_leased(&key, &record, lease).commit().await {
                        Ok(TxnOutcome::Committed(revision)) => {
                            written = Some(Written { status: wanted, lease, revision });
                            failing = false;
                        }
                        // This process has lost its claim on the cell, or does not know its last revision yet.
                        Ok(TxnOutcome::Conflict) => {
                            tokio::time::sleep(RETRY_INTERVAL).await;
                            continue;
                        }
                        Err(error) => {
                            // Once for each outage: without its status the cell is shown as down.
                            if !std::mem::replace(&mut failing, true) {
                                tracing::warn!(%error, "this cell's status cannot be written");
                            }
                            tokio::time::sleep(RETRY_INTERVAL).await;
                            continue;
                        }
                    }
                }
                tokio::time::sleep(WRITE_INTERVAL).await;
            }
            _ => {
                tokio::select! {
                    () = agent.reported.notified() => {}
                    _ = lease_changes.changed() => {}
                    _ = topology.changed() => {}
                    () = tokio::time::sleep(pulse.rest(IDLE_INTERVAL)) => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cellar_topology::{Kv, MemoryKv};

    use super::*;
    use crate::instance::leadership::tests::facts;

    #[test]
    fn standby_that_went_past_the_fork_of_a_timeline_does_not_hold_it() {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path();
        std::fs::write(wal.join("00000002.history"), "1\t0/5000000\tno recovery target specified\n").unwrap();
        std::fs::write(wal.join("000000020000000000000005"), "").unwrap();
        let held_from = |redo: u64| {
            let (redo_lsn, replay_lsn) = (Lsn::new(redo), Some(Lsn::new(0x600_0100)));
            let facts = InstanceFacts { redo_lsn, replay_lsn, ..facts(Role::Standby, 1, 7) };
            held(&facts, wal).map(|(timeline, _)| timeline.get())
        };
        assert_eq!(held_from(0x400_0028), Some(2), "it can follow");
        assert_eq!(held_from(0x600_0028), Some(1), "its own data has more of the timeline that was left");
        assert_eq!(held(&facts(Role::Primary, 1, 7), wal), None);
    }

    fn status(state: InstanceState) -> PoolerStatus {
        PoolerStatus {
            database: "app".parse().unwrap(),
            cell: "zone1".parse().unwrap(),
            epoch: "one".to_owned(),
            pid: 1,
            held_lsn: None,
            held_timeline: None,
            replays: std::collections::BTreeMap::new(),
            logical_slots: Vec::new(),
            incarnation: None,
            state,
            message: String::new(),
            role: Role::Unknown,
            system_identifier: None,
            timeline: None,
            streams_from: None,
            receive_lag: LagClass::Unknown,
            replay_lag: LagClass::Unknown,
            archiver: cellar_model::Archiver::default(),
            versions: Versions::default(),
            certificate_expiry: None,
            tls_server_up: true,
            tls_server_accepts: Vec::new(),
            unreadable_records: Vec::new(),
            update_time: None,
        }
    }

    #[tokio::test]
    async fn status_is_written_again_when_an_earlier_write_arrives_after_it() {
        let kv = MemoryKv::default();
        let (lease, another) = (kv.grant(20).await.unwrap(), kv.grant(20).await.unwrap());
        let (running, starting) = (status(InstanceState::Running), status(InstanceState::Starting));
        let written = Written { status: running.clone(), lease, revision: 20 };
        // What is seen may be from before our write, or is it.
        assert!(written.stands(&running, lease, 12) && written.stands(&running, lease, 20));
        assert!(!written.stands(&running, lease, 21), "somebody has written later");
        assert!(!written.stands(&running, lease, 0), "it is gone");
        assert!(!written.stands(&running, another, 20), "the lease is another one");
        assert!(!written.stands(&starting, lease, 20));
    }
}
