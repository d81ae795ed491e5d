//! Taking the next step to bring up an instance that does not run. [`crate::instance::next_step`] decides which.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use cellar_model::availability::Stop;
use cellar_model::{Database, InstanceState, Leader, Leadership, Phase, Pooler, SystemIdentifier};
use cellar_pgbackrest::StanzaStatus;
use cellar_postgres::{DataDirectory, InstanceConfig, configure, inspect, start, take_over_settings};

use cellar_system::AtomicFile;

use crate::agent::Agent;
use crate::config_files::instance_config;
use crate::data_layout::layout_obstacles;
use crate::instance::archiving::archive_before_fork;
use crate::instance::data_role::newest_timeline;
use crate::instance::failover::is_led_here;
use crate::instance::next_step::{Situation, Step, Term, next_step};
use crate::instance::round::{Outcome, RoundError, mark_seeded, report_state};
use crate::instance::seed::Seed;
use crate::instance::set_aside::{install_successor, keep_old_data};
use crate::instance::{incarnation, leadership, left_wal, seed, seeding_marker, unrecorded};
use crate::repository::stanza;

/// How long a start may take before the next round looks at it again.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A start that takes longer than this is reported while it lasts.
const START_REPORT_DELAY: Duration = Duration::from_millis(800);

/// How long the recorded identity may take to be seen through the mirror.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(5);

/// The log of a restore that no job asked for, in the directory of the jobs' logs.
const SEED_LOG: &str = "seed";

/// Brings up the instance, one step at a time.
#[derive(Default)]
pub(crate) struct BringUp {
    /// The config that this process last wrote into the data directory.
    pub(crate) applied: Option<InstanceConfig>,
    /// How often copying the primary failed.
    failed_copies: u32,
    /// Since when this is a primary's data and no primary is recorded.
    unrecorded_since: Option<Instant>,
}

/// The next step, and what it was decided from.
struct Decision {
    step: Step,
    leader: Option<Leader>,
    /// The copy that is to take the data's place.
    successor: Option<PathBuf>,
    /// Whether the primary of a new database is about to create its stanza.
    stanza_expected: bool,
}

impl BringUp {
    /// Takes the next step.
    ///
    /// # Errors
    /// When the step fails; the next round decides again.
    pub(crate) async fn step(
        &mut self,
        agent: &Agent,
        card: &Pooler,
        database: &Database,
    ) -> Result<Outcome, RoundError> {
        let data = Path::new(&card.data_directory);
        let decision = self.decide(agent, card, database).await?;
        let leader = decision.leader.as_ref();
        match decision.step {
            Step::Wait(what) => {
                report_state(agent, InstanceState::Waiting, &format!("waits for {what}"));
                return Ok(if decision.stanza_expected { Outcome::Soon } else { Outcome::Settled });
            }
            Step::Broken(why) => {
                report_state(agent, InstanceState::Broken, &why);
                return Ok(Outcome::Settled);
            }
            Step::Initdb => {
                if !leadership::record_intent(agent).await? {
                    return Ok(Outcome::Settled);
                }
                report_state(agent, InstanceState::Seeding, "initdb");
                let config = instance_config(agent, database, card, None)?;
                seed::create_database(agent, data, &config).await?;
            }
            Step::CopyPrimary(source) => {
                report_state(agent, InstanceState::Seeding, "copies the primary");
                let config = instance_config(agent, database, card, leader)?;
                if let Err(error) = seed::copy_primary(agent, data, &config, source).await {
                    self.failed_copies += 1;
                    return Err(error.into());
                }
                mark_seeded(agent, &source.system_identifier.to_string())?;
            }
            Step::RecordIdentity(identity) => record_identity(agent, identity).await?,
            Step::Restore { delta } => {
                report_state(agent, InstanceState::Seeding, "restores the newest backup");
                restore(agent, card, database, delta).await?;
            }
            Step::FinishRestore => {
                finish_restore(agent, data, &instance_config(agent, database, card, leader)?)?;
            }
            Step::TakeOver => {
                if let Some(successor) = decision.successor {
                    install_successor(agent, &successor, data)
                        .await
                        .map_err(|error| RoundError::Marker(data.to_owned(), error))?;
                }
            }
            Step::Reseed => {
                let why = "its data is from before the restore of the database; restores the newest backup";
                report_state(agent, InstanceState::Seeding, why);
                reseed(agent, card, database).await?;
            }
            Step::Demote => {
                // A standby archives nothing, and recycles what it has noted to be archived.
                archive_before_fork(agent, database, card, &|| agent.instance_lock.is_held()).await?;
                tracing::warn!(
                    "another member leads now: the data of this former primary follows it, if it can"
                );
                let signal = data.join("standby.signal");
                AtomicFile::new(&signal).replace("").map_err(|error| RoundError::Marker(signal, error))?;
                let kept = agent.availability.kept.update(|kept| kept.rule = None);
                kept.map_err(|error| RoundError::Marker(agent.layout.availability(), error))?;
            }
            Step::Rejoin => {
                let why = "another member leads now; restores the newest backup, to follow it";
                report_state(agent, InstanceState::Seeding, why);
                archive_before_fork(agent, database, card, &|| agent.instance_lock.is_held()).await?;
                left_wal::keep(agent, data).await;
                restore(agent, card, database, true).await?;
                agent.availability.replace.set(false);
            }
            Step::Start => {
                // What it was stopped for is over, or it would not be started.
                agent.availability.stop.set(None);
                let config = instance_config(agent, database, card, leader)?;
                start_instance(agent, data, &config).await?;
                self.applied = Some(config);
            }
        }
        Ok(Outcome::Progress)
    }

