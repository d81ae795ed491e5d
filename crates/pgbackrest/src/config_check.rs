//! What may stand in a generated `pgbackrest.conf`.
//!
//! The rules for paths are the model's, because the same ones hold where records are made. Hosts and repositories have
//! types that hold nothing else.

use std::collections::BTreeMap;

use cellar_model::{CellName, Database, Pooler, path_fault, value_fault};

/// Most pgN entries pgBackRest accepts.
const MAX_MEMBERS: usize = 256;

/// Why no `pgbackrest.conf` can be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value cannot stand in the file.
    #[error("{field} {value:?} is refused: {reason}")]
    Value {
        /// The record and its field, such as `pooler zone1: data_directory`.
        field: String,
        /// The value, cut to 200 characters.
        value: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// More members than pgBackRest knows indexes for.
    #[error("{0} members are more than the {MAX_MEMBERS} that pgBackRest can list")]
    TooManyMembers(usize),
    /// Two members are the same cell or have the same index.
    #[error("{first} and {second} have the same {what}")]
    SameMember {
        /// One cell.
        first: String,
        /// The other.
        second: String,
        /// `cell name` or `index`.
        what: &'static str,
    },
    /// A member belongs to another database.
    #[error("the pooler of cell {cell} belongs to database {found}, not to {expected}")]
    OtherDatabase {
        /// Its cell.
        cell: String,
        /// Its database.
        found: String,
        /// The database of the file.
        expected: String,
    },
    /// Two servers on one host would listen on the same port.
    #[error("port {port} on host {host} is both {first} and {second}")]
    SamePort {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// Who has it.
        first: String,
        /// Who has it too.
        second: String,
    },
    /// The repository is encrypted and there is no passphrase.
    #[error("the repository of database {0} is encrypted, and its passphrase is not known here")]
    NoPassphrase(String),
    /// The repository is on the host of a cell that is not among the members.
    #[error("the repository is on the host of cell {0}, and the database has no such cell")]
    NoRepositoryHost(String),
    /// pgBackRest takes no config with a remote repository and a remote instance for what reads instances.
    #[error("the repository is on the host of cell {0}, and only there a backup can be made")]
    RepositoryElsewhere(String),
    /// The template failed, which is a bug.
    #[error("the template of pgbackrest.conf could not be rendered: {0}")]
    Template(String),
}

fn listen_fault(text: &str) -> Option<&'static str> {
    value_fault(text).or_else(|| {
        (!text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '*')))
            .then_some("it is not an address to listen on")
    })
}

/// The field is only named when it is refused: a large database renders a quarter of a million good values.
fn refuse(
    field: impl FnOnce() -> String,
    value: &str,
    fault: Option<&'static str>,
) -> Result<(), ConfigError> {
    match fault {
        None => Ok(()),
        Some(reason) => {
            Err(ConfigError::Value { field: field(), value: value.chars().take(200).collect(), reason })
        }
    }
}

/// Checks what a client may work on: `*` or stanza names.
pub(crate) fn check_auth(auth: &str) -> Result<(), ConfigError> {
    let stanzas =
        auth.split(',').all(|name| name.parse::<cellar_model::StanzaName>().is_ok()) && !auth.is_empty();
    let fault = (auth != "*" && !stanzas).then_some("it is neither * nor stanza names separated by commas");
    refuse(|| "tls_server_auth".to_owned(), auth, fault)
}

/// Checks every value of the records and that the members fit together. The local pooler's TLS
/// directory serves for the connections to the others too, so theirs is not looked at.
pub(crate) fn check(database: &Database, local: &Pooler, others: &[&Pooler]) -> Result<(), ConfigError> {
    let members: Vec<&Pooler> = std::iter::once(local).chain(others.iter().copied()).collect();
    if members.len() > MAX_MEMBERS {
        return Err(ConfigError::TooManyMembers(members.len()));
    }
    check_distinct(&members)?;
    for member in &members {
        if member.database != database.name {
            return Err(ConfigError::OtherDatabase {
                cell: member.cell.to_string(),
                found: member.database.to_string(),
                expected: database.name.to_string(),
            });
        }
        let field = |name: &str| format!("pooler {}: {name}", member.cell);
        for (name, path) in [
            ("data_directory", &member.data_directory),
            ("socket_directory", &member.socket_directory),
            ("config_path", &member.config_path),
        ] {
            refuse(|| field(name), path, path_fault(path))?;
        }
    }
    let field = |name: &str| format!("pooler {}: {name}", local.cell);
    refuse(|| field("listen"), &local.listen, listen_fault(&local.listen))?;
    for (name, path) in [
        ("tls_directory", &local.tls_directory),
        ("log_directory", &local.log_directory),
        ("lock_directory", &local.lock_directory),
        ("spool_directory", &local.spool_directory),
    ] {
        refuse(|| field(name), path, path_fault(path))?;
    }
    check_ports(&members)
}

fn check_distinct(members: &[&Pooler]) -> Result<(), ConfigError> {
    let (mut cells, mut indexes) = (BTreeMap::new(), BTreeMap::new());
    for member in members {
        let same = |first: &&Pooler, what| ConfigError::SameMember {
            first: first.cell.to_string(),
            second: member.cell.to_string(),
            what,
        };
        if let Some(first) = cells.insert(&member.cell, *member) {
            return Err(same(&first, "cell name"));
        }
        if let Some(first) = indexes.insert(member.index, *member) {
            return Err(same(&first, "index"));
        }
    }
    Ok(())
}

fn check_ports(members: &[&Pooler]) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<(&str, u16), (&str, &CellName)> = BTreeMap::new();
    let named = |(what, cell): (&str, &CellName)| format!("{what} of cell {cell}");
    for member in members {
        for (what, port) in
            [("postgres_port", member.postgres_port), ("pgbackrest_port", member.pgbackrest_port)]
        {
            let owner = (what, &member.cell);
            if port == 0 {
                return refuse(|| format!("pooler {}: {what}", member.cell), "0", Some("it is not a port"));
            }
            if let Some(first) = taken.insert((&member.host, port), owner) {
                let (first, second) = (named(first), named(owner));
                return Err(ConfigError::SamePort { host: member.host.to_string(), port, first, second });
            }
        }
    }
    Ok(())
}
