//! A drill: a backup is restored into a private instance, recovered to the end of the WAL, checked, and removed.
//!
//! The live instance goes first: everything runs niced, the restore is held below a rate, and a drill does not begin
//! when memory or disk are short. It ends when the disk becomes short meanwhile.

mod checks;
mod choice;

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{
    CellLayout, Code, Database, DrillCheck, DrillParams, DrillResult, JobError, JobOutcome, JobSpec, Pooler,
    Refusal, SurveyedBackup, Target,
};
use cellar_system::{available_memory, clock};

use crate::agent::Agent;
use crate::disk::{below_floor, floor_bytes, free_bytes, write_refusal};
use crate::instance::restore_target::Origin;
use crate::jobs::context::{JobContext, JobResult};
use crate::jobs::drill::checks::run_checks;
use crate::jobs::drill::choice::{Choice, choose};
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::jobs::restore::replay::ReplayGoal;
use crate::jobs::restore::scratch::remove_directory;
use crate::repository::reader::Repo;

/// Room for WAL and for what recovery writes, beside the backup's own size, in bytes.
const WAL_ROOM_BYTES: u64 = 256 << 20;

/// How often the room is looked at while a drill runs. A fast disk takes a hundred megabytes in this time.
const DISK_INTERVAL: Duration = Duration::from_millis(100);

/// Memory that must be available, in bytes: several times the copy's shared buffers and processes.
const MIN_AVAILABLE_MEMORY_BYTES: u64 = 512 << 20;

/// Runs a drill to its end. A check that does not pass is a failure that has a result.
pub(crate) async fn run(context: &mut JobContext<'_>) -> JobResult {
    let JobSpec::Drill(params) = context.job.record.spec.clone() else {
        return Err(Refusal::new(Code::InvalidArgument, "the job has no parameters of a drill").into());
    };
    context.if_interrupted("nothing is left of the drill");
    let home = context.agent.layout.drills().join(context.job.record.id.to_string());
    let outcome = drill(context, &params, &home).await;
    remove_directory(&home).await;
    let result = outcome?;
    let names = |is_named: fn(&DrillCheck) -> bool| {
        result
            .checks
            .iter()
            .filter(|check| is_named(check))
            .map(|check| check.name.as_str())
            .collect::<Vec<_>>()
    };
    let (failed, not_run) =
        (names(|check| !check.passed && !check.could_not_run), names(|check| check.could_not_run));
    let error = if !failed.is_empty() {
        Refusal::new(
            Code::CheckFailed,
            format!("backup {} was restored, but did not pass: {}", result.backup, failed.join(", ")),
        )
        .hint(
            "look at the checks' details (`cellar jobs show`); drill an older backup to see since when it is so",
        )
    } else if !not_run.is_empty() {
        Refusal::new(
            Code::PostgresFailed,
            format!(
                "backup {} was restored, and could not be checked by: {}; this says nothing about the backup",
                result.backup,
                not_run.join(", ")
            ),
        )
        .hint("the checks' details say what is in their way (`cellar jobs show`); correct it and drill again")
    } else {
        return Ok(Some(JobOutcome::Drill(result)));
    };
    context.job.keep_outcome(JobOutcome::Drill(result));
    Err(error.into())
}

async fn drill(
    context: &mut JobContext<'_>,
    params: &DrillParams,
    home: &Path,
) -> Result<DrillResult, JobFailure> {
    let agent = context.agent;
    let (card, database) = agent.assignment()?;
    context.progress("reading the repo").await;
    let repo = Repo::open(agent, &database, &card).await?;
    let choice = choose(&repo, agent, params).await?;
    check_rate(context, &choice.backup, params.max_bytes_per_second)?;
    check_room(agent, &choice.backup, home)?;
    let copy = prepare_copy(context, &database, &card, params, home);
    // What is dropped ends the processes that it has started; `leave` stops the copy.
    let outcome = tokio::select! {
        outcome = restore_and_check(context, params, &copy, &repo, choice) => outcome,
        short = disk_gets_short(agent, home) => Err(short.into()),
    };
    copy.leave().await;
    outcome
}

/// Waits until the file system of the copy has less room left than the live instance may need: WAL that is replayed
/// makes a copy grow, its checks may write, and others use the disk too. Never returns otherwise.
async fn disk_gets_short(agent: &Agent, home: &Path) -> JobError {
    loop {
        tokio::time::sleep(DISK_INTERVAL).await;
        if let Some((floor, free)) =
            floor_bytes(home).and_then(|floor| Some((floor, below_floor(home, floor)?)))
        {
            return Refusal::new(
                Code::DiskFull,
                format!("{free} bytes are free, and {floor} are left to the database; the copy is removed"),
            )
            .hint("make room, or drill on another cell")
            .about("cell", &agent.cell)
            .into();
        }
    }
}

