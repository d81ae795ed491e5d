//! Who may connect: `pg_hba.conf` and `pg_ident.conf`.
//!
//! Three ways in and no fourth: the OS user that runs PostgreSQL over the unix socket, a standby with a certificate of
//! this cluster, and the members of two groups, which applications connect as. Nothing is trusted, and nothing comes in
//! over TCP without TLS.

use std::fmt::Write as _;

use crate::error::PostgresError;
use crate::roles::{CERTIFICATE_CLIENT_GROUP, CLIENT_GROUP, MONITOR_ROLE, REPLICATION_ROLE, SUPERUSER};

/// The map of `pg_ident.conf` that the unix socket uses.
pub const IDENT_MAP: &str = "cellar";

/// The map of `pg_ident.conf` that standbys use whose certificates have another name than [`REPLICATION_ROLE`].
const REPLICATION_MAP: &str = "cellar_replication";
/// The map of `pg_ident.conf` from common names of clients' certificates to roles.
const CERTIFICATE_MAP: &str = "cellar_certificate";

/// What the common name of a client's certificate begins with; the role's name follows. Nothing else of the cluster has
/// such a name, so a client's certificate opens PostgreSQL only.
const CERTIFICATE_PREFIX: &str = "client:";

/// Databases that no client needs: those that databases are copied from, and the one in which Cellar works.
const CLOSED_DATABASES: &str = "postgres,template0,template1";

/// What a standby may connect to that does not synchronise slots.
pub const REPLICATION_ALONE: &str = "replication";

/// With the database through which a standby asks for slots: [`SYNC_DATABASE`](crate::failover_slots::SYNC_DATABASE).
pub(crate) const WITH_SYNC_DATABASE: &str = "replication,postgres";

/// Standbys may come from anywhere: their certificate is what counts, and cells move.
pub const ANY_ADDRESS: [&str; 2] = ["0.0.0.0/0", "::/0"];

fn invalid(name: &str, reason: &'static str) -> PostgresError {
    PostgresError::InvalidSetting { name: name.to_owned(), reason }
}

/// Refuses a name that could be read as something else in these files.
fn check_name(what: &str, name: &str) -> Result<(), PostgresError> {
    // A leading slash makes a regular expression of it, even in quotes.
    if name.is_empty() || name.starts_with('/') || name.contains('"') || name.contains(char::is_control) {
        return Err(invalid(what, "must not be empty, begin with '/' or hold quotes or control characters"));
    }
    Ok(())
}

/// The lines for clients. `+` stands for the members of a role; a superuser counts as one only if somebody made it one, and
/// these roles are refused even then.
fn client_rules(os_user: &str) -> Result<String, PostgresError> {
    check_name("the OS user", os_user)?;
    let own = [SUPERUSER, MONITOR_ROLE, REPLICATION_ROLE, CLIENT_GROUP, CERTIFICATE_CLIENT_GROUP].join(",");
    let own = if os_user == SUPERUSER { own } else { format!("{own},\"{os_user}\"") };
    Ok(format!(
        "host     all          {own}  all  reject\n\
         host     {CLOSED_DATABASES}  all  all  reject\n\
         hostssl  all          +{CERTIFICATE_CLIENT_GROUP}  all  cert map={CERTIFICATE_MAP}\n\
         hostssl  all          +{CLIENT_GROUP}  all  scram-sha-256\n"
    ))
}

/// `pg_hba.conf`, accepting standbys from `replication_from`: networks such as `10.0.0.0/8`, `samenet`,
/// `samehost`, or host names, to `databases`. Their certificates have the name `replication_name`. With the OS user that runs PostgreSQL, it
/// accepts clients too: from everywhere, since the addresses that PostgreSQL listens on limit where they come from.
///
/// # Errors
/// When an address holds a character that no address has, or the user's name could be read as something else.
pub fn render_hba(
    replication_from: &[&str],
    databases: &str,
    replication_name: &str,
    clients: Option<&str>,
) -> Result<String, PostgresError> {
    let map = match replication_name {
        REPLICATION_ROLE => String::new(),
        _ => format!(" map={REPLICATION_MAP}"),
    };
    let mut text = format!(
        "# Written by Cellar; changes are overwritten.\n\
         # TYPE   DATABASE     USER                ADDRESS  METHOD\n\
         local    all          all                          peer map={IDENT_MAP}\n\
         local    replication  all                          peer map={IDENT_MAP}\n"
    );
    for address in replication_from {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b".-:/_".contains(&b);
        if address.is_empty() || !address.bytes().all(fits) {
            return Err(invalid(
                "an address of pg_hba.conf",
                "is not a network, a host name, samehost or samenet",
            ));
        }
        let _ = writeln!(text, "hostssl  {databases}  {REPLICATION_ROLE}  {address}  cert{map}");
    }
    if let Some(os_user) = clients {
        text.push_str(&client_rules(os_user)?);
    }
    text.push_str(
        "host     all          all                 all      reject\n\
         host     replication  all                 all      reject\n",
    );
    Ok(text)
}

