//! `pgbackrest.conf`, rendered from the topology.
//!
//! Pure functions of the records: the same records give the same bytes, so a
//! file can be deleted and rendered again at any time.

use askama::Template;
use cellar_model::{Database, PgbackrestName, Pooler, Secret, qualified_name, unqualified_name};

use crate::config_check::{self, ConfigError};
use crate::repository::location_options;

/// Seconds without any progress before a connection is given up. pgBackRest retries once, so a dead
/// host costs twice this in each command that walks the hosts; the default of 60 costs two minutes.
const IO_TIMEOUT: u32 = 10;

/// Seconds a query may take. The longest is `pg_backup_start` with its immediate checkpoint, which on a
/// large busy primary takes minutes; the default of half an hour would let a frozen instance hold a job that long.
const DB_TIMEOUT: u32 = 600;

/// Seconds to wait for a message of a worker; pgBackRest demands more than `db-timeout`, because a
/// worker is silent while it waits for a query.
const PROTOCOL_TIMEOUT: u32 = 660;

/// What a cell's file is made of.
#[derive(Debug, Clone, Copy)]
pub struct ConfigInput<'a> {
    /// The database: stanza, repository, retention.
    pub database: &'a Database,
    /// The pooler whose file it is; becomes pg1.
    pub local: &'a Pooler,
    /// The other poolers of the database in any order; they become pg2… in the order of their indexes, unless only one of
    /// their hosts has the repository.
    pub others: &'a [&'a Pooler],
    /// What a client with one of the database's names for pgBackRest may work on: `*`, or stanzas separated by commas.
    pub tls_server_auth: &'a str,
    /// The repository's passphrase, when the database says that it is encrypted. It becomes a line of the file:
    /// pgBackRest takes it from there or from its environment, where every program that PostgreSQL starts would
    /// find it too, and never from its arguments. So whoever writes the file makes it 0600.
    pub passphrase: Option<&'a Secret>,
}

/// One instance of the file.
struct Member<'a> {
    /// What parts it from the one before it.
    before: &'static str,
    pooler: &'a Pooler,
    is_local: bool,
}

/// The instances in this order, as pg1 and so on, for a file on the host of `local`.
fn members<'a>(local: &Pooler, poolers: impl IntoIterator<Item = &'a Pooler>) -> Vec<Member<'a>> {
    let poolers = poolers.into_iter().enumerate();
    poolers
        .map(|(at, pooler)| Member {
            before: if at == 0 { "" } else { "\n" },
            pooler,
            is_local: pooler.cell == local.cell,
        })
        .collect()
}

/// How the repository is encrypted.
struct Cipher<'a> {
    kind: &'a str,
    passphrase: &'a str,
}

#[derive(Template)]
#[template(path = "pgbackrest.conf", escape = "none")]
struct ConfigFile<'a> {
    cell: &'a str,
    database: &'a str,
    purpose: &'a str,
    repo_location: Vec<(String, String)>,
    cipher: Option<Cipher<'a>>,
    retention_full: u32,
    backup_standby: bool,
    io_timeout: u32,
    db_timeout: u32,
    protocol_timeout: u32,
    log_level_console: &'a str,
    log_level_file: &'a str,
    tls_server_auth: Option<&'a str>,
    accepted_names: Vec<String>,
    stanza: &'a str,
    local: &'a Pooler,
    members: Vec<Member<'a>>,
}

impl<'a> ConfigFile<'a> {
    fn new(
        database: &'a Database,
        local: &'a Pooler,
        others: &[&Pooler],
        passphrase: Option<&'a Secret>,
    ) -> Result<Self, ConfigError> {
        let cipher = match (database.repo_cipher, passphrase) {
            (None, _) => None,
            (Some(_), None) => return Err(ConfigError::NoPassphrase(database.name.to_string())),
            (Some(kind), Some(secret)) => Some(Cipher { kind: kind.as_str(), passphrase: secret.expose() }),
        };
        Ok(Self {
            cell: local.cell.as_str(),
            database: database.name.as_str(),
            purpose: "only the instance here.",
            repo_location: location_options(&database.repository, 1, local, others)?,
            cipher,
            retention_full: database.retention.full,
            backup_standby: false,
            io_timeout: IO_TIMEOUT,
            db_timeout: DB_TIMEOUT,
            protocol_timeout: PROTOCOL_TIMEOUT,
            log_level_console: "info",
            log_level_file: "info",
            tls_server_auth: None,
            accepted_names: accepted_texts(database),
            stanza: database.stanza.as_str(),
            local,
            members: members(local, [local]),
        })
    }

    fn text(&self) -> Result<String, ConfigError> {
        let mut text = self.render().map_err(|error| ConfigError::Template(error.to_string()))?;
        text.push('\n');
        Ok(text)
    }
}

