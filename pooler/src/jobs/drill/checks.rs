//! The checks of a restored copy: `pg_amcheck`, SQL, and page checksums.

#[cfg(test)]
mod tests;

use std::time::Duration;

use cellar_model::{DrillCheck, DrillParams};
use cellar_postgres::{
    CommandOutput, DataDirectory, Endpoint, MONITOR_ROLE, PostgresError, ensure_roles, execute, execute_in,
    inspect, query, run as run_program,
};

use crate::agent::Agent;
use crate::jobs::context::JobContext;
use crate::jobs::failure::JobFailure;
use crate::jobs::restore::private_instance::PrivateInstance;

/// How long one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long one statement that prepares the copy for checks may take.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a job with a running check looks whether it must end early.
const INTERRUPTION_INTERVAL: Duration = Duration::from_millis(200);

/// The name of the check by `pg_amcheck`.
const AMCHECK: &str = "pg_amcheck";

/// Characters of a program's output that a check's detail keeps.
const MAX_DETAIL_CHARS: usize = 400;

/// Characters of a check's SQL that are its name.
const MAX_NAME_CHARS: usize = 80;

/// Runs all checks that `params` asks for on a promoted copy, which is stopped before its checksums are checked.
///
/// # Errors
/// When the checks cannot be run. A check that does not pass is no error.
pub(super) async fn run_checks(
    context: &mut JobContext<'_>,
    copy: &PrivateInstance<'_>,
    params: &DrillParams,
) -> Result<Vec<DrillCheck>, JobFailure> {
    let agent = context.agent;
    let mut checks = Vec::new();
    let prepared = forget_the_databases_rules(&copy.endpoint()).await;
    if !params.skip_amcheck {
        context.progress("running pg_amcheck").await;
        checks.push(match &prepared {
            Ok(skipped) => with_skipped(amcheck(context, copy).await?, skipped),
            Err(error) => not_run(AMCHECK, &error.to_string()),
        });
    }
    let granted = match prepared {
        Ok(_) if !params.checks.is_empty() => grant_check_rights(copy, agent, params).await,
        prepared => prepared.map(drop),
    };
    for (at, sql) in params.checks.iter().enumerate() {
        context.check_interrupted()?;
        context.progress(&format!("running check {} of {}", at + 1, params.checks.len())).await;
        checks.push(match &granted {
            Ok(()) => sql_check(context, copy, &params.check_database, sql).await?,
            Err(error) => not_run(&check_name(sql), &error.to_string()),
        });
    }
    copy.stop().await?;
    if let Ok(DataDirectory::Valid { control: found, .. }) = inspect(&agent.tools, &copy.data).await
        && found.data_checksums
    {
        context.progress("checking page checksums").await;
        checks.push(page_checksums(context, copy).await?);
    }
    Ok(checks)
}

fn detail(text: &str) -> String {
    text.chars().take(MAX_DETAIL_CHARS).collect()
}

/// The result of a check that could not be run.
fn not_run(name: &str, why: &str) -> DrillCheck {
    DrillCheck { name: name.to_owned(), passed: false, could_not_run: true, detail: detail(why) }
}

/// The result of a check that passes when its program succeeds. `is_found` says of the exit status and the output of
/// one that failed whether it has found something, rather than could not run.
fn program_check(
    name: &str,
    result: Result<String, PostgresError>,
    is_found: impl Fn(&str, &str) -> bool,
) -> DrillCheck {
    match result {
        Ok(text) => {
            DrillCheck { name: name.to_owned(), passed: true, could_not_run: false, detail: detail(&text) }
        }
        Err(PostgresError::CommandFailed { status, output, .. }) if is_found(&status, &output) => {
            DrillCheck { name: name.to_owned(), passed: false, could_not_run: false, detail: detail(&output) }
        }
        Err(PostgresError::CommandFailed { output, .. }) => not_run(name, &output),
        Err(error) => not_run(name, &error.to_string()),
    }
}

/// What PostgreSQL says when a check meets something that a copy does not have, by design or by chance, rather than
/// damage: libraries that the database loads at its start or from elsewhere, memory, disk, connections.
const IN_THE_WAY: [&str; 8] = [
    "shared_preload_libraries",
    "could not access file",
    "could not load library",
    "out of memory",
    "out of shared memory",
    "No space left on device",
    "too many clients",
    "connection to server",
];

/// Whether every error of an output is of something [`IN_THE_WAY`].
fn is_only_in_the_way(output: &str) -> bool {
    let mut errors =
        output.lines().filter(|line| line.contains("ERROR:") || line.contains("FATAL:")).peekable();
    let is_one = |line: &str| IN_THE_WAY.iter().any(|text| line.contains(text));
    if errors.peek().is_none() { is_one(output) } else { errors.all(is_one) }
}

