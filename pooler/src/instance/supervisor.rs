//! The supervisor: brings PostgreSQL from an empty directory to streaming, and keeps it running.
//!
//! Each round looks at the data directory and the instance. An instance that runs is watched, or stopped when a restore
//! says so; for one that does not run, [`crate::instance::bring_up`] takes the next step. A restart of the agent loses
//! nothing but the count of failures.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_model::{Database, InstanceState, Pooler, Role};
use cellar_postgres::{
    DataDirectory, InstanceConfig, InstanceFacts, PostgresError, Postmaster, PostmasterState, Probe,
    StopTimeouts, configure, inspect, keep_ours, reload, running, stop,
};
use cellar_system::{LoopPulse, Process, clock};

use crate::agent::{Agent, Look, PROBE_TIMEOUT};
use crate::config_files::{ConfigFileError, instance_config, sync_pgbackrest};
use crate::data_layout::tablespaces;
use crate::instance::bring_up::BringUp;
use crate::instance::failover::is_led_here;
use crate::instance::first_checkpoint::FirstCheckpoint;
use crate::instance::member_slots::MemberSlots;
use crate::instance::must_stop::must_stop;
use crate::instance::orphans::Orphans;
use crate::instance::preparation::Preparation;
use crate::instance::round::{Outcome, RoundError, mark_seeded, report_state};
use crate::instance::shared_tablespaces::check_no_shared_tablespaces;
use crate::instance::socket_place::{is_private, socket_elsewhere};
use crate::instance::superuser::SuperuserLogin;
use crate::instance::{incarnation, leadership};
use crate::repository::stanza;

/// How long a primary that is not the recorded one waits before it checks whether the record is true, and how often.
/// A primary that has just been promoted is recorded long before.
const RECORD_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How long a standby whose settings are too small for the WAL goes without a WAL receiver before it is started again.
/// PostgreSQL tries to connect every 5 s (`wal_retrieve_retry_interval`), and loses its receiver when the primary restarts.
const STUCK_TIMEOUT: Duration = Duration::from_secs(6);

/// How long a WAL receiver must have been there to count as streaming. One that its primary refuses ends within
/// milliseconds, on a busy host within a few hundred.
const RECEIVER_TRIAL: Duration = Duration::from_millis(900);

/// How often a round takes place even when nothing changes.
const ROUND_INTERVAL: Duration = Duration::from_secs(1);

/// The time between rounds while the primary of a new database is about to be ready to be copied.
const SOON_INTERVAL: Duration = Duration::from_millis(250);

/// The shortest time between a round and one for a change of the topology, which may change many times a second.
const SETTLE_INTERVAL: Duration = Duration::from_millis(50);

/// Steps that are taken one after the other before the topology is looked at again.
const MAX_STEPS: u32 = 4;

/// Longest pause after repeated failures.
const MAX_PAUSE: Duration = Duration::from_secs(30);

struct Supervisor {
    agent: Rc<Agent>,
    probe: Option<Probe>,
    bring_up: BringUp,
    /// Whether the primary that runs has its roles and stanza.
    preparation: Preparation,
    first_checkpoint: FirstCheckpoint,
    orphans: Orphans,
    /// The WAL that a primary keeps for members.
    member_slots: MemberSlots,
    /// Whether jobs can log in.
    superuser: SuperuserLogin,
    /// Failed rounds in a row.
    failures: u32,
    /// What is wrong without keeping the instance from running.
    note: String,
    /// The WAL receiver of the round before, and since when it has been there.
    receiver: Option<(i32, Instant)>,
    /// Since when this is a primary and another one is recorded.
    not_recorded_since: Option<Instant>,
    /// Since when its replay is paused and it receives nothing.
    stuck_since: Option<Instant>,
    /// It ran when it was last looked at, and nobody has stopped it since.
    ran: bool,
    /// It ended, and neither this process nor a job of it has done that.
    ended_alone: bool,
    /// How often a job had had the instance when it was last looked at.
    holds: u64,
    /// What the service manager's watchdog sees of it.
    pulse: LoopPulse,
}

