//! Whether settings can be given to a database: what no PostgreSQL has to be asked about, and what the primary's says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::command::run;
use crate::error::PostgresError;
use crate::member_settings::text;
use crate::owned_settings::owned_by_cellar;
use crate::plain_settings::{DEFAULTS, PlainSettings};
use crate::session::{Endpoint, query};
use crate::tools::Tools;

/// Bytes of a value. PostgreSQL has no limit; a list of libraries or a search path is far below it.
const MAX_VALUE: usize = 4096;

/// Bytes of a name that PostgreSQL compares.
const MAX_NAME: usize = 63;

/// Less than this, and members or Cellar itself are locked out.
const FLOORS: [(&str, u32); 3] =
    [("max_wal_senders", 8), ("max_connections", 20), ("superuser_reserved_connections", 3)];

/// Why a setting cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SettingProblem {
    /// Whose value it is.
    pub name: String,
    /// What is the matter.
    pub message: String,
    /// What to do; empty when there is nothing useful to say.
    pub hint: String,
}

impl SettingProblem {
    fn new(name: &str, message: String, hint: &str) -> Self {
        Self { name: name.to_owned(), message, hint: hint.to_owned() }
    }
}

/// The beginning of `SettingProblem`s and what else may go wrong while a proposal is looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProposalError {
    /// A setting cannot be given.
    #[error(transparent)]
    Problem(#[from] SettingProblem),
    /// PostgreSQL did not say.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// Settings that PostgreSQL would take.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proposal {
    /// Those of them that take effect at a restart.
    pub at_restart: Vec<String>,
}

/// Whether a name may stand in a configuration file: parts of letters, digits and `_`, joined by dots. A program's `-c` takes
/// more (`$`), with which no member would read the file.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= MAX_NAME && name.split('.').count() <= 2 && name.split('.').all(is_part)
}

/// Refuses what no PostgreSQL has to be asked about: what is no name or value, and what is Cellar's own.
///
/// # Errors
/// The first problem.
pub fn check_names(proposed: &BTreeMap<String, String>) -> Result<(), SettingProblem> {
    for (name, value) in proposed {
        if !is_name(name) {
            let message = format!("{name:?} is not the name of a setting");
            return Err(SettingProblem::new(
                name,
                message,
                "names have lower-case letters, digits and _, and at most one dot",
            ));
        }
        if let Some(owned) = owned_by_cellar(name) {
            let message = format!("{name} is not to be set: {}", owned.why);
            return Err(SettingProblem::new(name, message, owned.instead));
        }
        if value.len() > MAX_VALUE || value.chars().any(char::is_control) {
            let message =
                format!("the value of {name} has a control character, or more than {MAX_VALUE} bytes");
            return Err(SettingProblem::new(name, message, "give it in one line"));
        }
        if name == "wal_level" && !["replica", "logical"].contains(&value.as_str()) {
            let message = format!("wal_level = {value:?}: standbys and backups need all of the WAL");
            return Err(SettingProblem::new(name, message, "give replica or logical"));
        }
        let is_compared = DEFAULTS.iter().any(|(compared, _)| compared == name);
        if is_compared && !value.bytes().all(|b| b.is_ascii_digit()) {
            let message =
                format!("{name} = {value:?} is not a plain number, and members compare it with each other");
            return Err(SettingProblem::new(name, message, "give digits alone"));
        }
        let floor = FLOORS.iter().find(|(floored, _)| floored == name);
        if let (Some((_, floor)), Ok(number)) = (floor, value.trim().parse::<u32>())
            && number < *floor
        {
            let message = format!(
                "{name} = {number} is too little: Cellar and the other members need connections, too"
            );
            return Err(SettingProblem::new(name, message, &format!("give {floor} or more")));
        }
    }
    Ok(())
}

/// Whether the connections that are kept for superusers leave any: PostgreSQL does not start else. `value` gives a number that
/// is or would be in force.
fn check_reserved(value: impl Fn(&str) -> Option<u32>) -> Result<(), SettingProblem> {
    let (Some(all), reserved) = (
        value("max_connections"),
        ["superuser_reserved_connections", "reserved_connections"].map(|name| value(name).unwrap_or(0)),
    ) else {
        return Ok(());
    };
    let reserved = reserved[0].saturating_add(reserved[1]);
    if reserved < all {
        return Ok(());
    }
    let message = format!("max_connections = {all} leaves nothing beside {reserved} reserved connections");
    Err(SettingProblem::new(
        "max_connections",
        message,
        "superuser_reserved_connections and reserved_connections are of its number",
    ))
}

