//! The heart of a restore: the new data is made beside the old, brought to its target, checked, and promoted.
//!
//! It ends as a stopped, whole data directory that carries the mark of the incarnation to come. Nothing of it
//! is in the archive yet and the old data was not touched, so until the incarnation's record says otherwise
//! the copy may be thrown away.

use std::path::{Path, PathBuf};
use std::time::Instant;

use cellar_model::{
    Code, JobError, JobId, JobOutcome, JobSpec, RecoverParams, RecoveryResult, Refusal, SystemIdentifier,
    Target, Timeline,
};
use cellar_postgres::{ControlData, ControlState, DataDirectory, StopTimeouts, inspect, stop};

use crate::agent::Agent;
use crate::instance::hold::Hold;
use crate::instance::incarnation::Mark;
use crate::instance::seed;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::fence::see;
use crate::jobs::restore::private_instance::{Broken, Course, End, Reached, Sandbox, remove, say};
use crate::repository::reader::{Repo, free_bytes};

/// Runs a recovery step to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(recovery) => Ending::Succeeded(Some(JobOutcome::Recovery(recovery))),
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "the half restored copy is removed"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

fn wrong(message: String) -> JobError {
    Refusal::new(Code::WrongInstance, message)
        .hint("the stanza holds another database's backups: look at the repo and the stanza's name")
        .into()
}