/// How long copying takes at a rate; none without one.
fn time_of_copy(size_bytes: u64, bytes_per_second: u64) -> Option<Duration> {
    Some(Duration::from_secs(size_bytes.checked_div(bytes_per_second)?))
}

/// Refuses a rate at which the job's deadline passes before the copy is made.
fn check_rate(context: &JobContext<'_>, backup: &SurveyedBackup, rate: u64) -> Result<(), JobError> {
    let left = context.job.record.deadline.duration_since(clock::now());
    let left = Duration::try_from(left).unwrap_or_default();
    let Some(time) = time_of_copy(backup.size_bytes, rate).filter(|time| *time > left) else {
        return Ok(());
    };
    Err(Refusal::new(
        Code::InvalidArgument,
        format!(
            "at {rate} bytes a second the copy of {} bytes takes {} s, and the job ends at its deadline in {} s",
            backup.size_bytes,
            time.as_secs(),
            left.as_secs()
        ),
    )
    .hint("raise --max-rate, or give the drill more time (--timeout)")
    .into())
}

fn check_room(agent: &Agent, backup: &SurveyedBackup, home: &Path) -> Result<(), JobError> {
    if let Some(memory) = available_memory().filter(|memory| *memory < MIN_AVAILABLE_MEMORY_BYTES) {
        return Err(Refusal::new(
            Code::MemoryShort,
            format!("{memory} bytes of memory are available, and a drill needs {MIN_AVAILABLE_MEMORY_BYTES}"),
        )
        .hint("drill on another cell, or when there is less to do here")
        .about("cell", &agent.cell)
        .into());
    }
    let floor = floor_bytes(home).unwrap_or_default();
    let needed = backup.size_bytes + WAL_ROOM_BYTES + floor;
    let free = free_bytes(home);
    if free < needed {
        return Err(Refusal::new(
            Code::DiskFull,
            format!(
                "{needed} bytes are needed, {floor} of them are left to the database, and {free} are free"
            ),
        )
        .hint("make room, or drill on another cell")
        .about("cell", &agent.cell)
        .into());
    }
    Ok(())
}

fn prepare_copy<'a>(
    context: &JobContext<'a>,
    database: &'a Database,
    card: &'a Pooler,
    params: &DrillParams,
    home: &Path,
) -> PrivateInstance<'a> {
    let (job, data) = (context.job.record.id, CellLayout::drill_data(home));
    let mut copy = PrivateInstance::new(context.agent, database, card, job, data, params.nice);
    copy.tablespaces = Some(home.join("tablespaces"));
    copy
}

async fn restore_and_check(
    context: &mut JobContext<'_>,
    params: &DrillParams,
    copy: &PrivateInstance<'_>,
    repo: &Repo<'_>,
    choice: Choice,
) -> Result<DrillResult, JobFailure> {
    let Choice { backup, lineage, end } = choice;
    let begun = Instant::now();
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    copy.prepare()?;
    if let Some(path) = &copy.tablespaces {
        std::fs::create_dir_all(path)
            .map_err(|error| write_refusal(&format!("cannot create {}", path.display()), &error))?;
    }
    copy.restore(context, &backup.label, backup.size_bytes, Origin::NEW, params.max_bytes_per_second).await?;
    let restored = begun.elapsed();
    let goal = ReplayGoal {
        target: Target::Latest {},
        timeline: lineage.timeline(),
        end,
        least: None,
        size: repo.segment_size(),
        archive_mode: false,
    };
    let reached = copy.replay(context, &goal).await?;
    let replayed = begun.elapsed();
    // Some checks write, so the copy is promoted. Archiving is off, so its new timeline stays here.
    copy.promote(&reached).await?;
    let checks = run_checks(context, copy, params).await?;
    Ok(DrillResult {
        backup: backup.label,
        size_bytes: backup.size_bytes,
        restore_millis: millis(restored),
        readable_millis: millis(reached.readable.saturating_duration_since(begun)),
        replayed_millis: millis(replayed),
        lsn: reached.lsn,
        last_commit: reached.last_commit,
        checks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_takes_as_long_as_its_rate_says() {
        assert_eq!(time_of_copy(10 << 20, 1 << 20), Some(Duration::from_secs(10)));
        assert_eq!(time_of_copy(10 << 20, 0), None);
    }
}
