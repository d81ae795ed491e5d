//! A backup of this cell's own instance, and of no other.
//!
//! Before: the live instance is asked who it is. During: the config lists this
//! cell and the primary, nothing else, so pgBackRest has nowhere else to go.
//! After: its log and the repo are read and the source is proven.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use cellar_model::{
    BackupParams, BackupSource, CELL_ANNOTATION, CellName, Code, Expected, JOB_ANNOTATION, JobError,
    JobOutcome, JobSpec, Leader, Lsn, Pooler, Progress, RECONNECT, Refusal, Role, check_primary_source,
    check_standby_source,
};
use cellar_pgbackrest::{DetailLog, Failure, Invocation};
use cellar_postgres::{InstanceFacts, Probe};

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::config_files::write_job;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, Interruption, interrupted_ending};
use crate::peers;
use crate::repository::backup_proof::{self, Source, judge, tool_error, tool_failure};

/// How often the log is read and the job looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often progress is written to etcd.
const PROGRESS: Duration = Duration::from_secs(1);

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const GRACE: Duration = Duration::from_secs(10);

/// A primary says something at least every 10 s (half of wal_sender_timeout's default of 20 s that
/// our settings give it); three times that means that what the standby knows of it is old.
const SILENCE: Duration = Duration::from_secs(30);

/// Runs a backup job to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(ending) => ending,
        Err(error) => Ending::Failed(error),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<Ending, JobError> {
    let JobSpec::Backup(params) = job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a backup").into());
    };
    say(agent, job, Progress { phase: "checking the instance".to_owned(), ..Progress::default() }).await;
    let (card, database) = agent.place()?;
    let source = match confirm(agent, &card, &params, control).await? {
        Ok(source) => source,
        Err(why) => return Ok(interrupted_ending(why, "no backup was begun")),
    };
    let id = job.record.id;
    let config = write_job(agent, &id.to_string(), &database, &card, source.primary.as_ref())
        .map_err(|error| Refusal::new(Code::Internal, format!("no config for the job: {error}")))?;
    let log_file = backup_proof::log_path(agent, &id);
    source.keep(agent, &id).map_err(|error| {
        Refusal::new(Code::Internal, format!("cannot write to {}: {error}", agent.layout.jobs().display()))
            .hint("is the cell's disk full?")
    })?;
    let annotations =
        [(CELL_ANNOTATION.to_owned(), agent.cell.to_string()), (JOB_ANNOTATION.to_owned(), id.to_string())];
    let invocation = Invocation::backup(&config, &database.stanza, params.backup_type, &annotations);
    let outcome = copy(agent, job, control, &invocation, &log_file, &source).await?;
    match outcome {
        Copied::Interrupted(why) => {
            return Ok(interrupted_ending(why, "pgBackRest was ended and no backup was made"));
        }
        Copied::Ended(Some(0)) => {}
        Copied::Ended(code) => {
            let text = backup_proof::read(&log_file);
            let failure = Failure::judge(code, &cellar_pgbackrest::tool_messages(&text));
            let doing = format!("backing up cell {}", agent.cell);
            return Err(tool_failure(&doing, &failure, &text, &[&database.repo_path, &card.data_directory]));
        }
    }
    let result = judge(agent, &database, &config, &log_file, &source).await?;
    // The log stays; the config has done its work.
    let _ = std::fs::remove_file(&config);
    Ok(Ending::Succeeded(Some(JobOutcome::Backup(result))))
}

/// Confirms the source, with patience for a primary that has just started again and is being found by its standbys, unless
/// the job is interrupted meanwhile.
async fn confirm(
    agent: &Agent,
    card: &Pooler,
    params: &BackupParams,
    control: &Control,
) -> Result<Result<Source, Interruption>, Refusal> {
    let begun = tokio::time::Instant::now();
    loop {
        let refusal = match confirm_now(agent, card, params).await {
            Ok(source) => return Ok(Ok(source)),
            Err(refusal) => refusal,
        };
        let passes = matches!(refusal.code, Code::NoPrimary | Code::WrongPrimary);
        if !passes || begun.elapsed() >= RECONNECT {
            return Err(refusal);
        }
        tracing::debug!(%refusal, "asking again");
        tokio::time::sleep(LOOK).await;
        if let Some(why) = control.interrupted(agent) {
            return Ok(Err(why));
        }
    }
}

