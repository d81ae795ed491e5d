//! What a restore would do: the repo is read, the way to the target chosen, and nothing changed.

use std::path::Path;

use cellar_api::v1;
use cellar_model::{
    CellName, CellPlan, Code, Database, JobError, JobOutcome, JobSpec, JobState, Lsn, Pooler, Refusal,
    RestoreParams, RestorePlan, Role, Target, choose, windows,
};
use cellar_postgres::Probe;

use crate::agent::{Agent, PROBE_TIMEOUT};
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::locate::locate;
use crate::jobs::restore::private_instance::{Broken, say};
use crate::peers;
use crate::repository::reader::{Repo, free_bytes};

/// What a restored directory needs beyond its backup's size: WAL that is replayed and written, in segments.
const WAL_ROOM: u64 = 8;

/// Runs a planning job to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    match attempt(agent, job, control).await {
        Ok(plan) => Ending::Succeeded(Some(JobOutcome::Plan(plan))),
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "nothing was changed"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

/// How far the WAL reaches that a restore can have: where the recorded primary is, if it answers; else what this cell
/// has received of it.
struct Written {
    lsn: Option<Lsn>,
    by_primary: bool,
}

async fn written(agent: &Agent, card: &Pooler) -> Written {
    let here = Probe::new(agent.endpoint(card), PROBE_TIMEOUT).facts().await.ok();
    let from_primary = async {
        let leader = agent.leader()?;
        if leader.cell == agent.cell {
            let facts = here.as_ref().filter(|facts| facts.role == Role::Primary)?;
            return facts.write_lsn;
        }
        let live = peers::live_status(agent, &agent.card_of(&leader.cell)?).await.ok()?;
        live.write_lsn.filter(|_| live.role == v1::Role::Primary as i32)?.parse().ok()
    };
    match from_primary.await {
        Some(lsn) => Written { lsn: Some(lsn), by_primary: true },
        None => {
            let received = here.as_ref().and_then(|facts| facts.receive_lsn.max(facts.replay_lsn));
            Written { lsn: received, by_primary: false }
        }
    }
}

async fn attempt(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Result<RestorePlan, Broken> {
    let JobSpec::Plan(params) = job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a restore").into());
    };
    let (card, database) = agent.place()?;
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    say(agent, job, "reading the repo", 0, 0).await;
    let repo = Repo::open(agent, &database, &card).await?;
    let written = written(agent, &card).await;
    let survey = repo.survey(leader.term, written.lsn).await?;
    let found = match &params.target {
        Target::Name(_) | Target::Xid(_) => {
            let lineage = survey.lineage(params.timeline.unwrap_or(survey.current))?;
            let data = Path::new(&card.data_directory);
            locate(agent, job, control, &database, data, &repo, &survey, &lineage, &params.target).await?
        }
        _ => None,
    };
    let choice = choose(&survey, &params.target, params.timeline, found.as_ref())?;
    has_no_tablespaces(agent, &database, &repo, &choice.backup.label).await?;
    let needed = choice.backup.size_bytes + WAL_ROOM * repo.segment_size().bytes();
    let (cells, mut warnings) = cells(agent, &params, written.by_primary, needed).await?;
    warnings.splice(0..0, choice.warnings);
    Ok(RestorePlan {
        target: params.target.clone(),
        resolved: choice.resolved,
        found: found.map(|found| format!("{} at {}", found.record, found.lsn)).unwrap_or_default(),
        timeline: choice.timeline,
        backup: choice.backup.label.clone(),
        why: choice.why,
        wal_start: choice.wal_start,
        wal_stop: choice.wal_stop,
        wal_segments: choice.segments,
        size_bytes: choice.backup.size_bytes,
        estimated_seconds: estimate(agent, choice.backup.size_bytes, choice.segments),
        windows: windows(&survey),
        cells,
        warnings,
    })
}

/// A tablespace lies outside the data directory, at a path that the old and the restored database would share.
async fn has_no_tablespaces(
    agent: &Agent,
    database: &Database,
    repo: &Repo<'_>,
    label: &cellar_model::BackupLabel,
) -> Result<(), JobError> {
    let path = format!("backup/{}/{label}/backup.manifest", database.stanza);
    let timeout = std::time::Duration::from_secs(60);
    let manifest = agent.pgbackrest.repo_get(&repo.config, &database.stanza, &path, timeout).await;
    let manifest = manifest.map_err(|error| match error {
        cellar_pgbackrest::Error::NotInRepository(_) => {
            Refusal::new(Code::RepoDamaged, format!("the manifest of backup {label} is not in the repo"))
                .hint("name another backup (`cellar backups list`)")
                .into()
        }
        error => crate::repository::backup_proof::tool_error("reading the backup's manifest", &error),
    })?;
    if manifest.lines().any(|line| line.starts_with("pg_tblspc/")) {
        return Err(Refusal::new(
            Code::Unsupported,
            format!("backup {label} has tablespaces, which Cellar cannot restore beside the old ones"),
        )
        .hint("restore by hand with `pgbackrest restore --tablespace-map`; a drill (`cellar drill`) works")
        .into());
    }
    Ok(())
}

