//! The roles that applications connect as over TCP: members of two groups, which `pg_hba.conf` lets in.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{ClientName, ScramVerifier, Secret};

use crate::error::PostgresError;
use crate::roles::{CERTIFICATE_CLIENT_GROUP, CLIENT_GROUP, MONITOR_ROLE, REPLICATION_ROLE, SUPERUSER};
use crate::session::{Endpoint, execute, execute_unrecorded, query};

/// How a client's role proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientProof {
    /// With the password that this was made from.
    Password(ScramVerifier),
    /// With a certificate of the cluster's authority that names the role.
    Certificate,
}

/// A role that may connect over TCP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientRole {
    /// Its name. Somebody may have made it with SQL, so it may be any.
    pub name: String,
    /// The databases that it owns, in order.
    pub owns: Vec<String>,
    /// Whether it proves itself with a certificate.
    pub certificate: bool,
    /// What somebody gave it that no application should have.
    pub excess: Vec<String>,
}

/// A role could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum ClientRoleError {
    /// There is a role of that name.
    #[error("there is a role {0} already")]
    Exists(ClientName),
    /// No client's role has that name.
    #[error("{0} is no role that applications connect as")]
    Unknown(ClientName),
    /// The database belongs to somebody else.
    #[error("the database {database} is there and belongs to {owner}")]
    DatabaseTaken {
        /// The database.
        database: ClientName,
        /// Its owner.
        owner: String,
    },
    /// It has no password: it proves itself with a certificate.
    #[error("the role {0} proves itself with a certificate")]
    ByCertificate(ClientName),
    /// It may do more than a client should: whoever is to give it a password is to be its equal.
    #[error("the role {name} has {}", excess.join(", "))]
    Excess {
        /// The role.
        name: ClientName,
        /// What it has.
        excess: Vec<String>,
    },
    /// The role owns something, or was granted rights.
    #[error("something depends on the role {name}: {detail}")]
    InUse {
        /// The role.
        name: ClientName,
        /// What, in PostgreSQL's words.
        detail: String,
    },
    /// PostgreSQL did not do it.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
}

/// The code of PostgreSQL's errors by which these are known.
const DUPLICATE_OBJECT: &str = "42710";
const DUPLICATE_DATABASE: &str = "42P04";
const DEPENDENT_OBJECTS: &str = "2BP01";

fn code(error: &PostgresError) -> &str {
    match error {
        PostgresError::Sql { code, .. } => code,
        _ => "",
    }
}

/// All that `pg_hba.conf` takes for members of the groups: also members of members.
fn members() -> String {
    format!(
        "SELECT m.member, g.rolname = '{CERTIFICATE_CLIENT_GROUP}' FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
         WHERE g.rolname IN ('{CLIENT_GROUP}', '{CERTIFICATE_CLIENT_GROUP}') \
         UNION SELECT m.member, b.certificate FROM pg_auth_members m JOIN members b ON b.role = m.roleid"
    )
}

/// A row for each role that may connect over TCP, and database.
fn list_query() -> String {
    format!(
        "WITH RECURSIVE members(role, certificate) AS ({}) \
         SELECT r.rolname, bool_or(b.certificate)::text, r.rolsuper::text, r.rolreplication::text, r.rolcreaterole::text, \
         r.rolbypassrls::text, d.datname FROM members b JOIN pg_roles r ON r.oid = b.role \
         LEFT JOIN pg_database d ON d.datdba = r.oid \
         WHERE r.rolcanlogin GROUP BY r.rolname, r.rolsuper, r.rolreplication, r.rolcreaterole, r.rolbypassrls, d.datname \
         ORDER BY r.rolname, d.datname",
        members()
    )
}

/// Rights that `list_query` reads, in its order.
const EXCESS: [&str; 4] = ["superuser", "replication", "createrole", "bypassrls"];