/// `pg_ident.conf`: the OS user may be the superuser, the role that watches, and the role of its own name; who has a
/// certificate of the name `replication_name` may be [`REPLICATION_ROLE`]; a client's certificate is for the role that it
/// names.
///
/// A map of everybody to the role of the same name would let any OS user that a role is ever
/// named after come in once the socket directory's mode is loosened.
///
/// # Errors
/// When a name could be read as something else.
pub fn render_ident(os_user: &str, replication_name: &str) -> Result<String, PostgresError> {
    check_name("the OS user", os_user)?;
    check_name("the name of standbys' certificates", replication_name)?;
    let mut text = format!(
        "# Written by Cellar; changes are overwritten.\n\
         # MAP   OS-USER  ROLE\n\
         {IDENT_MAP}  \"{os_user}\"  {SUPERUSER}\n\
         {IDENT_MAP}  \"{os_user}\"  {MONITOR_ROLE}\n"
    );
    if os_user != SUPERUSER {
        let _ = writeln!(text, "{IDENT_MAP}  \"{os_user}\"  \"{os_user}\"");
    }
    if replication_name != REPLICATION_ROLE {
        let _ = writeln!(text, "{REPLICATION_MAP}  \"{replication_name}\"  {REPLICATION_ROLE}");
    }
    let _ = writeln!(text, "{CERTIFICATE_MAP}  /^{CERTIFICATE_PREFIX}(.*)$  \\1");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hba() {
        insta::assert_snapshot!(render_hba(&ANY_ADDRESS, REPLICATION_ALONE, REPLICATION_ROLE, Some("ada.l")).unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # TYPE   DATABASE     USER                ADDRESS  METHOD
        local    all          all                          peer map=cellar
        local    replication  all                          peer map=cellar
        hostssl  replication  cellar_replication  0.0.0.0/0  cert
        hostssl  replication  cellar_replication  ::/0  cert
        host     all          postgres,cellar_monitor,cellar_replication,cellar_client,cellar_certificate_client,"ada.l"  all  reject
        host     postgres,template0,template1  all  all  reject
        hostssl  all          +cellar_certificate_client  all  cert map=cellar_certificate
        hostssl  all          +cellar_client  all  scram-sha-256
        host     all          all                 all      reject
        host     replication  all                 all      reject
        "#);
        let without = render_hba(&[], REPLICATION_ALONE, REPLICATION_ROLE, None).unwrap();
        assert!(!without.contains("scram") && !without.contains("hostssl"), "{without}");
        let of_superuser = render_hba(&[], REPLICATION_ALONE, REPLICATION_ROLE, Some(SUPERUSER)).unwrap();
        assert!(of_superuser.contains(",cellar_certificate_client  all  reject"), "{of_superuser}");
    }

    #[test]
    fn golden_ident() {
        insta::assert_snapshot!(render_ident("postgres", REPLICATION_ROLE).unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "postgres"  postgres
        cellar  "postgres"  cellar_monitor
        cellar_certificate  /^client:(.*)$  \1
        "#);
        insta::assert_snapshot!(render_ident("ada.l", REPLICATION_ROLE).unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "ada.l"  postgres
        cellar  "ada.l"  cellar_monitor
        cellar  "ada.l"  "ada.l"
        cellar_certificate  /^client:(.*)$  \1
        "#);
    }

    #[test]
    fn standbys_of_a_database_with_names_of_its_own_are_known_by_them() {
        let name = "cellar_replication@sales";
        let hba = render_hba(&["10.0.0.0/8"], REPLICATION_ALONE, name, Some("postgres")).unwrap();
        assert!(
            hba.contains(
                "hostssl  replication  cellar_replication  10.0.0.0/8  cert map=cellar_replication\n"
            )
        );
        // Its clients are let in as those of any database.
        let clients = client_rules("postgres").unwrap();
        assert!(hba.contains(&clients) && !clients.contains("map=cellar_replication"), "{hba}");
        let ident = render_ident("postgres", name).unwrap();
        let line = "cellar_replication  \"cellar_replication@sales\"  cellar_replication\n";
        let of_clients = "cellar_certificate  /^client:(.*)$  \\1\n";
        assert!(ident.ends_with(&format!("{line}{of_clients}")), "{ident}");
    }

    #[test]
    fn a_value_cannot_add_another_rule() {
        for address in ["", "all trust\nlocal", "10.0.0.0/8 trust", "a,b", "\"x\""] {
            assert!(
                render_hba(&[address], REPLICATION_ALONE, REPLICATION_ROLE, None).is_err(),
                "{address:?}"
            );
        }
        for user in ["", "/^.*$", "a\"b", "a\nb"] {
            assert!(render_ident(user, REPLICATION_ROLE).is_err(), "{user:?}");
            assert!(render_ident("postgres", user).is_err(), "{user:?}");
            assert!(render_hba(&[], REPLICATION_ALONE, REPLICATION_ROLE, Some(user)).is_err(), "{user:?}");
        }
        assert!(
            !render_hba(&["samehost"], REPLICATION_ALONE, REPLICATION_ROLE, None).unwrap().contains("trust")
        );
    }
}