/// Keeps the instance as it should be. Never returns.
pub(crate) async fn supervise(agent: Rc<Agent>, pulse: LoopPulse) {
    let mut topology = agent.mirror.changes();
    let mut this = Supervisor {
        agent: Rc::clone(&agent),
        probe: None,
        bring_up: BringUp::default(),
        preparation: Preparation::default(),
        first_checkpoint: FirstCheckpoint::default(),
        orphans: Orphans::default(),
        member_slots: MemberSlots::default(),
        superuser: SuperuserLogin::default(),
        failures: 0,
        note: String::new(),
        receiver: None,
        not_recorded_since: None,
        stuck_since: None,
        ran: false,
        ended_alone: false,
        holds: 0,
        pulse,
    };
    loop {
        topology.borrow_and_update();
        let mut pause = this.round_in_turn().await;
        // Steps follow each other without a pause, for instance from a finished restore to a running standby.
        for _ in 0..MAX_STEPS {
            if pause != Some(Duration::ZERO) {
                break;
            }
            pause = this.round_in_turn().await;
        }
        tokio::select! {
            () = tokio::time::sleep(this.pulse.rest(pause.unwrap_or(ROUND_INTERVAL))) => {}
            // A job has given the instance back, or waits for what a round does.
            () = agent.nudge.notified() => continue,
            // After a failure the whole pause is waited: a busy topology must not turn it into a busy loop.
            _ = topology.changed(), if this.failures == 0 => {}
        }
        tokio::time::sleep(SETTLE_INTERVAL).await;
    }
}

impl Supervisor {
    /// As [`Supervisor::round`]; none when a job has the instance.
    async fn round_in_turn(&mut self) -> Option<Duration> {
        self.pulse.beat();
        let agent = Rc::clone(&self.agent);
        let Some(_round) = agent.instance_lock.round().await else {
            // Whatever becomes of the instance, the job does it.
            (self.ran, self.ended_alone) = (false, false);
            return None;
        };
        // A job may have stopped it between two rounds.
        if std::mem::replace(&mut self.holds, agent.instance_lock.holds()) != agent.instance_lock.holds() {
            (self.ran, self.ended_alone) = (false, false);
        }
        Some(self.round().await)
    }

    /// Looks and acts once. Returns the pause until the next round; zero after a step was taken.
    async fn round(&mut self) -> Duration {
        let (card, database) = match self.agent.assignment() {
            Ok(assignment) => assignment,
            Err(refusal) => {
                *self.agent.facts.borrow_mut() = None;
                report_state(&self.agent, InstanceState::Unknown, &refusal.message);
                return ROUND_INTERVAL;
            }
        };
        self.agent.refresh_listening(&card).await;
        let highest_mark = incarnation::highest_mark(&self.agent.layout);
        if self.agent.report.borrow().highest_mark != highest_mark {
            self.agent.update_report(|report| report.highest_mark = highest_mark);
        }
        match self.look_and_act(&card, &database).await {
            Ok(Outcome::Progress) => {
                self.failures = 0;
                Duration::ZERO
            }
            Ok(Outcome::Settled) => {
                self.failures = 0;
                ROUND_INTERVAL
            }
            Ok(Outcome::Soon) => {
                self.failures = 0;
                SOON_INTERVAL
            }
            Err(error) => {
                tracing::warn!(%error, "the instance is not as it should be");
                let state = if self.agent.layout.seeding_marker().exists() {
                    InstanceState::Broken
                } else {
                    InstanceState::Down
                };
                report_state(&self.agent, state, &error.to_string());
                self.failures += 1;
                pause_after(self.failures)
            }
        }
    }

