//! Creating the roles that Cellar relies on.

use std::time::Duration;

use crate::error::PostgresError;
use crate::roles::{CERTIFICATE_CLIENT_GROUP, CLIENT_GROUP, MONITOR_ROLE, REPLICATION_ROLE, SUPERUSER};
use crate::session::{Endpoint, execute};

/// Dollar quotes around a block of SQL.
const TAG: &str = "$cellar_role$";

/// Creates a role unless it is there. On a primary that has it, this writes nothing.
fn create_unless_there(role: &str, attributes: &str) -> Result<String, PostgresError> {
    if role.contains('\0') || role.contains(TAG) {
        let reason = "must not hold a NUL or the quotes of our own SQL";
        return Err(PostgresError::InvalidSetting { name: "the OS user".to_owned(), reason });
    }
    let (literal, identifier) = (role.replace('\'', "''"), role.replace('"', "\"\""));
    // standard_conforming_strings is on by default and the session is our own, so backslashes are plain.
    Ok(format!(
        "DO {TAG} BEGIN\n\
         IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{literal}') THEN\n\
         CREATE ROLE \"{identifier}\" {attributes};\n\
         END IF;\n\
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;\n\
         END {TAG}"
    ))
}

/// Creates, on a primary, the roles that are not there yet: [`REPLICATION_ROLE`], [`MONITOR_ROLE`], the groups of clients, and
/// a superuser named like the OS user, so that a plain `psql` works for the user that runs PostgreSQL. None has a password.
///
/// # Errors
/// When PostgreSQL does not answer in `timeout` or refuses, as a standby does.
pub async fn ensure_roles(
    endpoint: &Endpoint,
    os_user: &str,
    timeout: Duration,
) -> Result<(), PostgresError> {
    execute(endpoint, &create_unless_there(REPLICATION_ROLE, "LOGIN REPLICATION")?, timeout).await?;
    execute(endpoint, &create_unless_there(MONITOR_ROLE, "LOGIN IN ROLE pg_monitor")?, timeout).await?;
    for group in [CLIENT_GROUP, CERTIFICATE_CLIENT_GROUP] {
        execute(endpoint, &create_unless_there(group, "NOLOGIN")?, timeout).await?;
    }
    if os_user != SUPERUSER {
        execute(endpoint, &create_unless_there(os_user, "LOGIN SUPERUSER")?, timeout).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let sql = create_unless_there("o'b\"c", "LOGIN").unwrap();
        assert!(create_unless_there("$cellar_role$; DROP ROLE x", "LOGIN").is_err());
        assert!(sql.contains("'o''b\"c'") && sql.contains("\"o'b\"\"c\" LOGIN"), "{sql}");
    }
}
