//! The offline cluster specification, `cluster.toml`: parsed into records whose fields cannot be invalid.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use cellar_model::{
    CellLayout, CellName, ClusterName, Database, DatabaseName, PORT_SPAN, Pooler, Ports, Protocol, Retention,
    StanzaName, check_socket_path, path_fault,
};

use crate::error::spec_error::SpecError;
use crate::spec::collisions::check_collisions;
use crate::spec::file_format::{CellTable, SpecFile};

/// Full backups kept when the specification has no number.
const DEFAULT_RETENTION: u32 = 7;

/// Address that servers listen on when the specification has none.
const DEFAULT_LISTEN: &str = "0.0.0.0";

/// Who may use the TLS servers when the specification does not name them: every stanza, for clients whose
/// certificate is named `pgbackrest`.
const DEFAULT_SERVER_AUTH: &str = "*";

/// Largest accepted file, in bytes; 256 cells need a hundredth of it.
const MAX_FILE: u64 = 1 << 20;

/// A cluster specification that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSpec {
    /// The cluster's name.
    pub cluster: ClusterName,
    /// Its database.
    pub database: Database,
    /// Its poolers in the order of their indexes, which is alphabetical.
    pub poolers: Vec<Pooler>,
    /// What clients may work on: `*` or stanza names.
    pub server_auth: String,
}

fn refuse(field: impl Into<String>, value: &str, reason: impl Into<String>) -> SpecError {
    SpecError::Field { field: field.into(), value: value.chars().take(200).collect(), reason: reason.into() }
}

fn path(field: &str, text: &str) -> Result<String, SpecError> {
    path_fault(text).map_or_else(|| Ok(text.to_owned()), |reason| Err(refuse(field, text, reason)))
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(field: &str, text: &str) -> Result<T, SpecError> {
    text.parse().map_err(|error: T::Err| refuse(field, text, error.to_string()))
}

impl ClusterSpec {
    /// Reads a specification from a file.
    ///
    /// # Errors
    /// When the file cannot be read, or as [`ClusterSpec::parse`].
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        use std::io::Read;
        let failed = |source| SpecError::Read { path: path.display().to_string(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(SpecError::Syntax("it is larger than 1 MiB".to_owned()));
        }
        Self::parse(&text)
    }

    /// Parses a specification and checks every rule that spans its fields.
    ///
    /// # Errors
    /// The first rule that does not hold, naming the field.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        let mut file: SpecFile =
            toml::from_str(text).map_err(|error| SpecError::Syntax(error.to_string().trim().to_owned()))?;
        if file.cells.is_empty() || file.cells.len() > usize::from(PORT_SPAN) {
            return Err(SpecError::CellCount(file.cells.len()));
        }
        let cluster = name("cluster", &file.cluster)?;
        let database: DatabaseName = name("database.name", &file.database.name)?;
        let stanza: StanzaName = match &file.database.stanza {
            Some(stanza) => name("database.stanza", stanza)?,
            None => name("database.name", &file.database.name)?,
        };
        let repository = name("repo.path", &file.repo.path)?;
        let listen = file.tls.listen.clone().unwrap_or_else(|| DEFAULT_LISTEN.to_owned());
        if listen.parse::<IpAddr>().is_err() {
            return Err(refuse("tls.listen", &listen, "it is not an IP address to listen on"));
        }
        let server_auth = file.tls.server_auth.clone().unwrap_or_else(|| DEFAULT_SERVER_AUTH.to_owned());
        if server_auth != "*" && server_auth.split(',').any(|name| name.parse::<StanzaName>().is_err()) {
            return Err(refuse(
                "tls.server_auth",
                &server_auth,
                "it is neither * nor stanza names separated by commas",
            ));
        }
        let tls_dir = file.tls.dir.as_deref().map(|dir| path("tls.dir", dir)).transpose()?;

        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (at, cell) in file.cells.iter().enumerate() {
            if let Some(first) = seen.insert(cell.name.clone(), at) {
                return Err(SpecError::Collision {
                    first: format!("cells[{first}].name"),
                    second: format!("cells[{at}].name"),
                    value: cell.name.chars().take(80).collect(),
                });
            }
        }
        file.cells.sort_by(|a, b| a.name.cmp(&b.name));
        let poolers = file
            .cells
            .iter()
            .enumerate()
            .map(|(index, cell)| pooler(&database, index, cell, &listen, tls_dir.as_deref()))
            .collect::<Result<Vec<_>, _>>()?;
        check_collisions(&poolers)?;
        let bootstrap_cell = poolers[0].cell.clone();
        let retention = Retention { full: file.repo.retention_full.unwrap_or(DEFAULT_RETENTION) };
        if retention.full == 0 || retention.full > 9_999_999 {
            return Err(refuse(
                "repo.retention_full",
                &retention.full.to_string(),
                "1 to 9999999 full backups can be kept",
            ));
        }
        let database = Database {
            name: database,
            stanza,
            repository,
            retention,
            bootstrap_cell,
            port_offset: 0,
            repo_cipher: None,
            pgbackrest_names: Vec::new(),
            minimum_protocol: Protocol::default(),
        };
        Ok(Self { cluster, database, poolers, server_auth })
    }
}

fn pooler(
    database: &DatabaseName,
    index: usize,
    cell: &CellTable,
    listen: &str,
    tls_dir: Option<&str>,
) -> Result<Pooler, SpecError> {
    let cell_name: CellName = name("cells.name", &cell.name)?;
    let field = |what: &str| format!("cells.{cell_name}.{what}");
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let port = |base| {
        Ports::new(0)
            .of_cell(base, index)
            .map_err(|source| SpecError::Layout { field: field("index"), source })
    };
    if cell.postgres_port == 0 {
        return Err(refuse(field("postgres_port"), "0", "it is not a port"));
    }
    let config = path(&field("config"), &cell.config)?;
    // What the specification does not place goes beside the config, as in a local cluster.
    let home = Path::new(&config).parent().unwrap_or(Path::new("/")).to_owned();
    let layout = CellLayout::new(&home);
    let beside = |given: &Option<String>, what: &str, default: std::path::PathBuf| match given {
        Some(text) => path(&field(what), text),
        None => Ok(default.display().to_string()),
    };
    let pooler = Pooler {
        database: database.clone(),
        index,
        host: name(&field("host"), &cell.host)?,
        postgres_port: cell.postgres_port,
        pgbackrest_port: port(Ports::PGBACKREST)?,
        grpc_port: port(Ports::POOLER_GRPC)?,
        listen: listen.to_owned(),
        data_directory: path(&field("pg_data"), &cell.pg_data)?,
        socket_directory: path(&field("pg_sockets"), &cell.pg_sockets)?,
        tls_directory: tls_dir.map_or_else(|| layout.tls().display().to_string(), str::to_owned),
        log_directory: beside(&cell.log, "log", layout.log())?,
        lock_directory: beside(&cell.lock, "lock", layout.lock())?,
        spool_directory: beside(&cell.spool, "spool", layout.spool())?,
        revocations: 0,
        config_path: config,
        cell: cell_name.clone(),
    };
    check_socket_path(Path::new(&pooler.socket_directory), pooler.postgres_port)
        .map_err(|source| SpecError::Layout { field: field("pg_sockets"), source })?;
    Ok(pooler)
}

#[cfg(test)]
mod tests;