/// Refuses a WAL that the logical slots of the server could not be decoded from.
async fn check_logical_slots(endpoint: &Endpoint, timeout: Duration) -> Result<(), ProposalError> {
    let sql = "SELECT string_agg(slot_name, ', ' ORDER BY slot_name) FROM pg_replication_slots WHERE slot_type = 'logical'";
    let Some(names) = query(endpoint, sql, timeout).await?.into_iter().flatten().flatten().next() else {
        return Ok(());
    };
    let message = format!("wal_level = replica: logical replication slots need more: {names}");
    let hint = "drop them first, each with SELECT pg_drop_replication_slot('NAME')";
    Err(SettingProblem::new("wal_level", message, hint).into())
}

/// Asks the running server and the program that would be started next whether they take what is proposed.
///
/// # Errors
/// [`ProposalError::Problem`] for what they do not take, in PostgreSQL's own words where it has them.
pub async fn check_proposal(
    tools: &Tools,
    data_directory: &Path,
    endpoint: &Endpoint,
    proposed: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<Proposal, ProposalError> {
    check_names(proposed)?;
    let names: Vec<String> = proposed.keys().map(|name| text(name)).collect();
    let sql = format!(
        "SELECT lower(name), context, setting FROM pg_settings WHERE lower(name) = ANY(ARRAY[{}]::text[]) OR name IN \
         ('max_connections', 'superuser_reserved_connections', 'reserved_connections')",
        names.join(", ")
    );
    let mut known: BTreeMap<String, (String, String)> = BTreeMap::new();
    for row in query(endpoint, &sql, timeout).await? {
        let mut values = row.into_iter().map(Option::unwrap_or_default);
        let mut next = || values.next().unwrap_or_default();
        known.insert(next(), (next(), next()));
    }
    let mut proposal = Proposal::default();
    for name in proposed.keys() {
        match known.get(name).map(|(context, _)| context.as_str()) {
            Some("internal") => {
                let message = format!("{name} only shows what PostgreSQL is, and cannot be set");
                return Err(SettingProblem::new(name, message, "").into());
            }
            Some("postmaster") => proposal.at_restart.push(name.clone()),
            Some(_) => {}
            // Of an extension that is not loaded, or of an application.
            None if name.contains('.') => {}
            None => {
                let message = format!("PostgreSQL has no setting {name}");
                return Err(
                    SettingProblem::new(name, message, "SELECT name FROM pg_settings shows them").into()
                );
            }
        }
    }
    check_reserved(|name| {
        let text = proposed.get(name).or_else(|| known.get(name).map(|(_, setting)| setting))?;
        text.trim().parse().ok()
    })?;
    if proposed.get("wal_level").is_some_and(|level| level == "replica") {
        check_logical_slots(endpoint, timeout).await?;
    }
    ask_program(tools, data_directory, proposed, timeout).await?;
    load_libraries(endpoint, proposed, timeout).await?;
    Ok(proposal)
}

/// Whether the program that would be started next reads the configuration of a data directory.
///
/// # Errors
/// What it says against it.
pub async fn check_configuration(
    tools: &Tools,
    data_directory: &Path,
    timeout: Duration,
) -> Result<(), PostgresError> {
    let mut command = tools.for_data(data_directory).command("postgres");
    command.arg("-D").arg(data_directory).args(["-C", "max_connections"]);
    run(command, timeout).await?;
    // It ends before it compares settings with each other.
    let plain = PlainSettings::of(data_directory);
    let compared = check_reserved(|name| plain.as_ref()?.number(name));
    compared.map_err(|problem| PostgresError::WouldNotStart(problem.message))
}

/// Has PostgreSQL's own parser read the values: it knows units, ranges and words, and checks more than the catalog shows.
async fn ask_program(
    tools: &Tools,
    data_directory: &Path,
    proposed: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<(), ProposalError> {
    let mut command = tools.for_data(data_directory).command("postgres");
    command.arg("-D").arg(data_directory);
    for (name, value) in proposed {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command.args(["-C", "max_connections"]);
    match run(command, timeout).await {
        Ok(_) => Ok(()),
        Err(PostgresError::CommandFailed { output, .. }) => {
            let (message, hint) = said(&output);
            let named = proposed.keys().find(|name| message.contains(&format!("\"{name}\"")));
            let name = named.or(proposed.keys().next()).cloned().unwrap_or_default();
            Err(SettingProblem { name, message: format!("PostgreSQL does not take it: {message}"), hint }
                .into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The settings whose libraries each session loads as it begins. Where one is missing nobody gets in, Cellar neither.
const LOADED_BY_SESSIONS: [&str; 2] = ["session_preload_libraries", "local_preload_libraries"];

/// Has the running server load what each session would load from now on: its parser does not look whether that is there.
async fn load_libraries(
    endpoint: &Endpoint,
    proposed: &BTreeMap<String, String>,
    timeout: Duration,
) -> Result<(), ProposalError> {
    for name in LOADED_BY_SESSIONS {
        let listed = proposed.get(name).map(String::as_str).unwrap_or_default();
        for library in listed.split(',').map(|it| it.trim().trim_matches('"')).filter(|it| !it.is_empty()) {
            // As the server does with names that have no directory.
            let is_local = name == "local_preload_libraries" && !library.contains('/');
            let path = if is_local { format!("$libdir/plugins/{library}") } else { library.to_owned() };
            match query(endpoint, &format!("LOAD {}", text(&path)), timeout).await {
                Ok(_) => {}
                Err(PostgresError::Sql { message, .. }) => {
                    let message = format!("{name} = {listed:?}: no session could begin: {message}");
                    let hint = "install its package on every member's host first";
                    return Err(SettingProblem::new(name, message, hint).into());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The message and the hint in what a program of PostgreSQL wrote.
fn said(output: &str) -> (String, String) {
    let (mut message, mut hint) = (String::new(), String::new());
    for line in output.lines() {
        if let Some((_, text)) = line.split_once("HINT:") {
            text.trim().clone_into(&mut hint);
        } else if let Some((_, text)) =
            ["FATAL:", "ERROR:", "DETAIL:", "postgres:"].iter().find_map(|word| line.split_once(word))
        {
            let _ = write!(message, "{}{}", if message.is_empty() { "" } else { "; " }, text.trim());
        }
    }
    if message.is_empty() { (output.trim().to_owned(), hint) } else { (message, hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn problem(name: &str, value: &str) -> String {
        check_names(&map(&[(name, value)])).unwrap_err().to_string()
    }

    fn problem_hint(name: &str, value: &str) -> String {
        check_names(&map(&[(name, value)])).unwrap_err().hint
    }

    #[test]
    fn names_that_would_be_something_else_in_the_file_are_refused() {
        for name in
            ["", "a b", "a=b", "Work_Mem", "a.b.c", ".a", "a.", "1a", "a\nb", "include 'x'", "a#", "app.a$b"]
        {
            assert!(problem(name, "1").contains("is not the name of a setting"), "{name:?}");
        }
        for name in ["work_mem", "pg_stat_statements.max", "app.note_2", "_x"] {
            assert_eq!(check_names(&map(&[(name, "1")])), Ok(()), "{name}");
        }
        assert!(problem("work_mem", "1\nport = 2").contains("control character"));
        assert!(problem("work_mem", &"1".repeat(MAX_VALUE + 1)).contains("bytes"));
    }

    #[test]
    fn what_is_cellars_own_is_refused_with_the_reason_and_the_command() {
        for name in
            ["archive_command", "primary_conninfo", "ssl_ciphers", "port", "recovery_target_time", "fsync"]
        {
            let problem = check_names(&map(&[(name, "x")])).unwrap_err();
            assert!(problem.message.contains(&format!("{name} is not to be set: ")), "{problem}");
        }
        let problem = check_names(&map(&[("synchronous_standby_names", "*")])).unwrap_err();
        assert!(problem.hint.contains("cellar durability"), "{problem:?}");
        assert!(problem_hint("wal_level", "minimal").contains("replica or logical"));
        assert_eq!(check_names(&map(&[("wal_level", "logical")])), Ok(()));
        assert!(problem_hint("max_wal_senders", "2").contains("8 or more"));
        assert!(problem_hint("max_connections", "10").contains("20 or more"));
        // Else a storm of clients shuts out what would stop a primary that was replaced.
        assert!(problem_hint("superuser_reserved_connections", "0").contains("3 or more"));
    }

    #[test]
    fn reserved_connections_must_leave_some() {
        let of = |all: u32, superusers: u32| {
            check_reserved(move |name| match name {
                "max_connections" => Some(all),
                "superuser_reserved_connections" => Some(superusers),
                _ => None,
            })
        };
        assert!(of(20, 3).is_ok() && of(20, 19).is_ok());
        assert!(of(20, 20).unwrap_err().message.contains("20 reserved"));
        assert!(check_reserved(|_| None).is_ok());
    }

    #[test]
    fn postgresqls_words_are_taken_over() {
        let output = "2026-03-01 10:00:00 UTC [7] FATAL:  invalid value for parameter \"work_mem\": \"abc\"\n2026-03-01 10:00:00 UTC [7] HINT:  Valid units are B.\n";
        assert_eq!(
            said(output),
            ("invalid value for parameter \"work_mem\": \"abc\"".to_owned(), "Valid units are B.".to_owned())
        );
        assert_eq!(said("what").0, "what");
    }
}
