//! A rehearsal: a backup is restored where nobody sees it, brought to the end of the WAL, checked, and removed.
//!
//! It takes nothing from the live instance but what is left over: everything runs niced, the restore is held
//! below a rate, and it does not begin at all when memory or disk are short.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_model::{
    Code, DrillCheck, DrillParams, DrillResult, JobError, JobOutcome, JobSpec, Lineage, Refusal,
    SurveyedBackup, Target, newest_on,
};
use cellar_postgres::{
    CommandOutput, DataDirectory, MONITOR_ROLE, PostgresError, ensure_roles, execute, inspect,
    run as run_program,
};

use crate::agent::Agent;
use crate::jobs::claim::{ClaimedJob, Ending};
use crate::jobs::control::{Control, interrupted_ending};
use crate::jobs::restore::private_instance::{Broken, Course, End, Sandbox, remove, say};
use crate::repository::reader::{Repo, free_bytes};

/// Room for WAL and what recovery writes, beside the backup's own size.
const WAL_ROOM: u64 = 256 << 20;

/// Memory that must be available: the copy's shared buffers and processes, several times over.
const MEMORY: u64 = 512 << 20;

/// How long one check may take.
const CHECK: Duration = Duration::from_secs(3600);

/// How long one statement that prepares the copy for checks may take.
const SETTING_UP: Duration = Duration::from_secs(30);

/// How often a running check looks whether it must end.
const LOOK: Duration = Duration::from_millis(200);

/// Lines of a failed program that a check's detail quotes.
const DETAIL: usize = 400;

/// Runs a drill to its end.
pub(crate) async fn run(agent: &Agent, job: &mut ClaimedJob, control: &Control) -> Ending {
    let JobSpec::Drill(params) = job.record.spec.clone() else {
        return Ending::Failed(
            Refusal::new(Code::InvalidArgument, "the job has no parameters of a drill").into(),
        );
    };
    let home = agent.layout.drills().join(job.record.id.to_string());
    let outcome = attempt(agent, job, control, &params, &home).await;
    let removed = home.clone();
    let _ = tokio::task::spawn_blocking(move || remove(&removed)).await;
    match outcome {
        Ok(result) => {
            let broken: Vec<&str> =
                result.checks.iter().filter(|check| !check.passed).map(|check| check.name.as_str()).collect();
            if broken.is_empty() {
                return Ending::Succeeded(Some(JobOutcome::Drill(result)));
            }
            let error = Refusal::new(
                Code::CheckFailed,
                format!("backup {} was restored, but did not pass: {}", result.backup, broken.join(", ")),
            )
            .hint("look at the checks' details (`cellar jobs show`); drill an older backup to see since when it is so");
            job.keep(JobOutcome::Drill(result));
            Ending::Failed(error.into())
        }
        Err(Broken::Interrupted(why)) => interrupted_ending(why, "nothing is left of the drill"),
        Err(Broken::Failed(error)) => Ending::Failed(error),
    }
}

/// Memory that programs could have now, without swapping; none when the kernel does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 = text.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
    })?;
    Some(kib * 1024)
}

