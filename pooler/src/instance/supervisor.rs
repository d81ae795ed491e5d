//! PostgreSQL, from nothing to streaming, and kept there.
//!
//! Each round looks at the data directory and the instance, asks [`next_step`]
//! when it does not run, and acts. Nothing is remembered that a restart of the
//! agent would lose, except how often something failed.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_model::{Database, InstanceState, Pooler, Role};
use cellar_pgbackrest::StanzaStatus;
use cellar_postgres::{
    InstanceConfig, InstanceFacts, PostgresError, PostmasterState, Probe, StopTimeouts, configure,
    ensure_roles, inspect, reload, running, start, stop,
};
use cellar_topology::StoreError;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::config_files::{ConfigFileError, instance_config, sync_pgbackrest};
use crate::instance::next_step::{Situation, Step, next_step};
use crate::instance::seed::{self, SeedError};
use crate::instance::{incarnation, leadership};
use crate::jobs::rebuild;
use crate::repository::stanza::{self, StanzaError};

/// How long a primary that is not the recorded one bears with that before it asks whether the record is true, and how
/// often. Whoever has just been promoted has said so long before.
const DOUBT: Duration = Duration::from_secs(5);

/// A round without any reason.
const TICK: Duration = Duration::from_secs(1);

/// A round while the primary of a new database is about to be ready to be copied.
const SOON: Duration = Duration::from_millis(250);

/// The topology may change many times a second; rounds do not.
const SETTLE: Duration = Duration::from_millis(50);

/// Steps that are taken one after the other before the topology is looked at again.
const MOST_STEPS: u32 = 4;

/// Longest pause after repeated failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How long a start may take before the next round looks at it again.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A start that takes longer is reported while it lasts.
const BRIEF: Duration = Duration::from_millis(800);

