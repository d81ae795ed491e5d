//! The offline cluster specification, `cluster.toml`: parsed into records whose fields cannot be invalid.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use cellar_model::{
    CellLayout, CellName, ClusterLayout, ClusterName, Database, DatabaseName, PORT_SPAN, Pooler, Ports,
    Protocol, Repository, Retention, StanzaName, check_socket_path, path_fault,
};

use crate::cluster::cell_host::CellHost;
use crate::error::spec_error::SpecError;
use crate::spec::collisions::check_collisions;
use crate::spec::databases::{SpecifiedDatabase, databases};
use crate::spec::field::{name, refuse};
use crate::spec::file_format::{CellTable, RepoTable, SpecFile, TlsTable};

/// Address that servers listen on when the specification has none.
const DEFAULT_LISTEN: &str = "0.0.0.0";

/// OS user of PostgreSQL when the specification names none, as Debian's package makes it.
const DEFAULT_OS_USER: &str = "postgres";

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
    /// Its first database.
    pub database: Database,
    /// All its databases, the first one first.
    pub databases: Vec<SpecifiedDatabase>,
    /// Its poolers in the order of their indexes, which is alphabetical.
    pub poolers: Vec<Pooler>,
    /// What clients may work on: `*` or stanza names.
    pub server_auth: String,
    /// The OS user of PostgreSQL and everything beside it on the hosts.
    pub os_user: String,
    /// What each cell's host has beside it, in the same order.
    pub(crate) hosts: Vec<CellHost>,
    /// The cells of which the specification says whether their hosts have an etcd member. Of the others their number
    /// decides, at the beginning of a cluster only.
    pub(crate) says_etcd: BTreeSet<CellName>,
    /// The fields in which the specification says where a file or port of a cell is.
    pub(crate) placed: Vec<String>,
}

fn path(field: &str, text: &str) -> Result<String, SpecError> {
    path_fault(text).map_or_else(|| Ok(text.to_owned()), |reason| Err(refuse(field, text, reason)))
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
        let defaults = Defaults {
            directory: default_directory(&cluster),
            listen,
            tls_dir,
            ports: Ports::new(file.port_offset.unwrap_or_default()),
        };
        let cells = || file.cells.iter().enumerate();
        let poolers = cells().map(|(index, cell)| pooler(&database, index, cell, &defaults));
        let poolers = poolers.collect::<Result<Vec<_>, _>>()?;
        let members = default_members(file.cells.len());
        let hosts = cells().map(|(index, cell)| cell_host(cell, &defaults, index < members));
        let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
        let says_etcd = poolers.iter().zip(&file.cells).filter(|(_, cell)| cell.etcd.is_some());
        let says_etcd = says_etcd.map(|(pooler, _)| pooler.cell.clone()).collect();
        check_collisions(&poolers)?;
        let repository = repository(&file.repo, &poolers)?;
        let cell_names: Vec<CellName> = poolers.iter().map(|pooler| pooler.cell.clone()).collect();
        let databases = databases(&file, &cell_names, &repository)?;
        let first = &databases[0];
        let database = Database {
            name: database,
            stanza: first.stanza.clone(),
            repository,
            retention: Retention { full: first.retention_full },
            bootstrap_cell: first.cells.first().unwrap_or(&cell_names[0]).clone(),
            port_offset: u32::from(file.port_offset.unwrap_or_default()),
            repo_cipher: None,
            pgbackrest_names: Vec::new(),
            minimum_protocol: Protocol::default(),
            cluster_id: None,
            cells: first.cells.clone(),
            is_qualified: false,
            durability: cellar_model::Durability::default(),
            settings: std::collections::BTreeMap::new(),
            pause: None,
        };
        let os_user = file.os_user.clone().unwrap_or_else(|| DEFAULT_OS_USER.to_owned());
        let placed = file.cells.iter().flat_map(placed).chain(of_generated(&file.tls)).collect();
        Ok(Self { cluster, database, databases, poolers, server_auth, os_user, hosts, says_etcd, placed })
    }
}

/// The repository: on all hosts; on that of one cell, which is named itself or by its host; or in a store.
fn repository(table: &RepoTable, poolers: &[Pooler]) -> Result<Repository, SpecError> {
    let path = match (&table.path, &table.url) {
        (Some(path), None) => path,
        (None, Some(url)) => return store(table, url),
        (Some(_), Some(_)) => {
            return Err(refuse("repo.url", "", "give either `repo.path` or `repo.url`"));
        }
        (None, None) => return Err(refuse("repo.path", "", "it is missing, and so is `repo.url`")),
    };
    if path.contains("://") {
        return Err(refuse("repo.path", "", "it is a URL: give it as `repo.url`"));
    }
    let Some(home) = &table.host else { return name("repo.path", path) };
    let path = name("repo.path", path)?;
    let named = |pooler: &&Pooler| pooler.cell.as_str() == home;
    let on_host = || poolers.iter().filter(|pooler| *pooler.host == **home);
    let cell = match (poolers.iter().find(named), on_host().count()) {
        (Some(pooler), _) => pooler.cell.clone(),
        (None, 1) => on_host().map(|pooler| pooler.cell.clone()).next().unwrap_or_else(|| unreachable!()),
        (None, 0) => {
            let reason =
                "it is neither a cell nor the host of one, and the repository lies on the host of a cell";
            return Err(refuse("repo.host", home, reason));
        }
        (None, _) => return Err(refuse("repo.host", home, "several cells have that host: name one of them")),
    };
    Ok(Repository::in_cell(cell, path))
}