/// Seconds that a restore of that size is going to take, from what restores of this cell took; 0 when there was none.
fn estimate(agent: &Agent, size_bytes: u64, segments: u64) -> u32 {
    let view = agent.mirror.view();
    let (mut bytes, mut millis) = (0_u64, 0_u64);
    for run in view.runs.values().filter(|run| run.cell == agent.cell && run.state == JobState::Succeeded) {
        let measured = match &run.result {
            Some(JobOutcome::Recovery(recovery)) => Some((recovery.size_bytes, recovery.restore_millis)),
            // A delta copies less than there is.
            Some(JobOutcome::Rebuild(rebuild)) if !rebuild.delta => {
                Some((rebuild.size_bytes, rebuild.restore_millis))
            }
            _ => None,
        };
        if let Some((size, took)) = measured.filter(|(size, took)| *size > 0 && *took > 0) {
            bytes += size;
            millis += took;
        }
    }
    if bytes == 0 {
        return 0;
    }
    let copying = u128::from(size_bytes) * u128::from(millis) / u128::from(bytes);
    // Replay of a segment takes about a quarter of a second, most of it to fetch it.
    let total = copying + u128::from(segments) * 250;
    u32::try_from(total.div_ceil(1000)).unwrap_or(u32::MAX)
}

/// What happens to each cell, with its room.
async fn cells(
    agent: &Agent,
    params: &RestoreParams,
    primary_answers: bool,
    needed: u64,
) -> Result<(Vec<CellPlan>, Vec<String>), Refusal> {
    let leader = agent.leader().map(|leader| leader.cell);
    let (members, alive): (Vec<Pooler>, Vec<CellName>) = {
        let view = agent.mirror.view();
        let ours = |database: &cellar_model::DatabaseName| *database == agent.database;
        (
            view.poolers.values().filter(|card| ours(&card.database)).cloned().collect(),
            view.status
                .values()
                .filter(|status| ours(&status.database))
                .map(|status| status.cell.clone())
                .collect(),
        )
    };
    let mut plans = Vec::new();
    let mut warnings = Vec::new();
    let mut short = Vec::new();
    for card in members {
        let chosen = params.onto.as_ref() == Some(&card.cell);
        let primary = leader.as_ref() == Some(&card.cell);
        if !alive.contains(&card.cell) {
            if primary {
                warnings.push(format!(
                    "the primary in {} is down: rows that it had neither archived nor sent to the restored cell are lost. Make sure that its PostgreSQL does not run",
                    card.cell
                ));
            }
            plans.push(CellPlan {
                cell: card.cell,
                action: "is down: left out, and rebuilt when it returns".to_owned(),
                needed_bytes: 0,
                free_bytes: 0,
            });
            continue;
        }
        let free = if card.cell == agent.cell {
            Some(free_bytes(Path::new(&card.data_directory)))
        } else {
            peers::live_status(agent, &card).await.ok().map(|live| live.free_bytes)
        };
        let needs = if params.in_place { 0 } else { needed };
        if free.is_none() {
            warnings.push(format!("the instance of {} does not answer, so its room is not known", card.cell));
        }
        if let Some(free) = free.filter(|free| *free < needs) {
            short.push(format!("{} has {free} of {needs} bytes", card.cell));
        }
        let stops = if primary { "is stopped, " } else { "" };
        let action = match (chosen, params.in_place) {
            (true, false) => {
                format!("{stops}restored beside the old data, which is kept, and becomes the primary")
            }
            (true, true) => {
                format!("{stops}restored over the old data, which is lost, and becomes the primary")
            }
            (false, false) => format!("{stops}read-only until it is rebuilt; the old data is kept"),
            (false, true) => format!("{stops}read-only until it is rebuilt over the old data, which is lost"),
        };
        plans.push(CellPlan { cell: card.cell, action, needed_bytes: needs, free_bytes: free.unwrap_or(0) });
    }
    if !short.is_empty() {
        return Err(Refusal::new(
            Code::DiskFull,
            format!("there is no room for the old and the restored data side by side: {}", short.join("; ")),
        )
        .hint("make room, or restore with --in-place: then the old data is lost and there is no rollback")
        .about("database", &agent.database));
    }
    if params.in_place {
        warnings.push("in place: the old data is lost, and there is no rollback".to_owned());
    }
    if let Target::Latest {} = params.target
        && !primary_answers
    {
        warnings.push("the primary does not answer: where its WAL ended is not known".to_owned());
    }
    Ok((plans, warnings))
}
