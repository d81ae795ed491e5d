//! A plan: what a restore would do. The repo is read, the way to the target is chosen, and nothing is changed.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{
    BackupLabel, Code, Database, JobError, JobOutcome, JobSpec, JobState, Leader, Refusal, RestorePlan,
    Target, Timeline, check_in_use, choose, windows,
};
use cellar_topology::EndedJob;

use crate::agent::Agent;
use crate::instance::incarnation::record;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::locate::locate;
use crate::jobs::restore::plan_cells::{CellPlans, plan_cells};
use crate::jobs::written::written;
use crate::repository::reader::Repo;

/// What a restored directory needs beyond its backup's size: WAL that is replayed and written, in segments.
const WAL_ROOM_SEGMENTS: u64 = 8;

/// How long pgBackRest may take to read a manifest.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a restored primary is waited for that has not recorded itself yet.
const PRIMARY_TIMEOUT: Duration = Duration::from_secs(15);

/// How often it is looked for.
const PRIMARY_INTERVAL: Duration = Duration::from_millis(200);

/// What replaying one segment takes: a quarter of a second, most of it to fetch the segment.
const REPLAY_MILLIS_PER_SEGMENT: u128 = 250;

/// Runs a planning job to its end.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let plan = plan(context).await?;
    Ok(Some(JobOutcome::Plan(plan)))
}

/// The recorded primary. Where no timeline is named it must be the present one, for which a restore that took effect just
/// now is waited for: what is latest, or was at a time, would else be sought on the timeline that was left.
async fn present_leader(context: &JobContext<'_>, named: Option<Timeline>) -> Result<Leader, JobFailure> {
    let agent = context.agent;
    let deadline = Instant::now() + PRIMARY_TIMEOUT;
    loop {
        let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
        match check_in_use(Some(&record(agent)), Some(&leader), &agent.database) {
            Err(refusal) if named.is_none() && Instant::now() >= deadline => return Err(refusal.into()),
            Err(_) if named.is_none() => context.pause(PRIMARY_INTERVAL).await?,
            _ => return Ok(leader),
        }
    }
}

async fn plan(context: &mut JobContext<'_>) -> Result<RestorePlan, JobFailure> {
    let JobSpec::Plan(params) = context.job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a restore").into());
    };
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    let leader = present_leader(context, params.timeline).await?;
    context.progress("reading the repo").await;
    let repo = Repo::open(agent, &database, &card).await?;
    let written = written(agent, &card).await;
    let survey = repo.survey(leader.term, written.lsn).await?;
    let found = match &params.target {
        Target::Name(_) | Target::Xid(_) => {
            let lineage = survey.lineage(params.timeline.unwrap_or(survey.current))?;
            let data = Path::new(&card.data_directory);
            locate(context, &database, data, &repo, &survey, &lineage, &params.target).await?
        }
        _ => None,
    };
    let choice = choose(&survey, &params.target, params.timeline, found.as_ref(), params.backup.as_ref())?;
    check_no_tablespaces(agent, &database, &repo, &choice.backup.label).await?;
    let needed = choice.backup.size_bytes + WAL_ROOM_SEGMENTS * repo.segment_size().bytes();
    let CellPlans { plans, warnings, silent_primary } =
        plan_cells(agent, &params, written.by_primary, needed).await?;
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
        more_windows: 0,
        cells: plans,
        warnings: choice.warnings.into_iter().chain(warnings).collect(),
        silent_primary,
    })
}

/// Refuses a backup with tablespaces: they lie outside the data directory, at paths that the old and the restored
/// database would share.
async fn check_no_tablespaces(
    agent: &Agent,
    database: &Database,
    repo: &Repo<'_>,
    label: &BackupLabel,
) -> Result<(), JobError> {
    let path = format!("backup/{}/{label}/backup.manifest", database.stanza);
    let manifest = agent.pgbackrest.repo_get(&repo.config, &database.stanza, &path, MANIFEST_TIMEOUT).await;
    let manifest = manifest.map_err(|error| match error {
        cellar_pgbackrest::Error::NotInRepository(_) => {
            Refusal::new(Code::RepoDamaged, format!("the manifest of backup {label} is not in the repo"))
                .hint("name another backup (`cellar backups list`)")
                .into()
        }
        error => repo.error("reading the backup's manifest", &error),
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

/// Seconds that a restore of that size will take, estimated from earlier restores of this cell; 0 when there was none.
fn estimate(agent: &Agent, size_bytes: u64, segments: u64) -> u32 {
    let view = agent.mirror.view();
    let (mut bytes, mut millis) = (0_u64, 0_u64);
    let own = |job: &&EndedJob| job.cell == agent.cell && job.state == JobState::Succeeded;
    for job in view.ended.values().filter(own) {
        if let Some((size, took)) = job.restored.filter(|(size, took)| *size > 0 && *took > 0) {
            bytes += size;
            millis += took;
        }
    }
    if bytes == 0 {
        return 0;
    }
    let copying = u128::from(size_bytes) * u128::from(millis) / u128::from(bytes);
    let total = copying + u128::from(segments) * REPLAY_MILLIS_PER_SEGMENT;
    u32::try_from(total.div_ceil(1000)).unwrap_or(u32::MAX)
}