    async fn look_and_act(&mut self, card: &Pooler, database: &Database) -> Result<Outcome, RoundError> {
        let data = Path::new(&card.data_directory);
        match sync_pgbackrest(&self.agent, database, card) {
            Ok(true) => self.agent.config_changed.notify_one(),
            Ok(false) => {}
            // Without the passphrase or credentials a running instance is watched on, but none is started: whatever needs
            // the repo would fail, and the old config may hold a secret that was withdrawn.
            Err(error @ (ConfigFileError::Passphrase(_) | ConfigFileError::Credentials(_))) => {
                if running(data)?.is_none() {
                    return Err(error.into());
                }
                self.note = error.to_string();
            }
            // Another cell's record that cannot be rendered must not stop the supervision of this instance. The file
            // stays as it was.
            Err(error) if Path::new(&card.config_path).exists() => self.note = error.to_string(),
            Err(error) => return Err(error.into()),
        }
        let Some(postmaster) = running(data)? else {
            *self.agent.facts.borrow_mut() = None;
            self.preparation = Preparation::default();
            self.member_slots.end(&self.agent);
            self.ended_alone |= std::mem::take(&mut self.ran);
            if self.ended_alone && database.pause.is_some() {
                let message = "PostgreSQL ended and is not started again: the database is paused. `cellar resume` ends that";
                report_state(&self.agent, InstanceState::Down, message);
                return Ok(Outcome::Settled);
            }
            if let Some(why) = self.orphans.clear(data)? {
                report_state(&self.agent, InstanceState::Down, &why);
                return Ok(Outcome::Soon);
            }
            // It may copy a whole database.
            self.pulse.excuse();
            return self.bring_up.step(&self.agent, card, database).await;
        };
        if let Some(timeouts) = must_stop(&self.agent, data) {
            *self.agent.facts.borrow_mut() = None;
            let availability = &self.agent.availability;
            let why = match availability.stop.get() {
                Some(why) => format!("is being stopped: {why}"),
                None if availability.frozen.get() => "is being killed: its postmaster is stopped".to_owned(),
                None if availability.hands_over.get() => "makes room for another primary".to_owned(),
                None if availability.replace.get() => "is being stopped, to be made again".to_owned(),
                None => "is being stopped for a restore of the database".to_owned(),
            };
            report_state(&self.agent, InstanceState::Waiting, &why);
            // A primary writes its checkpoint first.
            self.pulse.excuse();
            self.ran = false;
            stop(data, &timeouts).await?;
            availability.frozen.set(false);
            return Ok(Outcome::Progress);
        }
        if is_private(&postmaster, &self.agent.layout.temporary()) {
            // A job's, whose process was killed: no client reaches it, and no job goes on with it.
            tracing::warn!(
                pid = postmaster.pid,
                "a private instance runs in the data directory; stopping it"
            );
            self.pulse.excuse();
            stop(data, &StopTimeouts::immediate()).await?;
            return Ok(Outcome::Progress);
        }
        if postmaster.state == PostmasterState::Stopping {
            self.wait_for_shutdown(&postmaster);
            return Ok(Outcome::Settled);
        }
        if let Some(elsewhere) = socket_elsewhere(&postmaster, Path::new(&card.socket_directory)) {
            self.note = elsewhere;
        }
        self.watch(card, database, &postmaster).await
    }

    /// A smart shutdown waits for the last session to end. That must not be ours: the server would answer us without end
    /// and accept no other client.
    fn wait_for_shutdown(&mut self, postmaster: &Postmaster) {
        self.probe = None;
        *self.agent.facts.borrow_mut() = None;
        let message = format!(
            "PostgreSQL was told to shut down and waits for its clients to leave; then it is started again (`kill -INT {}` ends their sessions)",
            postmaster.pid
        );
        report_state(&self.agent, InstanceState::Down, &message);
    }