/// A repository in a store. No error repeats the URL: somebody may have put a secret there.
fn store(table: &RepoTable, url: &str) -> Result<Repository, SpecError> {
    if table.host.is_some() {
        return Err(refuse("repo.host", "", "a store is on no host of the cluster: leave it out"));
    }
    url.parse().map_err(SpecError::Repository)
}

/// What holds for every cell that says nothing else.
struct Defaults {
    directory: String,
    listen: String,
    tls_dir: Option<String>,
    ports: Ports,
}

/// The cluster's directory on a host.
fn default_directory(cluster: &ClusterName) -> String {
    format!("/var/lib/cellar/{cluster}")
}

/// How many cells have an etcd member, the first in the order of their names. An even member adds no tolerance, and
/// more than five make every write slower (<https://etcd.io/docs/v3.5/faq/>).
fn default_members(cells: usize) -> usize {
    match cells {
        0..=2 => 1,
        3..=4 => 3,
        _ => 5,
    }
}

/// The fields of a cell that place single files and ports.
fn placed(cell: &CellTable) -> Vec<String> {
    let given = [
        ("pg_data", cell.pg_data.is_some()),
        ("pg_sockets", cell.pg_sockets.is_some()),
        ("postgres_port", cell.postgres_port.is_some()),
        ("config", cell.config.is_some()),
        ("log", cell.log.is_some()),
        ("lock", cell.lock.is_some()),
        ("spool", cell.spool.is_some()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given);
    given.map(|(what, _)| format!("cells.{}.{what}", cell.name)).collect()
}

/// The fields of `[tls]` that only generated configs have.
fn of_generated(tls: &TlsTable) -> Vec<String> {
    let given = [("tls.dir", tls.dir.is_some()), ("tls.server_auth", tls.server_auth.is_some())];
    given.into_iter().filter(|(_, given)| *given).map(|(what, _)| what.to_owned()).collect()
}

fn listen_of(cell: &CellTable, defaults: &Defaults) -> Result<IpAddr, SpecError> {
    let text = cell.listen.as_ref().unwrap_or(&defaults.listen);
    let field = || format!("cells.{}.listen", cell.name);
    text.parse().map_err(|_| refuse(field(), text, "it is not an IP address to listen on"))
}

fn directory_of(cell: &CellTable, defaults: &Defaults) -> Result<String, SpecError> {
    let directory = cell.directory.as_ref().unwrap_or(&defaults.directory);
    path(&format!("cells.{}.directory", cell.name), directory)
}

fn cell_host(cell: &CellTable, defaults: &Defaults, is_member: bool) -> Result<CellHost, SpecError> {
    Ok(CellHost {
        host: name(&format!("cells.{}.host", cell.name), &cell.host)?,
        listen: listen_of(cell, defaults)?,
        directory: directory_of(cell, defaults)?.into(),
        etcd: cell.etcd.unwrap_or(is_member),
        multiadmin: cell.multiadmin.unwrap_or(true),
    })
}

fn pooler(
    database: &DatabaseName,
    index: usize,
    cell: &CellTable,
    defaults: &Defaults,
) -> Result<Pooler, SpecError> {
    let cell_name: CellName = name("cells.name", &cell.name)?;
    let field = |what: &str| format!("cells.{cell_name}.{what}");
    let index = u32::try_from(index).unwrap_or(u32::MAX);
    let port = |base| {
        defaults
            .ports
            .of_cell(base, index)
            .map_err(|source| SpecError::Layout { field: field("index"), source })
    };
    let main = [
        ("pg_data", cell.pg_data.is_some()),
        ("pg_sockets", cell.pg_sockets.is_some()),
        ("postgres_port", cell.postgres_port.is_some()),
        ("config", cell.config.is_some()),
    ];
    if main.iter().any(|(_, given)| *given)
        && let Some((missing, _)) = main.iter().find(|(_, given)| !given)
    {
        let reason = "it is missing: give it with `pg_data`, `pg_sockets`, `postgres_port` and `config`, or none of them";
        return Err(refuse(field(missing), "", reason));
    }
    let postgres_port = match cell.postgres_port {
        Some(0) => return Err(refuse(field("postgres_port"), "0", "it is not a port")),
        Some(port) => port,
        None => port(Ports::POSTGRES)?,
    };
    let placed = ClusterLayout::new(directory_of(cell, defaults)?).cell(&cell_name);
    let config = match &cell.config {
        Some(config) => path(&field("config"), config)?,
        None => placed.config().display().to_string(),
    };
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
        postgres_port,
        pgbackrest_port: port(Ports::PGBACKREST)?,
        grpc_port: port(Ports::POOLER_GRPC)?,
        health_port: port(Ports::POOLER_HEALTH)?,
        pool_port: 0,
        listen: listen_of(cell, defaults)?.to_string(),
        data_directory: beside(&cell.pg_data, "pg_data", placed.data())?,
        socket_directory: beside(&cell.pg_sockets, "pg_sockets", placed.sockets())?,
        tls_directory: defaults.tls_dir.clone().unwrap_or_else(|| layout.tls().display().to_string()),
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
