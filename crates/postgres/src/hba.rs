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

/// The map of `pg_ident.conf` from common names of clients' certificates to roles.
const CERTIFICATE_MAP: &str = "cellar_certificate";

/// What the common name of a client's certificate begins with; the role's name follows. Nothing else of the cluster has
/// such a name, so a client's certificate opens PostgreSQL only.
const CERTIFICATE_PREFIX: &str = "client:";

/// Databases that no client needs: those that databases are copied from, and the one in which Cellar works.
const CLOSED_DATABASES: &str = "postgres,template0,template1";

/// Standbys may come from anywhere: their certificate is what counts, and cells move.
pub const ANY_ADDRESS: [&str; 2] = ["0.0.0.0/0", "::/0"];

fn invalid(name: &str, reason: &'static str) -> PostgresError {
    PostgresError::InvalidSetting { name: name.to_owned(), reason }
}

/// Refuses the name of an OS user that could be read as something else in these files.
fn check_os_user(os_user: &str) -> Result<(), PostgresError> {
    // A leading slash makes a regular expression of it, even in quotes.
    if os_user.is_empty()
        || os_user.starts_with('/')
        || os_user.contains('"')
        || os_user.contains(char::is_control)
    {
        return Err(invalid(
            "the OS user",
            "must not be empty, begin with '/' or hold quotes or control characters",
        ));
    }
    Ok(())
}

/// The lines for clients. `+` stands for the members of a role; a superuser counts as one only if somebody made it one, and
/// these roles are refused even then.
fn client_rules(os_user: &str) -> Result<String, PostgresError> {
    check_os_user(os_user)?;
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
/// `samehost`, or host names. With the OS user that runs PostgreSQL, it accepts clients too: from everywhere, since the
/// addresses that PostgreSQL listens on limit where they come from.
///
/// # Errors
/// When an address holds a character that no address has, or the user's name could be read as something else.
pub fn render_hba(replication_from: &[&str], clients: Option<&str>) -> Result<String, PostgresError> {
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
        let _ = writeln!(text, "hostssl  replication  {REPLICATION_ROLE}  {address}  cert");
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

/// `pg_ident.conf`: the OS user may be the superuser, the role that watches, and the role of its own name; a client's
/// certificate is for the role that it names.
///
/// A map of everybody to the role of the same name would let any OS user that a role is ever
/// named after come in once the socket directory's mode is loosened.
///
/// # Errors
/// When the user's name could be read as something else.
pub fn render_ident(os_user: &str) -> Result<String, PostgresError> {
    check_os_user(os_user)?;
    let mut text = format!(
        "# Written by Cellar; changes are overwritten.\n\
         # MAP   OS-USER  ROLE\n\
         {IDENT_MAP}  \"{os_user}\"  {SUPERUSER}\n\
         {IDENT_MAP}  \"{os_user}\"  {MONITOR_ROLE}\n"
    );
    if os_user != SUPERUSER {
        let _ = writeln!(text, "{IDENT_MAP}  \"{os_user}\"  \"{os_user}\"");
    }
    let _ = writeln!(text, "{CERTIFICATE_MAP}  /^{CERTIFICATE_PREFIX}(.*)$  \\1");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hba() {
        insta::assert_snapshot!(render_hba(&ANY_ADDRESS, Some("ada.l")).unwrap(), @r#"
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
        let without = render_hba(&[], None).unwrap();
        assert!(!without.contains("scram") && !without.contains("hostssl"), "{without}");
        let of_superuser = render_hba(&[], Some(SUPERUSER)).unwrap();
        assert!(of_superuser.contains(",cellar_certificate_client  all  reject"), "{of_superuser}");
    }

    #[test]
    fn golden_ident() {
        insta::assert_snapshot!(render_ident("postgres").unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "postgres"  postgres
        cellar  "postgres"  cellar_monitor
        cellar_certificate  /^client:(.*)$  \1
        "#);
        insta::assert_snapshot!(render_ident("ada.l").unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "ada.l"  postgres
        cellar  "ada.l"  cellar_monitor
        cellar  "ada.l"  "ada.l"
        cellar_certificate  /^client:(.*)$  \1
        "#);
    }

    #[test]
    fn a_value_cannot_add_another_rule() {
        for address in ["", "all trust\nlocal", "10.0.0.0/8 trust", "a,b", "\"x\""] {
            assert!(render_hba(&[address], None).is_err(), "{address:?}");
        }
        for user in ["", "/^.*$", "a\"b", "a\nb"] {
            assert!(render_ident(user).is_err(), "{user:?}");
            assert!(render_hba(&[], Some(user)).is_err(), "{user:?}");
        }
        assert!(!render_hba(&["samehost"], None).unwrap().contains("trust"));
    }
}