/// The cell's own file: the local instance as pg1, the others after it, and the TLS server.
///
/// Where the repository is on another cell's host, the local instance is the only one: with a remote instance beside a
/// remote repository pgBackRest (2.45 and 2.55.1) ends `archive-get`, `check` and `stanza-create` with 27.
///
/// # Errors
/// When a value cannot stand in the file as it is, the members do not fit together, or the repository is encrypted
/// and there is no passphrase.
pub fn render_full(input: &ConfigInput<'_>) -> Result<String, ConfigError> {
    let mut others = input.others.to_vec();
    others.sort_by(|a, b| (a.index, &a.cell).cmp(&(b.index, &b.cell)));
    config_check::check(input.database, input.local, &others)?;
    config_check::check_auth(input.tls_server_auth)?;
    let file = ConfigFile {
        tls_server_auth: Some(input.tls_server_auth),
        ..ConfigFile::new(input.database, input.local, &others, input.passphrase)?
    };
    if input.database.repository.reached_through(&input.local.cell).is_some() {
        return ConfigFile { purpose: "the instance here; the repository is another host's.", ..file }.text();
    }
    let all = std::iter::once(input.local).chain(others.iter().copied());
    let purpose = "the instance here and every other member.";
    ConfigFile { purpose, members: members(input.local, all), ..file }.text()
}

/// The names that the TLS server lets in which reads this file.
#[must_use]
pub fn accepted_names(text: &str) -> Vec<PgbackrestName> {
    let values = text.lines().filter_map(|line| line.strip_prefix("tls-server-auth="));
    values.filter_map(|value| unqualified_name(value.split_once('=')?.0).parse().ok()).collect()
}

/// The same as they stand in certificates.
fn accepted_texts(database: &Database) -> Vec<String> {
    let names = database.accepted_names().into_iter();
    names.map(|name| qualified_name(&name.to_string(), database.qualifier())).collect()
}

/// The file of a cell whose other members are not there yet: pg1 and the TLS server, so that nothing waits for them. Of the
/// others only the one is used on whose host the repository is.
///
/// # Errors
/// As [`render_full`].
pub fn render_bootstrap(input: &ConfigInput<'_>) -> Result<String, ConfigError> {
    let home = input.database.repository.reached_through(&input.local.cell);
    let home: Vec<&Pooler> = input.others.iter().copied().filter(|other| Some(&other.cell) == home).collect();
    config_check::check(input.database, input.local, &home)?;
    config_check::check_auth(input.tls_server_auth)?;
    ConfigFile {
        purpose: "bootstrap, only the instance here.",
        tls_server_auth: Some(input.tls_server_auth),
        ..ConfigFile::new(input.database, input.local, &home, input.passphrase)?
    }
    .text()
}

/// The file of one job: pg1 is the instance that was named and pg2 the primary, so that pgBackRest has
/// nowhere else to go and waits for nobody else. Without `primary` the named instance is the primary itself.
///
/// It has no TLS server and logs to its console, which the job keeps.
///
/// # Errors
/// As [`render_full`], and when the repository is on another cell's host: see [`render_job_for`].
pub fn render_job(
    database: &Database,
    local: &Pooler,
    primary: Option<&Pooler>,
    passphrase: Option<&Secret>,
) -> Result<String, ConfigError> {
    let others: Vec<&Pooler> = primary.into_iter().collect();
    config_check::check(database, local, &others)?;
    if let Some(home) = database.repository.reached_through(&local.cell) {
        return Err(ConfigError::RepositoryElsewhere(home.to_string()));
    }
    ConfigFile {
        members: members(local, std::iter::once(local).chain(primary)),
        purpose: if primary.is_some() {
            "one job, the instance here and the primary."
        } else {
            "one job, only the instance here."
        },
        backup_standby: primary.is_some(),
        log_level_console: "detail",
        log_level_file: "off",
        ..ConfigFile::new(database, local, &[], passphrase)?
    }
    .text()
}

/// As [`render_job`], for an instance in another cell than `home`, on whose host the repository is and the job runs: pg1,
/// the instance that was named, is remote.
///
/// # Errors
/// As [`render_job`].
pub fn render_job_for(
    database: &Database,
    home: &Pooler,
    source: &Pooler,
    primary: Option<&Pooler>,
    passphrase: Option<&Secret>,
) -> Result<String, ConfigError> {
    let named = || std::iter::once(source).chain(primary);
    // The cell that has the repository may be the primary's.
    let others: Vec<&Pooler> = named().filter(|member| member.cell != home.cell).collect();
    config_check::check(database, home, &others)?;
    if let Some(elsewhere) = database.repository.reached_through(&home.cell) {
        return Err(ConfigError::RepositoryElsewhere(elsewhere.to_string()));
    }
    ConfigFile {
        members: members(home, named()),
        purpose: "one job, an instance of another cell.",
        backup_standby: primary.is_some(),
        log_level_console: "detail",
        log_level_file: "off",
        ..ConfigFile::new(database, home, &[], passphrase)?
    }
    .text()
}