/// A round failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error(transparent)]
    Stanza(#[from] StanzaError),
    #[error(transparent)]
    Seed(#[from] SeedError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot write {0}: {1}")]
    Marker(PathBuf, std::io::Error),
}

/// How a round ended.
enum Outcome {
    /// Something was done: look again at once.
    Progress,
    /// All is as it should be, or only time can help.
    Settled,
    /// Another cell is about to do what is awaited: look again soon.
    Soon,
}

struct Supervisor {
    agent: Rc<Agent>,
    probe: Option<Probe>,
    /// What was last put into the data directory by this process.
    applied: Option<InstanceConfig>,
    /// Whether the primary that runs has its roles and stanza.
    prepared: bool,
    failures: u32,
    /// How often copying the primary failed.
    failed_copies: u32,
    /// What is wrong without keeping the instance from running.
    note: String,
    /// Since when this is a primary and another one is recorded.
    not_ours_since: Option<Instant>,
}

/// Keeps the instance as it should be, for ever.
pub(crate) async fn supervise(agent: Rc<Agent>) {
    let mut topology = agent.mirror.changes();
    let mut this = Supervisor {
        agent: Rc::clone(&agent),
        probe: None,
        applied: None,
        prepared: false,
        failures: 0,
        failed_copies: 0,
        note: String::new(),
        not_ours_since: None,
    };
    loop {
        topology.borrow_and_update();
        let mut pause = if agent.held.get() { TICK } else { this.round().await };
        // One thing leads to the next: from a finished restore to a running standby without a rest.
        for _ in 0..MOST_STEPS {
            if !pause.is_zero() || agent.held.get() {
                break;
            }
            pause = this.round().await;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = agent.nudge.notified() => {}
            // After a failure the pause is kept: a busy topology must not turn it into a busy loop.
            _ = topology.changed(), if this.failures == 0 => {}
        }
        tokio::time::sleep(SETTLE).await;
    }
}

impl Supervisor {
    async fn round(&mut self) -> Duration {
        let (card, database) = match self.agent.place() {
            Ok(place) => place,
            Err(refusal) => {
                *self.agent.facts.borrow_mut() = None;
                self.say(InstanceState::Unknown, &refusal.message);
                return TICK;
            }
        };
        match self.look_and_act(&card, &database).await {
            Ok(Outcome::Progress) => {
                self.failures = 0;
                Duration::ZERO
            }
            Ok(Outcome::Settled) => {
                self.failures = 0;
                TICK
            }
            Ok(Outcome::Soon) => {
                self.failures = 0;
                SOON
            }
            Err(error) => {
                tracing::warn!(%error, "the instance is not as it should be");
                let state = if self.agent.seeding_marker().exists() {
                    InstanceState::Broken
                } else {
                    InstanceState::Down
                };
                self.say(state, &error.to_string());
                self.failures += 1;
                // 1, 2, 4 … 30 s.
                TICK.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE)
            }
        }
    }

    async fn look_and_act(&mut self, card: &Pooler, database: &Database) -> Result<Outcome, RoundError> {
        match sync_pgbackrest(&self.agent, database, card) {
            Ok(true) => self.agent.config_changed.notify_one(),
            Ok(false) => {}
            // With the passphrase gone, the instance that runs is cared for and none is started: whatever needs the
            // repo would fail, and the file that is left may hold a passphrase that somebody took back.
            Err(error @ ConfigFileError::Passphrase(_)) => {
                if running(Path::new(&card.data_directory))?.is_none() {
                    return Err(error.into());
                }
                self.note = error.to_string();
            }
            // Some other cell's record that cannot be rendered must not stop the care for this instance:
            // the file stays as it was.
            Err(error) if Path::new(&card.config_path).exists() => self.note = error.to_string(),
            Err(error) => return Err(error.into()),
        }
        if let Some(postmaster) = running(Path::new(&card.data_directory))? {
            match self.may_not_run(card) {
                Some(timeouts) => {
                    *self.agent.facts.borrow_mut() = None;
                    stop(Path::new(&card.data_directory), &timeouts).await?;
                    Ok(Outcome::Progress)
                }
                None if postmaster.state == PostmasterState::Stopping => {
                    // Somebody's smart shutdown waits for the last session, which must not be ours: it would answer us
                    // for ever and let nobody else in.
                    self.probe = None;
                    *self.agent.facts.borrow_mut() = None;
                    let message = format!(
                        "PostgreSQL was told to shut down and waits for its clients to leave; then it is started again (`kill -INT {}` ends their sessions)",
                        postmaster.pid
                    );
                    self.say(InstanceState::Down, &message);
                    Ok(Outcome::Settled)
                }
                None => self.watch_over(card, database).await,
            }
        } else {
            *self.agent.facts.borrow_mut() = None;
            self.prepared = false;
            self.raise(card, database).await
        }
    }

    /// Whether what runs must be stopped, and how, because a restore of the database says so.
    ///
    /// Decided by the files alone: an instance that does not answer takes writes all the same.
    fn may_not_run(&self, card: &Pooler) -> Option<StopTimeouts> {
        let data = Path::new(&card.data_directory);
        let standing = incarnation::standing(&self.agent, data);
        let recovers = data.join("standby.signal").exists();
        let at_once = StopTimeouts { fast: Duration::ZERO, ..StopTimeouts::default() };
        if !standing.current {
            let replaced = incarnation::successor(&self.agent).is_some();
            let reseeds = standing.left_alone && !standing.fenced;
            if !recovers || replaced || reseeds {
                tracing::warn!(recovers, replaced, "this data is from before a restore: stopping PostgreSQL");
                // What it would archive now is not the database's.
                return Some(at_once);
            }
        } else if standing.fenced && !recovers {
            tracing::info!("a restore wants no more writes: stopping PostgreSQL");
            // Cleanly, so that all that it acknowledged is archived.
            return Some(StopTimeouts::default());
        }
        None
    }

    /// The instance runs: see what it says, and keep its files up to date.
    async fn watch_over(&mut self, card: &Pooler, database: &Database) -> Result<Outcome, RoundError> {
        let config = instance_config(&self.agent, database, card, self.agent.leader().as_ref())?;
        // Only when what it should be has changed, so that an operator's ALTER SYSTEM is not undone every second.
        if self.applied.as_ref() != Some(&config) {
            let data = Path::new(&card.data_directory);
            if configure(data, &config)? {
                reload(data)?;
            }
            self.applied = Some(config);
        }
        let endpoint = self.agent.endpoint(card);
        let probe = match &mut self.probe {
            Some(probe) if *probe.endpoint() == endpoint => probe,
            other => other.insert(Probe::new(endpoint.clone(), PROBE_TIMEOUT)),
        };
        let facts = match probe.facts().await {
            Ok(facts) => facts,
            Err(error) => {
                *self.agent.facts.borrow_mut() = None;
                let state = if matches!(error, PostgresError::NotReady(_)) {
                    InstanceState::Starting
                } else {
                    InstanceState::Down
                };
                self.say(state, &error.to_string());
                return Ok(Outcome::Settled);
            }
        };
        let current = incarnation::standing(&self.agent, Path::new(&card.data_directory)).current;
        let recorded = current && leadership::record(&self.agent, &facts).await?;
        if facts.role == Role::Primary && recorded && !self.prepared {
            ensure_roles(&endpoint, &self.agent.user.name, PROBE_TIMEOUT).await?;
            stanza::ensure(&self.agent, database, card).await?;
            self.prepared = true;
        }
        self.doubt_the_record(&facts, current && !recorded).await?;
        let message = match (facts.role, recorded, self.agent.leader()) {
            (Role::Primary, false, Some(leader)) => format!(
                "this instance is a primary on timeline {}, but {} is the recorded one on timeline {}: stop or rebuild one of them",
                facts.timeline, leader.cell, leader.term
            ),
            _ if !current => {
                "its data is from before the restore of the database; it is going to be rebuilt".to_owned()
            }
            _ => std::mem::take(&mut self.note),
        };
        let identity = facts.system_identifier;
        *self.agent.facts.borrow_mut() = Some(facts);
        self.say(InstanceState::Running, &message);
        self.mark_seeded(&identity.to_string())?;
        Ok(Outcome::Settled)
    }

    /// A primary that is not the recorded one asks now and then whether the record is true.
    async fn doubt_the_record(&mut self, facts: &InstanceFacts, not_ours: bool) -> Result<(), RoundError> {
        if facts.role != Role::Primary || !not_ours {
            self.not_ours_since = None;
        } else if self.not_ours_since.get_or_insert_with(Instant::now).elapsed() >= DOUBT {
            leadership::correct(&self.agent, facts).await?;
            self.not_ours_since = None;
        }
        Ok(())
    }

    /// The instance does not run: do the next thing that brings it up.
    async fn raise(&mut self, card: &Pooler, database: &Database) -> Result<Outcome, RoundError> {
        let agent = Rc::clone(&self.agent);
        let data_path = Path::new(&card.data_directory);
        let data = inspect(&agent.tools, data_path).await?;
        let seeding = agent.seeding_marker().exists();
        let leader = agent.leader();
        let restored = seed::is_restored(&agent);
        let whole = matches!(data, cellar_postgres::DataDirectory::Valid { recovers, .. } if !seeding || restored && recovers);
        let needs_repo = !whole;
        let standing = incarnation::standing(&agent, data_path);
        // Also when it is not there at all: a kill between two renames leaves it so.
        let successor = if standing.current { None } else { incarnation::successor(&agent) };
        let stanza = if needs_repo { Some(stanza::read(&agent, database, card).await?) } else { None };
        let stanza_exists = stanza.as_ref().is_some_and(|stanza| stanza.status == StanzaStatus::NoBackup);
        let step = next_step(&Situation {
            cell: &agent.cell,
            bootstrap_cell: &database.bootstrap_cell,
            data: &data,
            seeding,
            restored,
            kept: incarnation::record(&agent).job.is_some_and(|job| agent.layout.kept(job).exists()),
            seeded_before: agent.seeded_marker().exists(),
            leader: leader.as_ref(),
            backup_exists: stanza.as_ref().map(|stanza| !stanza.backups.is_empty()),
            stanza_exists,
            failed_copies: self.failed_copies,
            standing,
            successor: successor.is_some(),
        });
        match step {
            Step::Wait(what) => {
                self.say(InstanceState::Waiting, &format!("waits for {what}"));
                let primary_comes = leader.is_some_and(|leader| leader.system_identifier.is_some());
                let soon = primary_comes && stanza.is_some() && !stanza_exists;
                return Ok(if soon { Outcome::Soon } else { Outcome::Settled });
            }
            Step::Broken(why) => {
                self.say(InstanceState::Broken, &why);
                return Ok(Outcome::Settled);
            }
            Step::Initdb => {
                if !leadership::record_intent(&agent).await? {
                    return Ok(Outcome::Settled);
                }
                self.say(InstanceState::Seeding, "initdb");
                let config = instance_config(&agent, database, card, None)?;
                seed::make_database(&agent, data_path, &config).await?;
            }
            Step::CopyPrimary(source) => {
                self.say(InstanceState::Seeding, "copies the primary");
                let config = instance_config(&agent, database, card, leader.as_ref())?;
                if let Err(error) = seed::copy_primary(&agent, data_path, &config, source).await {
                    self.failed_copies += 1;
                    return Err(error.into());
                }
                self.mark_seeded(&source.system_identifier.to_string())?;
            }
            Step::RecordIdentity(identity) => {
                leadership::record_identity(&agent, identity).await?;
                // Seen through the mirror a moment later; the next round goes on from there.
                let recorded = |view: &cellar_topology::View| {
                    view.leaders.get(&agent.database).is_some_and(|leader| leader.system_identifier.is_some())
                };
                agent.mirror.wait_for(Duration::from_secs(5), recorded).await?;
            }
            Step::Restore { delta } => {
                self.say(InstanceState::Seeding, "restores the newest backup");
                seed::restore(&agent, database, card, delta, "seed", &|| false).await?;
            }
            Step::FinishRestore => {
                let config = instance_config(&agent, database, card, leader.as_ref())?;
                configure(data_path, &config)?;
                // A backup brings along the mark of its time.
                let mark = seed::begun_for(&agent);
                mark.write(data_path).map_err(|error| RoundError::Marker(data_path.to_owned(), error))?;
                self.mark_seeded("restored")?;
                let marker = agent.seeding_marker();
                std::fs::remove_file(&marker).map_err(|error| RoundError::Marker(marker, error))?;
            }
            Step::TakeOver => {
                if let Some(successor) = successor {
                    take_over(&agent, &successor, data_path)
                        .await
                        .map_err(|error| RoundError::Marker(data_path.to_owned(), error))?;
                }
            }
            Step::Reseed => {
                self.say(
                    InstanceState::Seeding,
                    "its data is from before the restore of the database; restores the newest backup",
                );
                let incarnation = incarnation::record(&agent);
                // For as long as there may be a rollback the old data stays; afterwards it is of use to the restore.
                let kept_for = incarnation.job.filter(|_| incarnation.kept_in.is_some());
                if let Some(job) = kept_for {
                    rebuild::keep(&agent, data_path, job)
                        .map_err(|error| RoundError::Marker(data_path.to_owned(), error))?;
                }
                seed::restore(&agent, database, card, kept_for.is_none(), "seed", &|| false).await?;
            }
            Step::Start => {
                let config = instance_config(&agent, database, card, leader.as_ref())?;
                let log = agent.layout.log().join("postgres.log");
                {
                    let mut starting = pin!(start(&agent.tools, data_path, &config, &log, START_TIMEOUT));
                    // A start that is over in a moment is not worth one of the status's few writes.
                    match tokio::time::timeout(BRIEF, &mut starting).await {
                        Ok(started) => drop(started?),
                        Err(_) => {
                            self.say(InstanceState::Starting, "");
                            starting.await?;
                        }
                    }
                }
                self.applied = Some(config);
            }
        }
        Ok(Outcome::Progress)
    }

    fn mark_seeded(&self, content: &str) -> Result<(), RoundError> {
        let path = self.agent.seeded_marker();
        if path.exists() {
            return Ok(());
        }
        std::fs::write(&path, content).map_err(|error| RoundError::Marker(path, error))
    }

    fn say(&self, state: InstanceState, message: &str) {
        let unchanged = {
            let report = self.agent.report.borrow();
            report.state == state && report.message == message
        };
        if !unchanged {
            tracing::info!(state = state.as_str(), message, "instance");
        }
        self.agent.say(|report| {
            report.state = state;
            message.clone_into(&mut report.message);
        });
    }
}

/// Puts the true copy in the place of the old data, which is kept. May be killed anywhere and begun again.
async fn take_over(agent: &Agent, successor: &Path, data: &Path) -> std::io::Result<()> {
    let at_once = StopTimeouts { fast: Duration::ZERO, ..StopTimeouts::default() };
    stop(successor, &at_once).await.map_err(std::io::Error::other)?;
    if let Some(job) = incarnation::record(agent).job {
        rebuild::keep(agent, data, job)?;
    }
    if data.exists() {
        // What is to be kept is kept already, so this was left by something else.
        let aside = data.with_extension(format!("aside-{}", jiff::Timestamp::now().as_second()));
        tracing::warn!(to = %aside.display(), "moving a directory aside that is in the way of the restored data");
        incarnation::rename(data, &aside)?;
    }
    incarnation::rename(successor, data)?;
    tracing::info!(from = %successor.display(), "the restored data has taken its place");
    match std::fs::remove_file(agent.seeding_marker()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