    /// Looks at everything that decides the next step.
    async fn decide(
        &mut self,
        agent: &Agent,
        card: &Pooler,
        database: &Database,
    ) -> Result<Decision, RoundError> {
        let data_path = Path::new(&card.data_directory);
        let leader = agent.leading();
        let data = inspect(&agent.tools, data_path).await?;
        // A marker that cannot be seen is no sign that there is none: half a backup must not be started.
        let marker = |error| RoundError::Marker(agent.layout.seeding_marker(), error);
        let seeding = seeding_marker::exists(agent).map_err(marker)?;
        let restored = seeding_marker::is_restored(agent).map_err(marker)?;
        let whole = matches!(data, DataDirectory::Valid { recovers, .. } if !seeding || restored && recovers);
        let standing = incarnation::standing(agent, data_path)?;
        // There may be one also when the data directory does not exist: a kill between two renames leaves it so.
        let successor = if standing.current { None } else { incarnation::successor(agent) };
        // The repo is read only when the step depends on it.
        let stanza = if whole { None } else { Some(stanza::read(agent, database, card).await?) };
        let stanza_exists = stanza.as_ref().is_some_and(|stanza| stanza.status == StanzaStatus::NoBackup);
        let record_denied = is_record_denied(agent, leader.as_ref(), &data).await;
        let inspected = (&data, leader.as_ref());
        let succession = unrecorded::look(agent, card, database, inspected, &mut self.unrecorded_since).await;
        let step = next_step(&Situation {
            cell: &agent.cell,
            bootstrap_cell: &database.bootstrap_cell,
            data: &data,
            seeding,
            restored,
            kept: incarnation::record(agent).job.is_some_and(|job| agent.layout.kept(job).exists()),
            seeded_before: agent.layout.seeded_marker().exists(),
            leader: leader.as_ref(),
            promoted: was_promoted(data_path, &data),
            record_denied,
            succession: succession.as_ref(),
            others_have_data: unrecorded::others_have_data(agent),
            backup_exists: stanza.as_ref().map(|stanza| !stanza.backups.is_empty()),
            stanza_exists,
            failed_copies: self.failed_copies,
            standing,
            successor: successor.is_some(),
            term: term(agent, database, &data),
            // Its copy is needed while a leader is being elected.
            replace: agent.availability.replace.get()
                && agent.governing().is_some_and(|record| record.phase != Phase::Recruiting),
        });
        let database_exists = leader.as_ref().is_some_and(|leader| leader.system_identifier.is_some());
        let stanza_expected = database_exists && stanza.is_some() && !stanza_exists;
        Ok(Decision { step, leader, successor, stanza_expected })
    }
}

/// Whether a former primary's last checkpoint lies behind the position from which its successor went on: PostgreSQL would
/// not start it as a standby.
fn is_behind_floor(record: &Leadership, data: &DataDirectory) -> bool {
    let DataDirectory::Valid { control, .. } = data else { return false };
    record.floor.is_some_and(|floor| control.checkpoint >= floor.lsn)
}

/// What quorum commit says of this member's data, if it is a primary's.
fn term(agent: &Agent, database: &Database, data: &DataDirectory) -> Term {
    match agent.governing() {
        None => Term::None,
        Some(record) if is_led_here(agent, &record) => match agent.availability.stop.get() {
            _ if agent.availability.hands_over.get() => Term::HandsOver,
            Some(Stop::CutOff) if !agent.hears_etcd() => Term::CutOff,
            _ => Term::Leads,
        },
        Some(record) => Term::Replaced {
            established: agent.availability.kept.was_established() && !is_behind_floor(&record, data),
            may_replace: agent.availability.may_replace.get() && database.pause.is_none(),
        },
    }
}