    /// The instance runs: ask it for its facts, and keep its files up to date.
    async fn watch(
        &mut self,
        card: &Pooler,
        database: &Database,
        postmaster: &Postmaster,
    ) -> Result<Outcome, RoundError> {
        (self.ran, self.ended_alone) = (true, false);
        let config = instance_config(&self.agent, database, card, self.agent.leader().as_ref())?;
        let data = Path::new(&card.data_directory);
        // Written only when the wanted config has changed, so that an operator's ALTER SYSTEM is not undone every second.
        let applied = self.bring_up.applied.as_ref();
        if applied.is_some_and(|applied| applied != &config && applied.differs_in_slots_only(&config)) {
            // Standbys come and go.
            keep_ours(data, &config)?;
            reload(data)?;
            self.bring_up.applied = Some(config.clone());
        } else if applied != Some(&config) {
            configure(data, &config)?;
            // Also when the files were right: a process that was killed may have written them and not said so.
            reload(data)?;
            self.bring_up.applied = Some(config.clone());
        } else if let Err(error) = put_back(data, &config) {
            // Such as a full disk, which does not make an instance that runs another one than it is.
            self.note = error.to_string();
        }
        let endpoint = self.agent.endpoint(card);
        let probe = match &mut self.probe {
            Some(probe) if *probe.endpoint() == endpoint => probe,
            other => other.insert(Probe::new(endpoint.clone(), PROBE_TIMEOUT)),
        };
        let begun = clock::uptime();
        let mut facts = match probe.facts().await {
            Ok(facts) => facts,
            Err(error) => {
                *self.agent.facts.borrow_mut() = None;
                let state = if matches!(error, PostgresError::NotReady(_)) {
                    InstanceState::Starting
                } else {
                    InstanceState::Down
                };
                report_state(&self.agent, state, &error.to_string());
                return Ok(Outcome::Settled);
            }
        };
        let standing = incarnation::standing(&self.agent, Path::new(&card.data_directory));
        let current = standing.as_ref().is_ok_and(|standing| standing.current);
        let known = standing.as_ref().ok().map(|standing| standing.current);
        let stopped = Process::find(postmaster.pid).is_some_and(|process| process.is_stopped());
        let look = Look { begun, incarnation: incarnation::record(&self.agent), current: known, stopped };
        let recorded = current && leadership::record(&self.agent, &facts).await?;
        if recorded || facts.role == Role::Standby {
            self.member_slots.go_on(&self.agent, &endpoint, &facts, data);
        }
        if facts.role == Role::Primary && recorded {
            // It removes WAL that members may need, but for what their slots keep.
            if self.member_slots.are_kept() {
                self.first_checkpoint.look(&facts, &endpoint);
            }
            let going_on = self.preparation.go_on(&self.agent, &endpoint, (card, database), &self.pulse);
            if let Some(why) = going_on.await {
                why.clone_into(&mut self.note);
            }
        }
        // Behind what a primary needs, which fails for the same reason and does not say what to do.
        if let Some(why) = self.superuser.look(&endpoint).await {
            self.note = why;
        }
        self.check_record(&facts, current && !recorded).await?;
        // Before it is confirmed: also a receiver that has just begun belongs to a standby that is in use.
        let serves = facts.wal_receiver.is_some() && self.agent.governing().is_none();
        if !facts.replay_paused || serves {
            self.stuck_since = None;
        }
        let is_receiver_new = confirm_receiver(&mut self.receiver, &mut facts);
        if facts.replay_paused {
            match self.paused(Path::new(&card.data_directory), &facts).await? {
                Some(note) => self.note = note,
                None => return Ok(Outcome::Progress),
            }
        }
        if !tablespaces(Path::new(&card.data_directory)).is_empty()
            && let Err(refusal) = check_no_shared_tablespaces(&self.agent)
        {
            self.note = refusal.message;
        }
        let message = match (facts.role, recorded, self.agent.leader()) {
            _ if let Err(error) = &standing => error.to_string(),
            // It was promoted, and its term is about to be established.
            (Role::Primary, false, Some(_)) if is_leading(&self.agent) => String::new(),
            (Role::Primary, false, Some(leader)) => format!(
                "this instance is a primary on timeline {}, but {} is the recorded one on timeline {}: stop or rebuild one of them",
                facts.timeline, leader.cell, leader.term
            ),
            _ if !current => {
                "its data is from before the restore of the database; it is going to be rebuilt".to_owned()
            }
            _ => std::mem::take(&mut self.note),
        };
        let (identity, role) = (facts.system_identifier, facts.role);
        *self.agent.facts.borrow_mut() = Some(facts);
        *self.agent.look.borrow_mut() = Some(look);
        report_state(&self.agent, InstanceState::Running, &message);
        // A disk that is full does not make an instance that runs another one than it is.
        if let Err(error) = mark_seeded(&self.agent, &identity.to_string()) {
            self.note = error.to_string();
        }
        // The stanza is made before any standby is: one that is promoted must not make it in a directory that is not mounted.
        if role == Role::Standby
            && let Err(error) = stanza::remember(&self.agent)
        {
            self.note = error.to_string();
        }
        Ok(if is_receiver_new { Outcome::Soon } else { Outcome::Settled })
    }