async fn whole(agent: &Agent, data: &Path) -> Result<ControlData, JobError> {
    match inspect(&agent.tools, data).await {
        Ok(DataDirectory::Valid { control, .. }) => Ok(control),
        Ok(other) => Err(wrong(format!("the copy in {} is not whole: {other:?}", data.display()))),
        Err(error) => Err(wrong(format!("the copy in {} cannot be looked at: {error}", data.display()))),
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<RecoveryResult, Broken> {
    let (JobSpec::Recover(params), Some(parent)) = (job.record.spec.clone(), job.record.parent) else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a recovery").into());
    };
    let (card, database) = agent.place()?;
    see(agent, &job.record).await?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let data = match (params.kept, params.in_place) {
        (Some(kept), _) => agent.layout.kept(kept),
        (None, true) => PathBuf::from(&card.data_directory),
        (None, false) => agent.layout.restored(parent),
    };
    let mut sandbox = Sandbox::new(agent, &database, &card, job.record.id, data, 0);
    if params.last_segment.is_none() && params.set.is_some() && !params.in_place {
        // No primary was stopped that archived its last: what this cell has of its WAL may be more than the archive.
        sandbox.wal_of = Some(PathBuf::from(&card.data_directory));
    }
    let _hold = params.in_place.then(|| Hold::take(agent));
    let outcome = make(agent, job, control, &sandbox, &params, parent, leader.system_identifier).await;
    sandbox.leave().await;
    if outcome.is_err() && params.kept.is_none() && !params.in_place {
        remove(&sandbox.data);
    }
    outcome
}

async fn make(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    sandbox: &Sandbox<'_>,
    params: &RecoverParams,
    parent: JobId,
    identity: Option<SystemIdentifier>,
) -> Result<RecoveryResult, Broken> {
    let begun = Instant::now();
    let (card, database) = agent.place()?;
    let repo = Repo::open(agent, &database, &card).await?;
    let size = repo.segment_size();
    let mut size_bytes = 0;
    let mut timeline = params.timeline;
    if let Some(set) = &params.set {
        let found = repo.backups().into_iter().find(|backup| backup.label == *set);
        size_bytes = found.map_or(0, |backup| backup.size_bytes);
        if params.in_place {
            empty_hands(agent, &sandbox.data).await?;
        } else {
            remove(&sandbox.data);
            let free = free_bytes(&sandbox.data);
            if free < size_bytes {
                let message = format!("the restored data needs {size_bytes} bytes, and {free} are free");
                return Err(Refusal::new(Code::DiskFull, message)
                    .hint("make room, or restore with --in-place")
                    .into());
            }
        }
        sandbox.prepare()?;
        let delta = params.in_place && sandbox.data.join("PG_VERSION").exists();
        sandbox.restore(job, control, set, size_bytes, delta, 0).await?;
    } else {
        // A copy that was kept follows its own timeline, not one that began after it.
        timeline = whole(agent, &sandbox.data).await?.timeline;
        sandbox.prepare()?;
    }
    let restored = begun.elapsed();
    let before = whole(agent, &sandbox.data).await?;
    if identity.is_some_and(|identity| identity != before.system_identifier) {
        return Err(wrong(format!(
            "the copy has system identifier {}, which is another database's",
            before.system_identifier
        ))
        .into());
    }
    let end = end(&repo, params, timeline).await?;
    let course = Course { target: params.target.clone(), timeline, end, size, archive_mode: true };
    let mut reached = sandbox.recover(job, control, &course).await?;
    if !reached.paused && matches!(params.target, Target::Time(_)) {
        // Nothing was committed later, so the end of the WAL is the database at that time; but PostgreSQL refuses to end a
        // recovery whose target it has not seen. It goes on from here without one.
        sandbox.stop().await?;
        let rest = Course { target: Target::Latest {}, ..course };
        let stopped = reached.stopped;
        reached = sandbox.recover(job, control, &rest).await?;
        reached.stopped = stopped;
    }
    check(&params.target, &reached)?;
    let recovered = begun.elapsed();
    say(agent, job, "promoting", 0, 0).await;
    sandbox.promote(&reached).await?;
    sandbox.stop().await?;
    let after = whole(agent, &sandbox.data).await?;
    if after.state != ControlState::ShutDown || after.timeline <= timeline {
        return Err(
            wrong(format!("the copy did not come to a clean end on a new timeline: {after:?}")).into()
        );
    }
    let mark = Mark { number: params.incarnation, job: Some(parent) };
    let disk = |error: std::io::Error| Refusal::new(Code::DiskFull, format!("cannot mark the copy: {error}"));
    mark.write(&sandbox.data).map_err(disk)?;
    if params.in_place {
        std::fs::remove_file(agent.seeding_marker()).map_err(disk)?;
    }
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Ok(RecoveryResult {
        timeline: after.timeline,
        from_timeline: timeline,
        lsn: reached.lsn,
        last_commit: reached.last_commit,
        stopped: reached.stopped,
        size_bytes,
        restore_millis: if params.set.is_some() { millis(restored) } else { 0 },
        recovery_millis: millis(recovered.saturating_sub(restored)),
    })
}

/// Over the old data: it must not run, and from here on it is not a member's data but a restore that was begun.
async fn empty_hands(agent: &Agent, data: &Path) -> Result<(), JobError> {
    let disk = |error: &dyn std::fmt::Display| {
        Refusal::new(Code::PostgresFailed, format!("stopping PostgreSQL: {error}"))
    };
    stop(data, &StopTimeouts::default()).await.map_err(|error| disk(&error))?;
    *agent.facts.borrow_mut() = None;
    seed::begin(agent).map_err(|error| disk(&error))?;
    Ok(())
}

/// How far the WAL must be replayed when the target does not end it before.
async fn end(repo: &Repo<'_>, params: &RecoverParams, timeline: Timeline) -> Result<Option<End>, JobError> {
    if params.kept.is_some() {
        // All its WAL is in its own pg_wal.
        return Ok(None);
    }
    let size = repo.segment_size();
    if let Some(segment) = params.last_segment.as_deref().and_then(|name| size.parse_file_name(name)) {
        return Ok(Some(End::Whole(segment.number)));
    }
    let survey = repo.survey(timeline, None).await?;
    let newest = survey.lineage(timeline).ok().and_then(|lineage| lineage.newest(&survey.archive));
    Ok(newest.map(End::Within))
}

/// That what was reached is what was asked.
fn check(target: &Target, reached: &Reached) -> Result<(), JobError> {
    let beyond = |what: String| -> Result<(), JobError> {
        Err(Refusal::new(Code::Internal, format!("the recovery stopped at the wrong place: {what}")).into())
    };
    match target {
        Target::Time(time) => match reached.last_commit {
            Some(commit) if commit > *time => beyond(format!("its last commit is of {commit}, after {time}")),
            _ => Ok(()),
        },
        Target::Lsn(lsn) if reached.lsn <= *lsn => beyond(format!("{} is before {lsn}", reached.lsn)),
        _ => Ok(()),
    }
}