/// Takes from the copy what the database's catalogs say of every session: settings of databases and roles, which may
/// forbid writing, end statements or load libraries, and event triggers, which may refuse what a check installs. The
/// copy is removed afterwards, and the checks are of its data.
///
/// Returns the databases that no session of ours reaches, because their names are not UTF-8. What their catalogs say of
/// event triggers still holds; `pg_amcheck` reaches them.
async fn forget_the_databases_rules(endpoint: &Endpoint) -> Result<Vec<String>, PostgresError> {
    execute(endpoint, "DELETE FROM pg_db_role_setting", SETUP_TIMEOUT).await?;
    // The bytes of each name, as they are in the catalog: a database is asked for with the same bytes.
    let databases = query(
        endpoint,
        "SET client_encoding = 'SQL_ASCII'; SELECT encode(namesend(datname), 'hex') FROM pg_database \
         WHERE datallowconn AND datconnlimit <> -2",
        SETUP_TIMEOUT,
    )
    .await?;
    let mut skipped = Vec::new();
    for digits in databases.iter().filter_map(|row| row.first()?.as_deref()) {
        match String::from_utf8(bytes_of_hex(digits)) {
            Ok(name) => {
                let disable = "UPDATE pg_event_trigger SET evtenabled = 'D'";
                execute_in(endpoint, &name, disable, SETUP_TIMEOUT).await?;
            }
            Err(error) => skipped.push(String::from_utf8_lossy(error.as_bytes()).into_owned()),
        }
    }
    Ok(skipped)
}