async fn choose(
    repo: &Repo<'_>,
    agent: &Agent,
    params: &DrillParams,
) -> Result<(SurveyedBackup, Lineage, Option<End>), JobError> {
    let leader = agent.leader().ok_or_else(|| Refusal::new(Code::NoPrimary, "no primary is recorded"))?;
    let survey = repo.survey(leader.term, None).await?;
    let current = survey.lineage(leader.term)?;
    let backup = match &params.backup {
        Some(label) => survey.backups.iter().find(|backup| backup.label == *label).ok_or_else(|| {
            Refusal::new(Code::UnknownBackup, format!("there is no backup {label}"))
                .hint("`cellar backups list` shows them all")
                .about("backup", label)
        })?,
        None => newest_on(&survey.backups, &current).ok_or_else(|| {
            Refusal::new(Code::UnknownBackup, "there is no backup yet").hint("take one: `cellar backup`")
        })?,
    };
    let on_it = current.contains(backup.timeline, backup.stop_lsn);
    let lineage = if on_it { current } else { survey.lineage(backup.timeline)? };
    let missing = |first: u64, last: u64| lineage.missing(first, last, &survey.archive);
    if let Some(gap) = missing(backup.first_segment, backup.last_segment).first() {
        let message = format!(
            "backup {} needs WAL segment {} to become consistent, and the archive does not have it",
            backup.label,
            survey.archive.size.file_name(*gap)
        );
        return Err(Refusal::new(Code::WalMissing, message)
            .hint("drill another backup, and take a new one")
            .into());
    }
    let end = lineage.newest(&survey.archive).map(End::Within);
    Ok((backup.clone(), lineage, end))
}

async fn attempt(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    params: &DrillParams,
    home: &Path,
) -> Result<DrillResult, Broken> {
    let (card, database) = agent.place()?;
    say(agent, job, "reading the repo", 0, 0).await;
    let repo = Repo::open(agent, &database, &card).await?;
    let (backup, lineage, end) = choose(&repo, agent, params).await?;
    if let Some(memory) = available_memory().filter(|memory| *memory < MEMORY) {
        return Err(Refusal::new(
            Code::MemoryShort,
            format!("{memory} bytes of memory are available, and a drill wants {MEMORY}"),
        )
        .hint("drill on another cell, or when there is less to do here")
        .about("cell", &agent.cell)
        .into());
    }
    let needed = backup.size_bytes + WAL_ROOM;
    let free = free_bytes(home);
    if free < needed {
        return Err(Refusal::new(
            Code::DiskFull,
            format!("the copy needs {needed} bytes, and {free} are free"),
        )
        .hint("make room, or drill on another cell")
        .about("cell", &agent.cell)
        .into());
    }
    let mut sandbox = Sandbox::new(agent, &database, &card, job.record.id, home.join("data"), params.nice);
    sandbox.tablespaces = Some(home.join("tablespaces"));
    let outcome = rehearse(agent, job, control, params, &sandbox, &repo, &backup, &lineage, end).await;
    sandbox.leave().await;
    outcome
}

#[expect(clippy::too_many_arguments, reason = "the middle part of one function")]
async fn rehearse(
    agent: &Agent,
    job: &mut ClaimedJob,
    control: &Control,
    params: &DrillParams,
    sandbox: &Sandbox<'_>,
    repo: &Repo<'_>,
    backup: &SurveyedBackup,
    lineage: &Lineage,
    end: Option<End>,
) -> Result<DrillResult, Broken> {
    let begun = Instant::now();
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    sandbox.prepare()?;
    if let Some(path) = &sandbox.tablespaces {
        std::fs::create_dir_all(path).map_err(|error| {
            Refusal::new(Code::DiskFull, format!("cannot create {}: {error}", path.display()))
        })?;
    }
    sandbox
        .restore(job, control, &backup.label, backup.size_bytes, false, params.max_bytes_per_second)
        .await?;
    let restored = begun.elapsed();
    let course = Course {
        target: Target::Latest {},
        timeline: lineage.timeline(),
        end,
        size: repo.segment_size(),
        archive_mode: false,
    };
    let reached = sandbox.recover(job, control, &course).await?;
    let replayed = begun.elapsed();
    // Writable, for some checks write; with archiving off nobody else ever hears of it.
    sandbox.promote(&reached).await?;
    let mut checks = Vec::new();
    if !params.skip_amcheck {
        say(agent, job, "running pg_amcheck", 0, 0).await;
        checks.push(amcheck(sandbox, control, agent).await?);
    }
    if !params.checks.is_empty() {
        let failed = |error| sandbox.failed("setting up the checks", &error);
        admit_checks(sandbox, agent, params).await.map_err(failed)?;
    }
    for (at, sql) in params.checks.iter().enumerate() {
        if let Some(why) = control.interrupted(agent) {
            return Err(Broken::Interrupted(why));
        }
        say(agent, job, &format!("running check {} of {}", at + 1, params.checks.len()), 0, 0).await;
        checks.push(check(sandbox, control, agent, &params.check_database, sql).await?);
    }
    sandbox.stop().await?;
    if let Ok(DataDirectory::Valid { control: found, .. }) = inspect(&agent.tools, &sandbox.data).await
        && found.data_checksums
    {
        say(agent, job, "checking page checksums", 0, 0).await;
        checks.push(checksums(sandbox, control, agent).await?);
    }
    Ok(DrillResult {
        backup: backup.label.clone(),
        size_bytes: backup.size_bytes,
        restore_millis: millis(restored),
        readable_millis: millis(reached.readable.saturating_duration_since(begun)),
        replayed_millis: millis(replayed),
        lsn: reached.lsn,
        last_commit: reached.last_commit,
        checks,
    })
}