/// Asks the live instance whether it is what the topology says, and who it is.
async fn confirm_now(agent: &Agent, card: &Pooler, params: &BackupParams) -> Result<Source, Refusal> {
    let leader = agent.leader().ok_or_else(|| {
        Refusal::new(Code::NoPrimary, "no primary is recorded").hint("look at `cellar status`")
    })?;
    let identity = leader
        .system_identifier
        .ok_or_else(|| Refusal::new(Code::NoPrimary, "the database is still being made"))?;
    let primary = agent.card_of(&leader.cell).ok_or_else(|| {
        Refusal::new(Code::NoPrimary, format!("the recorded primary {} is not in the topology", leader.cell))
    })?;
    // A question of its own, not what the supervisor saw a moment ago.
    let mut probe = Probe::new(agent.endpoint(card), PROBE_TIMEOUT);
    let facts = probe.facts().await.map_err(|error| {
        Refusal::new(Code::CellDown, format!("the instance of cell {} does not answer: {error}", agent.cell))
            .hint("look at `cellar status`")
    })?;
    let mut observed = facts.to_observed();
    let others: Vec<CellName> =
        agent.mirror.view().snapshot().other_primaries(&agent.database, Some(&leader.cell));
    let expected = Expected {
        cell: &agent.cell,
        data_directory: &card.data_directory,
        system_identifier: identity,
        timeline: leader.term,
        primary: &leader.cell,
        primary_address: (&primary.host, primary.postgres_port),
        max_lag_bytes: params.max_lag_bytes,
        other_primaries: &others,
    };
    let from_primary = params.allow_primary && observed.role == Role::Primary;
    if from_primary {
        check_primary_source(&expected, &observed)?;
    } else {
        // Asked after the standby, so that a healthy one can only be behind it.
        observed.primary_lsn = Some(primary_position(agent, &primary, &leader).await?);
        check_standby_source(&expected, &observed)?;
        check_not_silent(&facts)?;
    }
    Ok(Source {
        claimed: BackupSource {
            cell: agent.cell.clone(),
            data_directory: observed.data_directory,
            system_identifier: observed.system_identifier,
            timeline: observed.timeline,
            replay_lsn: observed.replay_lsn,
            files_from_source: 0,
            files_from_primary: 0,
            verified: false,
        },
        primary: (!from_primary).then_some(primary),
    })
}

/// Where the recorded primary is now, as it says itself, if it still is that primary.
pub(crate) async fn primary_position(agent: &Agent, card: &Pooler, leader: &Leader) -> Result<Lsn, Refusal> {
    let live = peers::live_status(agent, card).await?;
    let same = live.role() == cellar_api::v1::Role::Primary && live.timeline == Some(leader.term.get());
    let position = live.write_lsn.as_deref().and_then(|text| text.parse().ok());
    position.filter(|_| same).ok_or_else(|| {
        Refusal::new(
            Code::NoPrimary,
            format!(
                "the instance of cell {} is not the primary on timeline {} any more",
                leader.cell, leader.term
            ),
        )
        .hint("the roles are changing: look at `cellar status` and ask again")
        .about("cell", &leader.cell)
    })
}

fn check_not_silent(facts: &InstanceFacts) -> Result<(), Refusal> {
    let age = facts.wal_receiver.as_ref().and_then(|receiver| receiver.last_message_age);
    match age {
        Some(age) if age > SILENCE => Err(Refusal::new(
            Code::WrongPrimary,
            format!("the standby has heard nothing from its primary for {} s", age.as_secs()),
        )
        .hint("look at the primary and the network between the cells")),
        _ => Ok(()),
    }
}

/// How the copying ended.
enum Copied {
    Ended(Option<u8>),
    Interrupted(Interruption),
}

/// Runs pgBackRest while following its log.
async fn copy(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    invocation: &Invocation,
    log_file: &Path,
    source: &Source,
) -> Result<Copied, JobError> {
    let started = agent.pgbackrest.spawn_logged(invocation, log_file).await;
    let mut running = started.map_err(|error| tool_error("starting pgbackrest", &error))?;
    let mut tail = Tail::new(backup_proof::parser(&source.claimed.data_directory, source.primary.as_ref()));
    let mut written = tokio::time::Instant::now();
    loop {
        tokio::select! {
            code = running.wait() => {
                let code = code.map_err(|error| tool_error("waiting for pgbackrest", &error))?;
                return Ok(Copied::Ended(code));
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(why) = control.interrupted(agent) {
            let code =
                running.terminate(GRACE).await.map_err(|error| tool_error("ending pgbackrest", &error))?;
            // It may have been done just then: what is true is what counts.
            return Ok(if code == Some(0) { Copied::Ended(code) } else { Copied::Interrupted(why) });
        }
        tail.read(log_file);
        if written.elapsed() >= PROGRESS {
            written = tokio::time::Instant::now();
            say(agent, job, tail.log.progress()).await;
        }
    }
}

/// Progress is news, not truth: one that cannot be written is followed by the next.
async fn say(agent: &Agent, job: &mut ClaimedJob, progress: Progress) {
    if let Err(error) = job.progress(agent, progress).await {
        tracing::debug!(%error, "progress not written");
    }
}

/// Follows a growing log.
struct Tail {
    log: DetailLog,
    position: u64,
    partial: Vec<u8>,
}

impl Tail {
    fn new(log: DetailLog) -> Self {
        Self { log, position: 0, partial: Vec::new() }
    }

    fn read(&mut self, path: &Path) {
        let Ok(mut file) = std::fs::File::open(path) else { return };
        if file.seek(SeekFrom::Start(self.position)).is_err() {
            return;
        }
        let mut bytes = Vec::new();
        let Ok(count) = file.read_to_end(&mut bytes) else { return };
        self.position += count as u64;
        self.partial.extend(bytes);
        while let Some(end) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.log.line(String::from_utf8_lossy(&line[..end]).as_ref());
        }
    }
}
