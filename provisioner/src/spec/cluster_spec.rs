//! The offline cluster specification, `cluster.toml`: parsed into records whose fields cannot be invalid.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use cellar_model::{
    CellLayout, CellName, ClusterName, Database, DatabaseName, LayoutError, PORT_SPAN, Pooler, Ports,
    Retention, StanzaName, check_socket_path, path_fault,
};
use serde::Deserialize;

/// Full backups kept when the specification does not say.
const DEFAULT_RETENTION: u32 = 7;

/// Address that servers listen on when the specification does not say.
const DEFAULT_LISTEN: &str = "0.0.0.0";

/// Who may use the TLS servers when the specification does not say: every stanza, for clients whose
/// certificate is named `pgbackrest`.
const DEFAULT_SERVER_AUTH: &str = "*";

/// Largest accepted file, in bytes; 256 cells need a hundredth of it.
const MAX_FILE: u64 = 1 << 20;

/// Why a specification is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read the cluster specification {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("the cluster specification is not readable: {0}")]
    Syntax(String),
    /// A field breaks a rule.
    #[error("{field} {value:?} is refused: {reason}")]
    Field {
        /// The field, such as `cells[2].host`.
        field: String,
        /// The value, cut to 200 characters.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// Two cells cannot both be.
    #[error("{first} and {second} are both {value}")]
    Collision {
        /// One field.
        first: String,
        /// The other.
        second: String,
        /// What both are.
        value: String,
    },
    /// Too many or no cells.
    #[error("cells: {0} are given, and 1 to {PORT_SPAN} are possible")]
    CellCount(usize),
    /// A port or path does not work out.
    #[error("{field}: {source}")]
    Layout {
        /// The field.
        field: String,
        /// Why not.
        #[source]
        source: LayoutError,
    },
}

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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    cluster: String,
    database: DatabaseTable,
    repo: RepoTable,
    #[serde(default)]
    tls: TlsTable,
    cells: Vec<CellTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DatabaseTable {
    name: String,
    stanza: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RepoTable {
    path: String,
    retention_full: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsTable {
    dir: Option<String>,
    listen: Option<String>,
    server_auth: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CellTable {
    name: String,
    host: String,
    pg_data: String,
    pg_sockets: String,
    postgres_port: u16,
    config: String,
    log: Option<String>,
    lock: Option<String>,
    spool: Option<String>,
}

fn refuse(field: impl Into<String>, value: &str, reason: impl Into<String>) -> SpecError {
    SpecError::Field { field: field.into(), value: value.chars().take(200).collect(), reason: reason.into() }
}

fn path(field: &str, text: &str) -> Result<String, SpecError> {
    path_fault(text).map_or_else(|| Ok(text.to_owned()), |reason| Err(refuse(field, text, reason)))
}

fn host(field: &str, text: &str) -> Result<String, SpecError> {
    if text.parse::<IpAddr>().is_ok() {
        return Err(refuse(
            field,
            text,
            "it is an IP address, which pgBackRest before 2.53 does not find in certificates: use a DNS name",
        ));
    }
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() > 253 || !text.split('.').all(label) {
        return Err(refuse(field, text, "it is not a DNS name"));
    }
    Ok(text.to_owned())
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
        let mut file: File =
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
        let repo_path = path("repo.path", &file.repo.path)?;
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
            repo_path,
            retention,
            bootstrap_cell,
            port_offset: 0,
            repo_cipher: None,
            pgbackrest_names: Vec::new(),
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
        host: host(&field("host"), &cell.host)?,
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

/// Two things on one host can have neither the same port nor the same directory.
fn check_collisions(poolers: &[Pooler]) -> Result<(), SpecError> {
    let mut ports: BTreeMap<(String, u16), String> = BTreeMap::new();
    let mut paths: BTreeMap<(String, String), String> = BTreeMap::new();
    for pooler in poolers {
        let host = pooler.host.to_ascii_lowercase();
        let field = |what: &str| format!("cells.{}.{what}", pooler.cell);
        let listeners = [
            ("postgres_port", pooler.postgres_port),
            ("pgBackRest TLS port", pooler.pgbackrest_port),
            ("multipooler port", pooler.grpc_port),
        ];
        for (what, port) in listeners {
            if let Some(first) = ports.insert((host.clone(), port), field(what)) {
                let value = format!("port {port} on host {}", pooler.host);
                return Err(SpecError::Collision { first, second: field(what), value });
            }
        }
        let places = [
            ("pg_data", &pooler.data_directory),
            ("pg_sockets", &pooler.socket_directory),
            ("config", &pooler.config_path),
        ];
        let own: BTreeSet<&String> = places.iter().map(|(_, place)| *place).collect();
        if own.len() < places.len() {
            return Err(SpecError::Collision {
                first: field("pg_data"),
                second: field("pg_sockets or config"),
                value: pooler.data_directory.clone(),
            });
        }
        for (what, place) in places {
            if let Some(first) = paths.insert((host.clone(), place.clone()), field(what)) {
                let value = format!("{place} on host {}", pooler.host);
                return Err(SpecError::Collision { first, second: field(what), value });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The reference page's three cells, in another order.
    const REFERENCE: &str = include_str!("../../tests/reference.toml");

    #[test]
    fn indexes_follow_the_alphabet_and_not_the_file() {
        let spec = ClusterSpec::parse(REFERENCE).unwrap();
        let cells: Vec<_> = spec
            .poolers
            .iter()
            .map(|p| (p.cell.as_str(), p.index, p.pgbackrest_port, p.postgres_port))
            .collect();
        assert_eq!(cells, [("zone1", 0, 8432, 5432), ("zone2", 1, 8433, 5433), ("zone3", 2, 8434, 5434)]);
        assert_eq!(spec.database.stanza.as_str(), "multigres");
        assert_eq!(spec.poolers[0].log_directory, "/zone1/log");
    }

    #[test]
    fn each_rule_names_its_field() {
        for (from, to, expected) in [
            ("name = \"zone2\"", "name = \"zone1\"", "cells[0].name and cells[1].name are both zone1"),
            ("postgres_port = 5433", "postgres_port = 5432", "cells.zone2.postgres_port"),
            ("postgres_port = 5433", "postgres_port = 8432", "cells.zone2.postgres_port"),
            ("postgres_port = 5433", "postgres_port = 0", "cells.zone2.postgres_port"),
            ("postgres_port = 5433", "postgres_port = 70000", "70000"),
            ("postgres_port = 5433", "", "postgres_port"),
            (
                "\"/zone2/pg_data\"",
                "\"zone2/pg_data\"",
                "cells.zone2.pg_data \"zone2/pg_data\" is refused: it is not an absolute path",
            ),
            ("\"/zone2/pg_data\"", "\"/zone1/pg_data\"", "cells.zone2.pg_data are both /zone1/pg_data"),
            ("\"/zone2/pg_data\"", "\"/zone2/pg_sockets\"", "cells.zone2.pg_data and"),
            ("\"/zone2/pg_data\"", "\"/zone2/../etc\"", "cells.zone2.pg_data"),
            ("\"/zone2/pg_data\"", "\"/zone2/pg_data/\"", "cells.zone2.pg_data"),
            ("\"/zone2/pg_data\"", "\"/zone2\\npg1-port=1\"", "a line break"),
            ("\"/zone2/pg_data\"", "\"/zone2;x\"", "would misread"),
            ("\"/zone2/pg_data\"", "\"/zone2#x\"", "would misread"),
            ("\"/zone2/pg_data\"", "\"/[zone2]\"", "would misread"),
            (
                "\"/zone2/pg_sockets\"",
                "\"/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
                "cells.zone2.pg_sockets: the unix socket path",
            ),
            ("\"/zone2/pgbackrest.conf\"", "\"pgbackrest.conf\"", "cells.zone2.config"),
            ("\"/backup/repo\"", "\"backup\"", "repo.path"),
            ("\"/backup/repo/tls\"", "\"tls\"", "tls.dir"),
            ("dir = \"/backup/repo/tls\"", "listen = \"localhost\"", "tls.listen"),
            ("dir = \"/backup/repo/tls\"", "server_auth = \"a;b\"", "tls.server_auth"),
            ("retention_full = 7", "retention_full = 0", "repo.retention_full"),
            ("retention_full = 7", "retention = 7", "unknown field `retention`"),
            ("cluster = \"demo\"", "cluster = \"De mo\"", "cluster \"De mo\" is refused"),
            ("name = \"multigres\"", "name = \"../x\"", "database.name"),
            ("name = \"zone3\"", "name = \"repo\"", "cells.name \"repo\" is refused"),
            ("cluster = \"demo\"", "", "missing field `cluster`"),
            ("cluster = \"demo\"", "cluster = ", "not readable"),
        ] {
            let text = REFERENCE.replacen(from, to, 1);
            assert_ne!(text, REFERENCE, "{from}");
            let error = ClusterSpec::parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{from} -> {to}\n  gave: {error}\n  expected: {expected}");
        }
        let hosts = REFERENCE.replacen("\"localhost\"", "\"127.0.0.1\"", 1);
        assert!(ClusterSpec::parse(&hosts).unwrap_err().to_string().contains("IP address"));
    }

    #[test]
    fn cells_are_counted() {
        let cell = |n: usize| {
            format!(
                "[[cells]]\nname = \"z{n}\"\nhost = \"h{n}\"\npg_data = \"/z{n}/d\"\npg_sockets = \"/z{n}/s\"\npostgres_port = 5432\nconfig = \"/z{n}/c\"\n"
            )
        };
        let head = "cluster = \"demo\"\n[database]\nname = \"app\"\n[repo]\npath = \"/repo\"\n";
        let with = |count: usize| format!("{head}{}", (0..count).map(cell).collect::<String>());
        assert_eq!(ClusterSpec::parse(&with(256)).unwrap().poolers.len(), 256);
        assert!(matches!(ClusterSpec::parse(&with(257)), Err(SpecError::CellCount(257))));
        let none = format!("cells = []\n{head}");
        assert!(matches!(ClusterSpec::parse(&none), Err(SpecError::CellCount(0))));
    }

    proptest! {
        /// Whatever stands in a field, either it is refused or it comes through as one plain value.
        #[test]
        fn no_hostile_value_becomes_another_line(text in "\\PC{0,40}|[;#\\[\\]=\\n\\r\\t /a]{0,20}", field in 0usize..5) {
            let fields = ["\"/zone2/pg_data\"", "\"/backup/repo\"", "\"localhost\"", "\"zone2\"", "\"/zone2/pgbackrest.conf\""];
            let quoted = toml::Value::String(text.clone()).to_string();
            let spec = REFERENCE.replacen(fields[field], &quoted, 1);
            if let Ok(spec) = ClusterSpec::parse(&spec) {
                for (_, config) in crate::spec::generate::render_configs(&spec).unwrap() {
                    for line in config.lines() {
                        let plain = line.is_empty() || line.starts_with(['#', '[']) || line.contains('=');
                        prop_assert!(plain, "{line:?}");
                        let mentions = !text.trim().is_empty() && line.contains(&text) && text.len() > 3;
                        prop_assert!(!mentions || !text.contains(['\n', ';', '[']), "{line:?}");
                    }
                }
            }
        }

        #[test]
        fn rubbish_never_panics(text in "\\PC{0,200}") {
            let _ = ClusterSpec::parse(&text);
        }
    }
}