/// The bytes that hexadecimal digits stand for, as PostgreSQL writes them.
fn bytes_of_hex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks_exact(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

/// A check's result with the databases that could not be prepared for it.
fn with_skipped(mut check: DrillCheck, skipped: &[String]) -> DrillCheck {
    if !skipped.is_empty() {
        let names = detail(&skipped.join(", "));
        check.detail = format!(
            "{}; event triggers were not disabled in these databases, because their names are not UTF-8: {names}",
            check.detail
        );
    }
    check
}

/// Runs one program of the checks, which may take hours on a large database, until it ends or the job must end early.
/// Then the dropped future kills the program.
async fn interruptible(
    context: &JobContext<'_>,
    command: tokio::process::Command,
) -> Result<Result<CommandOutput, PostgresError>, JobFailure> {
    let mut running = std::pin::pin!(run_program(command, CHECK_TIMEOUT));
    loop {
        tokio::select! {
            result = &mut running => return Ok(result),
            () = tokio::time::sleep(INTERRUPTION_INTERVAL) => {}
        }
        context.check_interrupted()?;
    }
}

async fn amcheck(context: &JobContext<'_>, copy: &PrivateInstance<'_>) -> Result<DrillCheck, JobFailure> {
    let mut command = copy.client("pg_amcheck");
    command.args(["--all", "--install-missing", "--heapallindexed", "--jobs=1", "-U", "postgres"]);
    let result = interruptible(context, command).await?;
    let last_line = |text: String| text.lines().last().unwrap_or("no damage found").to_owned();
    // pg_amcheck ends with 2 when it found something, and with 1 when it could not do its work.
    let is_found = |status: &str, output: &str| status.ends_with(": 2") && !is_only_in_the_way(output);
    Ok(program_check(AMCHECK, result.map(|output| last_line(output.stdout)), is_found))
}

/// The arguments with which psql runs a check: as SQL only, and in that database of that server only.
fn psql_arguments(database: &str, sql: &str) -> Vec<String> {
    let database = if database.is_empty() { "postgres" } else { database };
    // A bare name that holds `=` would be read as a connection string, which can name another server.
    let database = format!("dbname='{}'", database.replace('\\', r"\\").replace('\'', r"\'"));
    // A command that begins with a backslash would be psql's own, such as `\!`, which runs a program.
    let sql = format!("\n{sql}");
    // Verbose: with the SQLSTATE of an error. -0: a row ends with a zero byte, because a value may hold line breaks, and a
    // row of one NULL is an empty line.
    let fixed = [
        "-X",
        "-0",
        "-w",
        "-A",
        "-t",
        "-q",
        "-v",
        "ON_ERROR_STOP=1",
        "-v",
        "VERBOSITY=verbose",
        "-U",
        MONITOR_ROLE,
    ];
    let fixed = fixed.map(str::to_owned);
    fixed.into_iter().chain(["-d".to_owned(), database, "-c".to_owned(), sql]).collect()
}

/// Lets [`MONITOR_ROLE`] read and write all data of the copy. Checks run as that role: the SQL comes from the
/// caller of the drill, and a superuser's SQL can run programs, here beside the real data directory.
///
/// The copy's server writes into the job's log, which others may read than may read the data. So nothing of these
/// sessions goes there: neither the messages of errors nor the statements. The role cannot change that.
async fn grant_check_rights(
    copy: &PrivateInstance<'_>,
    agent: &Agent,
    params: &DrillParams,
) -> Result<(), PostgresError> {
    let endpoint = copy.endpoint();
    // A backup that is older than the role does not have it.
    ensure_roles(&endpoint, &agent.user.name, SETUP_TIMEOUT).await?;
    let rights = format!(
        "GRANT pg_read_all_data, pg_write_all_data TO {MONITOR_ROLE}; ALTER ROLE {MONITOR_ROLE} BYPASSRLS; \
         ALTER ROLE {MONITOR_ROLE} SET log_min_messages = 'panic'; \
         ALTER ROLE {MONITOR_ROLE} SET log_min_error_statement = 'panic'"
    );
    execute(&endpoint, &rights, SETUP_TIMEOUT).await?;
    let database = if params.check_database.is_empty() { "postgres" } else { &params.check_database };
    let grant = format!(
        "GRANT CONNECT, CREATE, TEMPORARY ON DATABASE \"{}\" TO {MONITOR_ROLE}",
        database.replace('"', "\"\"")
    );
    // When the database does not exist, the checks themselves fail and say so.
    if let Err(error) = execute(&endpoint, &grant, SETUP_TIMEOUT).await {
        tracing::info!(%error, "the rights on the database of a drill's checks cannot be granted");
    }
    Ok(())
}

/// A check's name: its SQL in one line, cut.
fn check_name(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(MAX_NAME_CHARS).collect()
}

/// Runs SQL. It passes when it runs without error and the first column of every row is true.
async fn sql_check(
    context: &JobContext<'_>,
    copy: &PrivateInstance<'_>,
    database: &str,
    sql: &str,
) -> Result<DrillCheck, JobFailure> {
    let name = check_name(sql);
    let mut command = copy.client("psql");
    command.args(psql_arguments(database, sql));
    Ok(match interruptible(context, command).await? {
        Ok(output) => {
            let (passed, detail) = judge_rows(&output.stdout);
            DrillCheck { name, passed, could_not_run: false, detail }
        }
        Err(error) => sql_failed(&name, error),
    })
}

/// Whether the first column of every row is true, and how many there are; each row ends with a zero byte. What they hold is
/// not written into the job, which everybody may read who may see jobs at all.
fn judge_rows(rows: &str) -> (bool, String) {
    let is_true = |row: &str| row.split('|').next().is_some_and(|value| value == "t" || value == "true");
    let rows: Vec<&str> = rows.split_terminator('\0').collect();
    let count = rows.len();
    let noun = if count == 1 { "row" } else { "rows" };
    match rows.iter().position(|row| !is_true(row)) {
        None if count == 0 => (true, "no rows".to_owned()),
        None => (true, format!("{count} {noun}, all true")),
        Some(at) => (false, format!("row {} of {count} does not begin with true", at + 1)),
    }
}

fn sql_failed(name: &str, error: PostgresError) -> DrillCheck {
    match error {
        PostgresError::CommandFailed { output, .. } => {
            let could_not_run = is_only_in_the_way(&output);
            let kept = kept_error(&output);
            DrillCheck { name: name.to_owned(), passed: false, could_not_run, detail: detail(&kept) }
        }
        error => not_run(name, &error.to_string()),
    }
}

/// Classes of SQLSTATE whose messages name objects and limits of the server and quote no data: of features, transactions,
/// logins, databases, schemas, names and syntax, resources, limits, states, interventions, the system, and the server
/// itself, damaged data among it.
const CLASSES_WITHOUT_DATA: [&str; 12] =
    ["0A", "25", "28", "3D", "3F", "42", "53", "54", "55", "57", "58", "XX"];

/// What the job keeps of an error of a check's SQL: no rows and no values, for others may read the job than may read the
/// data.
fn kept_error(output: &str) -> String {
    let Some(error) = output.lines().find_map(|line| line.strip_prefix("ERROR:")) else {
        // psql's own, such as of a database that does not exist: nothing was run.
        return output.lines().filter(|line| line.starts_with("psql: ")).collect::<Vec<_>>().join("\n");
    };
    let (state, message) = error.trim_start().split_once(": ").unwrap_or_default();
    if CLASSES_WITHOUT_DATA.iter().any(|class| state.starts_with(class)) {
        format!("ERROR: {message} (SQLSTATE {state})")
    } else {
        format!("the SQL failed with SQLSTATE {state}; the message may hold data and is not kept")
    }
}

async fn page_checksums(
    context: &JobContext<'_>,
    copy: &PrivateInstance<'_>,
) -> Result<DrillCheck, JobFailure> {
    let mut command = copy.tools().command("pg_checksums");
    command.arg("--check").arg("-D").arg(&copy.data);
    let result = interruptible(context, command).await?;
    let scanned = |text: String| {
        text.lines().find(|line| line.starts_with("Blocks scanned")).unwrap_or_default().to_owned()
    };
    let is_found = |_: &str, output: &str| {
        ["checksum verification failed", "Bad checksums:"].iter().any(|text| output.contains(text))
    };
    Ok(program_check("page checksums", result.map(|output| scanned(output.stdout)), is_found))
}
