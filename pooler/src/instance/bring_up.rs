//! Taking the next step to bring up an instance that does not run. [`crate::instance::next_step`] decides which.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use cellar_model::{Database, InstanceState, Leader, Pooler, SystemIdentifier};
use cellar_postgres::{DataDirectory, InstanceConfig, configure, inspect, start};

use crate::agent::Agent;
use crate::config_files::instance_config;
use crate::instance::next_step::{Situation, Step, next_step};
use crate::instance::round::{Outcome, RoundError, mark_seeded, report_state};
use crate::instance::set_aside::{install_successor, keep_old_data};
use crate::instance::{incarnation, leadership, seed, seeding_marker};
use crate::repository::stanza;

/// How long a start may take before the next round looks at it again.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A start that takes longer than this is reported while it lasts.
const START_REPORT_DELAY: Duration = Duration::from_millis(800);

/// How long the recorded identity may take to be seen through the mirror.
const MIRROR_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes the next step. `applied` becomes the config that the instance was started with.
///
/// # Errors
/// When the step fails; the next round decides anew.
pub(crate) async fn bring_up(
    agent: &Agent,
    card: &Pooler,
    database: &Database,
    applied: &mut Option<InstanceConfig>,
) -> Result<Outcome, RoundError> {
    let data_path = Path::new(&card.data_directory);
    let leader = agent.leader();
    let (step, successor) = decide(agent, card, database, leader.as_ref()).await?;
    match step {
        Step::Wait(what) => {
            report_state(agent, InstanceState::Waiting, &format!("waits for {what}"));
            return Ok(Outcome::Settled);
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
            seed::create_database(agent, data_path, &config).await?;
        }
        Step::RecordIdentity(identity) => record_identity(agent, identity).await?,
        Step::Restore { delta } => {
            report_state(agent, InstanceState::Seeding, "restores the newest backup");
            restore(agent, card, database, delta).await?;
        }
        Step::FinishRestore => {
            let config = instance_config(agent, database, card, leader.as_ref())?;
            finish_restore(agent, data_path, &config)?;
        }
        Step::TakeOver => {
            if let Some(successor) = successor {
                install_successor(agent, &successor, data_path)
                    .await
                    .map_err(|error| RoundError::Marker(data_path.to_owned(), error))?;
            }
        }
        Step::Reseed => reseed(agent, card, database).await?,
        Step::Start => {
            let config = instance_config(agent, database, card, leader.as_ref())?;
            start_instance(agent, data_path, &config).await?;
            *applied = Some(config);
        }
    }
    Ok(Outcome::Progress)
}

/// Looks at everything that decides the next step. Also returns the copy that is to take the data's place, if any.
async fn decide(
    agent: &Agent,
    card: &Pooler,
    database: &Database,
    leader: Option<&Leader>,
) -> Result<(Step, Option<std::path::PathBuf>), RoundError> {
    let data_path = Path::new(&card.data_directory);
    let data = inspect(&agent.tools, data_path).await?;
    let seeding = agent.seeding_marker().exists();
    let restored = seeding_marker::is_restored(agent);
    let whole = matches!(data, DataDirectory::Valid { recovers, .. } if !seeding || restored && recovers);
    let standing = incarnation::standing(agent, data_path);
    // There is one also when the data directory does not exist: a kill between two renames leaves it so.
    let successor = if standing.current { None } else { incarnation::successor(agent) };
    // The repo is read only when the step depends on it.
    let backup_exists =
        if whole { None } else { Some(!stanza::read(agent, database, card).await?.backups.is_empty()) };
    let step = next_step(&Situation {
        cell: &agent.cell,
        bootstrap_cell: &database.bootstrap_cell,
        data: &data,
        seeding,
        restored,
        kept: incarnation::record(agent).job.is_some_and(|job| agent.layout.kept(job).exists()),
        seeded_before: agent.seeded_marker().exists(),
        leader,
        backup_exists,
        standing,
        successor: successor.is_some(),
    });
    Ok((step, successor))
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
    seed::restore(agent, database, card, delta, "seed", &|| false).await?;
    Ok(())
}

fn finish_restore(agent: &Agent, data: &Path, config: &InstanceConfig) -> Result<(), RoundError> {
    configure(data, config)?;
    // A backup contains the mark of the time when it was taken.
    let mark = seeding_marker::begun_for(agent);
    mark.write(data).map_err(|error| RoundError::Marker(data.to_owned(), error))?;
    mark_seeded(agent, "restored")?;
    let marker = agent.seeding_marker();
    std::fs::remove_file(&marker).map_err(|error| RoundError::Marker(marker, error))
}

async fn reseed(agent: &Agent, card: &Pooler, database: &Database) -> Result<(), RoundError> {
    report_state(
        agent,
        InstanceState::Seeding,
        "its data is from before the restore of the database; restores the newest backup",
    );
    let incarnation = incarnation::record(agent);
    // While a rollback is possible the old data is kept. Afterwards a delta restore can use it.
    let kept_for = incarnation.job.filter(|_| incarnation.kept_in.is_some());
    if let Some(job) = kept_for {
        let data = Path::new(&card.data_directory);
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