/// Whether the data has the history of a later timeline than its control file names.
fn was_promoted(path: &Path, data: &DataDirectory) -> bool {
    let DataDirectory::Valid { control, recovers: false, .. } = data else { return false };
    newest_timeline(path, control) > control.timeline
}

/// Whether the recorded primary says that it is none, where that decides whether this one may start.
async fn is_record_denied(agent: &Agent, leader: Option<&Leader>, data: &DataDirectory) -> bool {
    let DataDirectory::Valid { control, recovers: false, .. } = data else { return false };
    let Some(leader) = leader.filter(|leader| leader.cell != agent.cell) else { return false };
    leader.term == control.timeline
        && leadership::is_denied(agent, leader, control.system_identifier, control.timeline).await
}

async fn record_identity(agent: &Agent, identity: SystemIdentifier) -> Result<(), RoundError> {
    leadership::record_identity(agent, identity).await?;
    // The next round reads the record through the mirror.
    let recorded = |view: &cellar_topology::View| {
        view.leaders.get(&agent.database).is_some_and(|leader| leader.system_identifier.is_some())
    };
    agent.mirror.wait_for(MIRROR_TIMEOUT, recorded).await?;
    Ok(())
}

async fn restore(agent: &Agent, card: &Pooler, database: &Database, delta: bool) -> Result<(), RoundError> {
    let marker = |error| RoundError::Marker(agent.layout.seeding_marker(), error);
    let legacy = seeding_marker::inheritance(agent).map_err(marker)?;
    // What it says of an earlier attempt would be taken for the cause of this one's failure.
    let log = agent.layout.jobs().join(format!("{SEED_LOG}.log"));
    if let Err(error) = std::fs::remove_file(&log)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %log.display(), "the log of the last attempt cannot be removed");
    }
    let request = Seed { delta, any_backup: false, log_name: SEED_LOG, legacy, choice: None };
    // A job that asks for the instance does not wait for hours: the restore is completed afterwards, or begun again.
    seed::restore(agent, database, card, &request, &|| agent.instance_lock.is_held()).await?;
    Ok(())
}

fn finish_restore(agent: &Agent, data: &Path, config: &InstanceConfig) -> Result<(), RoundError> {
    configure(data, config)?;
    let marker = |error| RoundError::Marker(agent.layout.seeding_marker(), error);
    take_over_settings(data, &seeding_marker::legacy(agent).map_err(marker)?.own_settings, None)?;
    // A backup contains the mark of the time when it was taken.
    let mark = seeding_marker::begun_for(agent).map_err(marker)?;
    mark.write(data).map_err(|error| RoundError::Marker(data.to_owned(), error))?;
    mark_seeded(agent, "restored")?;
    stanza::remember(agent)?;
    seeding_marker::remove(agent).map_err(marker)
}

async fn reseed(agent: &Agent, card: &Pooler, database: &Database) -> Result<(), RoundError> {
    let incarnation = incarnation::record(agent);
    // While a rollback is possible the old data is kept. Afterwards a delta restore can use it.
    let kept_for = incarnation.job.filter(|_| incarnation.kept_in.is_some());
    let data = Path::new(&card.data_directory);
    archive_before_fork(agent, database, card, &|| agent.instance_lock.is_held()).await?;
    // This cell may have been down when the restore was planned, so nothing has looked at it.
    let obstacles = layout_obstacles(data);
    if let Some(obstacle) = obstacles.into_iter().find(|found| kept_for.is_some() || found.in_place_too) {
        return Err(RoundError::Layout(obstacle.refusal()));
    }
    if let Some(job) = kept_for {
        keep_old_data(agent, data, job).map_err(|error| RoundError::Marker(data.to_owned(), error))?;
    }
    restore(agent, card, database, kept_for.is_none()).await
}

async fn start_instance(agent: &Agent, data: &Path, config: &InstanceConfig) -> Result<(), RoundError> {
    let log = agent.layout.log().join("postgres.log");
    let mut starting = pin!(start(&agent.tools, data, config, &log, START_TIMEOUT));
    match tokio::time::timeout(START_REPORT_DELAY, &mut starting).await {
        Ok(started) => drop(started?),
        Err(_) => {
            report_state(agent, InstanceState::Starting, "");
            starting.await?;
        }
    }
    Ok(())
}