fn outcome(name: &str, result: Result<String, PostgresError>) -> DrillCheck {
    let (passed, detail) = match result {
        Ok(detail) => (true, detail),
        Err(PostgresError::CommandFailed { output, .. }) => (false, output),
        Err(error) => (false, error.to_string()),
    };
    DrillCheck { name: name.to_owned(), passed, detail: detail.chars().take(DETAIL).collect() }
}

/// Runs one program of the checks. A big database takes hours: a wish to end must be heard meanwhile. Dropping the future
/// kills the program.
async fn interruptible(
    agent: &Agent,
    control: &Control,
    command: tokio::process::Command,
) -> Result<Result<CommandOutput, PostgresError>, Broken> {
    let mut running = std::pin::pin!(run_program(command, CHECK));
    loop {
        tokio::select! {
            result = &mut running => return Ok(result),
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(why) = control.interrupted(agent) {
            return Err(Broken::Interrupted(why));
        }
    }
}

async fn amcheck(sandbox: &Sandbox<'_>, control: &Control, agent: &Agent) -> Result<DrillCheck, Broken> {
    let mut command = sandbox.client("pg_amcheck");
    command.args(["--all", "--install-missing", "--heapallindexed", "--jobs=1", "-U", "postgres"]);
    let result = interruptible(agent, control, command).await?;
    let said = |text: String| text.lines().last().unwrap_or("no damage found").to_owned();
    Ok(outcome("pg_amcheck", result.map(|output| said(output.stdout))))
}

/// How psql runs a check: as SQL and nothing else, in that database of that server and no other.
fn psql_arguments(database: &str, sql: &str) -> Vec<String> {
    let database = if database.is_empty() { "postgres" } else { database };
    // A bare name that holds `=` would be read as a connection string, which can name another server.
    let database = format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"));
    // A command that begins with a backslash would be psql's own, such as `\!`, which runs a program.
    let sql = format!("\n{sql}");
    let fixed = ["-X", "-w", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", MONITOR_ROLE];
    let fixed = fixed.map(str::to_owned);
    fixed.into_iter().chain(["-d".to_owned(), database, "-c".to_owned(), sql]).collect()
}

/// Lets [`MONITOR_ROLE`] read and write all data of the copy. Checks run as that role: the SQL comes from whoever may
/// ask for a drill, and a superuser's SQL can run programs, here beside the real data directory.
async fn admit_checks(
    sandbox: &Sandbox<'_>,
    agent: &Agent,
    params: &DrillParams,
) -> Result<(), PostgresError> {
    let endpoint = sandbox.endpoint();
    // A backup from before the role was there has none.
    ensure_roles(&endpoint, &agent.user.name, SETTING_UP).await?;
    let rights = format!(
        "GRANT pg_read_all_data, pg_write_all_data TO {MONITOR_ROLE}; ALTER ROLE {MONITOR_ROLE} BYPASSRLS"
    );
    execute(&endpoint, &rights, SETTING_UP).await?;
    let database = if params.check_database.is_empty() { "postgres" } else { &params.check_database };
    let grant = format!(
        "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE \"{}\" TO {MONITOR_ROLE}",
        database.replace('"', "\"\"")
    );
    // Of a database that is not there the checks themselves will tell.
    if let Err(error) = execute(&endpoint, &grant, SETTING_UP).await {
        tracing::info!(%error, "the database of a drill's checks cannot be opened to them");
    }
    Ok(())
}

/// A check holds when it runs without error and none of its rows begins with anything but true.
async fn check(
    sandbox: &Sandbox<'_>,
    control: &Control,
    agent: &Agent,
    database: &str,
    sql: &str,
) -> Result<DrillCheck, Broken> {
    let name: String = sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(80).collect();
    let mut command = sandbox.client("psql");
    command.args(psql_arguments(database, sql));
    Ok(match interruptible(agent, control, command).await? {
        Ok(output) => {
            let rows = output.stdout.trim();
            let first =
                |row: &str| row.split('|').next().is_some_and(|value| value == "t" || value == "true");
            let passed = rows.is_empty() || rows.lines().all(first);
            DrillCheck { name, passed, detail: rows.chars().take(DETAIL).collect() }
        }
        Err(error) => outcome(&name, Err(error)),
    })
}

async fn checksums(sandbox: &Sandbox<'_>, control: &Control, agent: &Agent) -> Result<DrillCheck, Broken> {
    let mut command = sandbox.tools().command("pg_checksums");
    command.arg("--check").arg("-D").arg(&sandbox.data);
    let result = interruptible(agent, control, command).await?;
    let counted = |text: String| {
        let line = |what: &str| text.lines().find(|line| line.starts_with(what)).map(str::to_owned);
        line("Blocks scanned").unwrap_or_default()
    };
    Ok(outcome("page checksums", result.map(|output| counted(output.stdout))))
}

/// Removes what drills of an earlier process left behind, their instances included. Before any job of this one runs.
pub(crate) async fn sweep(agent: &Agent) {
    let Ok(entries) = std::fs::read_dir(agent.layout.drills()) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        tracing::info!(path = %path.display(), "removing what is left of a drill");
        let job = entry.file_name().to_str().and_then(|name| name.parse::<cellar_model::JobId>().ok());
        let scratch = job.map_or_else(|| path.join("scratch"), |job| agent.layout.scratch(job));
        crate::jobs::restore::private_instance::clear(&path.join("data"), &scratch).await;
        remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A value in single quotes as libpq reads it; `None` when it does not end where the text ends.
    fn unquoted(text: &str) -> Option<String> {
        let mut chars = text.strip_prefix('\'')?.chars();
        let mut value = String::new();
        loop {
            match chars.next()? {
                '\\' => value.push(chars.next()?),
                '\'' => return chars.as_str().is_empty().then_some(value),
                c => value.push(c),
            }
        }
    }

    proptest! {
        #[test]
        fn a_check_is_one_argument_of_sql_and_its_database_one_name(
            database in prop_oneof!["[-a-z '\"\\\\=;$()/.]{1,40}", Just("host=/tmp port=1".to_owned()), ".{1,40}"],
            sql in prop_oneof!["[-\\\\!;'\"$` a-z]{1,40}", Just("\\! touch /tmp/x".to_owned()), "(?s).{1,40}"],
        ) {
            let arguments = psql_arguments(&database, &sql);
            prop_assert_eq!(arguments.len(), 13);
            prop_assert_eq!(&arguments[7..10], ["-U", MONITOR_ROLE, "-d"]);
            prop_assert_eq!(&arguments[12], &format!("\n{sql}"));
            prop_assert_eq!(unquoted(arguments[10].strip_prefix("dbname=").unwrap()), Some(database));
        }
    }
}