    /// What to say of a standby whose replay is paused; none when it was stopped, to be started again with greater
    /// settings. Only one that has received nothing for a while is stopped: it cannot catch up, and is of no use as it
    /// is. One that receives may have readers; a person decides when they are to be interrupted. Not so with quorum commit,
    /// where it could not be promoted.
    async fn paused(&mut self, data: &Path, facts: &InstanceFacts) -> Result<Option<String>, RoundError> {
        let DataDirectory::Valid { control, .. } = inspect(&self.agent.tools, data).await? else {
            return Ok(Some(String::new()));
        };
        let Some((name, has, needs)) = facts.replays.first_below(&control.required) else {
            return Ok(Some(
                "replay is paused, as pg_wal_replay_pause() does: pg_wal_replay_resume() ends it".to_owned(),
            ));
        };
        let serves = facts.wal_receiver.is_some() && self.agent.governing().is_none();
        if !serves && self.stuck_since.get_or_insert_with(Instant::now).elapsed() >= STUCK_TIMEOUT {
            self.stuck_since = None;
            tracing::warn!(name, has, needs, "the WAL demands more; PostgreSQL is started again");
            *self.agent.facts.borrow_mut() = None;
            self.pulse.excuse();
            self.ran = false;
            stop(data, &StopTimeouts::default()).await?;
            return Ok(None);
        }
        Ok(Some(format!(
            "replay is paused: {name} is {has} here, and the primary has {needs}. `cellar restart {}` has it take the primary's value",
            self.agent.cell
        )))
    }

    /// A primary that is not the recorded one checks from time to time whether the record is true.
    async fn check_record(&mut self, facts: &InstanceFacts, not_recorded: bool) -> Result<(), RoundError> {
        if facts.role != Role::Primary || !not_recorded {
            self.not_recorded_since = None;
        } else if self.not_recorded_since.get_or_insert_with(Instant::now).elapsed() >= RECORD_CHECK_INTERVAL
        {
            leadership::correct(&self.agent, facts).await?;
            self.not_recorded_since = None;
        }
        Ok(())
    }
}

/// Puts back what somebody else has changed of the files that are Cellar's alone, and has PostgreSQL read them.
fn put_back(data: &Path, config: &InstanceConfig) -> Result<(), PostgresError> {
    let changed = keep_ours(data, config)?;
    if changed.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        files = changed.join(", "),
        "somebody changed what Cellar writes there; it was put back and loaded"
    );
    reload(data)
}

/// Whether quorum commit has this member lead.
fn is_leading(agent: &Agent) -> bool {
    agent.governing().is_some_and(|record| is_led_here(agent, &record))
}

/// Takes a WAL receiver that has not been there for [`RECEIVER_TRIAL`] for one that only starts: PostgreSQL calls it
/// streaming before its primary has let it stream, and one that may not ends at once. True when there is such a one.
fn confirm_receiver(since: &mut Option<(i32, Instant)>, facts: &mut InstanceFacts) -> bool {
    let seen = facts.wal_receiver.as_ref().map(|receiver| receiver.pid);
    if since.map(|(pid, _)| pid) != seen {
        *since = seen.map(|pid| (pid, Instant::now()));
    }
    let is_new = since.is_some_and(|(_, since)| since.elapsed() < RECEIVER_TRIAL);
    if let Some(receiver) = facts.wal_receiver.as_mut().filter(|_| is_new) {
        "starting".clone_into(&mut receiver.status);
    }
    is_new
}

/// The pause after `failures` failed rounds in a row: 2, 4, 8, 16, 30, 30 … s.
fn pause_after(failures: u32) -> Duration {
    ROUND_INTERVAL.saturating_mul(1 << failures.min(5)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let seconds: Vec<u64> = (1..7).map(|failures| pause_after(failures).as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 30, 30]);
    }
}