/// The roles that may connect over TCP, in order of their names.
///
/// # Errors
/// When PostgreSQL does not answer in `timeout`.
pub async fn list_client_roles(
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<Vec<ClientRole>, PostgresError> {
    let mut roles: BTreeMap<String, ClientRole> = BTreeMap::new();
    for row in query(endpoint, &list_query(), timeout).await? {
        let mut values = row.into_iter();
        let mut next = || values.next().flatten();
        let Some(name) = next() else { continue };
        let mut flag = || next().as_deref() == Some("true");
        let certificate = flag();
        let excess = EXCESS.iter().filter(|_| flag()).map(|word| (*word).to_owned()).collect();
        let role =
            roles.entry(name.clone()).or_insert(ClientRole { name, certificate, excess, owns: Vec::new() });
        role.owns.extend(next());
    }
    Ok(roles.into_values().collect())
}

/// What PostgreSQL keeps of the passwords of the roles that it lets in with one over TCP, in order of their names. Also a standby
/// answers.
///
/// # Errors
/// When PostgreSQL does not answer in `timeout`.
pub async fn client_secrets(
    endpoint: &Endpoint,
    timeout: Duration,
) -> Result<Vec<(String, ScramVerifier)>, PostgresError> {
    let own = [SUPERUSER, MONITOR_ROLE, REPLICATION_ROLE, CLIENT_GROUP, CERTIFICATE_CLIENT_GROUP].join("','");
    let sql = format!(
        "WITH RECURSIVE members(role, certificate) AS ({}) \
         SELECT r.rolname, r.rolpassword FROM members b JOIN pg_authid r ON r.oid = b.role \
         WHERE r.rolcanlogin AND r.rolname NOT IN ('{own}') AND (r.rolvaliduntil IS NULL OR r.rolvaliduntil > now()) \
         GROUP BY r.rolname, r.rolpassword HAVING NOT bool_or(b.certificate) ORDER BY r.rolname",
        members()
    );
    let rows = query(endpoint, &sql, timeout).await?;
    // One with an older kind of password gets in nowhere.
    let secret = |row: Vec<Option<String>>| match <[_; 2]>::try_from(row) {
        Ok([Some(name), Some(verifier)]) => Some((name, verifier.parse().ok()?)),
        _ => None,
    };
    Ok(rows.into_iter().filter_map(secret).collect())
}

/// The owner of a database; none when there is no such database.
async fn owner(
    endpoint: &Endpoint,
    database: &ClientName,
    timeout: Duration,
) -> Result<Option<String>, PostgresError> {
    let sql = format!(
        "SELECT r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE d.datname = '{database}'"
    );
    Ok(query(endpoint, &sql, timeout)
        .await?
        .into_iter()
        .next()
        .and_then(|row| row.into_iter().next().flatten()))
}

/// Makes a role that may connect over TCP and do nothing else than what it is granted. `owns` is a database that it is to
/// own: made if it is not there, taken over from the superuser if it is.
///
/// The database is made first, and belongs to the superuser until the role is there, so a call that was interrupted can be
/// repeated.
///
/// # Errors
/// When there is such a role, the database belongs to another one, or PostgreSQL does not do it. `timeout` is for each of
/// the statements, of which there are up to three.
pub async fn create_client_role(
    endpoint: &Endpoint,
    name: &ClientName,
    proof: &ClientProof,
    owns: Option<&ClientName>,
    timeout: Duration,
) -> Result<(), ClientRoleError> {
    // Neither name nor verifier has a character that must be quoted; a test of their types says so.
    let exists = format!("SELECT 1 FROM pg_roles WHERE rolname = '{name}'");
    if !query(endpoint, &exists, timeout).await?.is_empty() {
        return Err(ClientRoleError::Exists(name.clone()));
    }
    let mut gift = String::new();
    if let Some(database) = owns {
        match owner(endpoint, database, timeout).await? {
            Some(owner) if owner != SUPERUSER => {
                return Err(ClientRoleError::DatabaseTaken { database: database.clone(), owner });
            }
            Some(_) => {}
            None => match execute(endpoint, &format!("CREATE DATABASE \"{database}\""), timeout).await {
                Err(error) if code(&error) != DUPLICATE_DATABASE => return Err(error.into()),
                _ => {}
            },
        }
        gift = format!("; ALTER DATABASE \"{database}\" OWNER TO \"{name}\"");
    }
    let (group, password) = match proof {
        ClientProof::Password(verifier) => (CLIENT_GROUP, format!("PASSWORD '{}'", verifier.expose())),
        ClientProof::Certificate => (CERTIFICATE_CLIENT_GROUP, "PASSWORD NULL".to_owned()),
    };
    let sql = format!(
        "CREATE ROLE \"{name}\" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS {password} \
         IN ROLE {group}{gift}"
    );
    match execute_unrecorded(endpoint, &sql, timeout).await {
        Err(error) if code(&error) == DUPLICATE_OBJECT => Err(ClientRoleError::Exists(name.clone())),
        done => Ok(done?),
    }
}

async fn role_of(
    endpoint: &Endpoint,
    name: &ClientName,
    timeout: Duration,
) -> Result<ClientRole, ClientRoleError> {
    let roles = list_client_roles(endpoint, timeout).await?;
    let role = roles.into_iter().find(|role| role.name == name.as_str());
    role.ok_or_else(|| ClientRoleError::Unknown(name.clone()))
}

/// Ends the sessions that a role, known by its number, has here.
fn sessions_end(number: u32) -> String {
    format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = {number}")
}

async fn number_of(
    endpoint: &Endpoint,
    name: &ClientName,
    timeout: Duration,
) -> Result<Option<u32>, PostgresError> {
    let number = format!("SELECT oid FROM pg_roles WHERE rolname = '{name}'");
    let number = query(endpoint, &number, timeout).await?.into_iter().flatten().flatten().next();
    Ok(number.and_then(|text| text.parse().ok()))
}

/// Gives a role that connects over TCP with a password another one. Sessions go on, unless `ends_sessions`.
///
/// # Errors
/// When it is no such role, it has no password or more rights than a client, or PostgreSQL does not do it. `timeout` is
/// for each statement, of which there are up to four.
pub async fn set_client_password(
    endpoint: &Endpoint,
    name: &ClientName,
    verifier: &ScramVerifier,
    ends_sessions: bool,
    timeout: Duration,
) -> Result<ClientRole, ClientRoleError> {
    let role = role_of(endpoint, name, timeout).await?;
    if role.certificate {
        return Err(ClientRoleError::ByCertificate(name.clone()));
    }
    if !role.excess.is_empty() {
        return Err(ClientRoleError::Excess { name: name.clone(), excess: role.excess });
    }
    // Neither name nor verifier has a character that must be quoted; a test of their types says so.
    let sql = format!("ALTER ROLE \"{name}\" PASSWORD '{}'", verifier.expose());
    execute_unrecorded(endpoint, &sql, timeout).await?;
    // Afterwards: what begins from here on needs the new password.
    if ends_sessions && let Some(number) = number_of(endpoint, name, timeout).await? {
        execute(endpoint, &sessions_end(number), timeout).await?;
    }
    Ok(role)
}

/// Removes a role that may connect over TCP, and ends its sessions on this server.
///
/// # Errors
/// When it is no such role, something depends on it, or PostgreSQL does not do it.
pub async fn drop_client_role(
    endpoint: &Endpoint,
    name: &ClientName,
    timeout: Duration,
) -> Result<ClientRole, ClientRoleError> {
    let role = role_of(endpoint, name, timeout).await?;
    // Its sessions know their role by a number, which means nothing any more once the role is gone.
    let number = number_of(endpoint, name, timeout).await?;
    // In one transaction, so that it is not gone while they stay.
    let end = number.map(|number| format!("; {}", sessions_end(number))).unwrap_or_default();
    match execute(endpoint, &format!("DROP ROLE \"{name}\"{end}"), timeout).await {
        Err(PostgresError::Sql { code, message }) if code == DEPENDENT_OBJECTS => {
            return Err(ClientRoleError::InUse { name: name.clone(), detail: message });
        }
        done => done?,
    }
    Ok(role)
}

/// What PostgreSQL keeps of a password, with a salt of its own; as it would make it itself. Takes some milliseconds.
///
/// # Errors
/// Never in practice: when what was made is not what is expected.
pub fn scram_verifier(password: &Secret) -> Result<ScramVerifier, cellar_model::ScramVerifierError> {
    postgres_protocol::password::scram_sha_256(password.expose().as_bytes()).parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verifier_has_a_salt_of_its_own_and_nothing_of_the_password() {
        let password = Secret::password("correct horse").unwrap();
        let (one, other) = (scram_verifier(&password).unwrap(), scram_verifier(&password).unwrap());
        assert_ne!(one, other);
        assert!(!one.expose().contains("horse"));
    }
}
