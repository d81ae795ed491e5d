//! Who may connect: `pg_hba.conf` and `pg_ident.conf`.
//!
//! Two ways in and no third: the OS user that runs PostgreSQL over the unix socket, and a standby
//! with a certificate of this cluster. Nothing is trusted, nothing has a password.

use std::fmt::Write as _;

use crate::error::PostgresError;
use crate::roles::{MONITOR_ROLE, REPLICATION_ROLE, SUPERUSER};

/// The map of `pg_ident.conf` that the unix socket uses.
pub const IDENT_MAP: &str = "cellar";

/// Standbys may come from anywhere: their certificate is what counts, and cells move.
pub const ANY_ADDRESS: [&str; 2] = ["0.0.0.0/0", "::/0"];

fn invalid(name: &str, reason: &'static str) -> PostgresError {
    PostgresError::InvalidSetting { name: name.to_owned(), reason }
}

/// `pg_hba.conf`, accepting standbys from `replication_from`: networks such as `10.0.0.0/8`, `samenet`,
/// `samehost`, or host names.
///
/// # Errors
/// When an address holds a character that no address has.
pub fn render_hba(replication_from: &[&str]) -> Result<String, PostgresError> {
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
    text.push_str(
        "host     all          all                 all      reject\n\
         host     replication  all                 all      reject\n",
    );
    Ok(text)
}

/// `pg_ident.conf`: the OS user may be the superuser, the role that watches, and the role of its own name.
///
/// A map of everybody to the role of the same name would let any OS user that a role is ever
/// named after come in once the socket directory's mode is loosened.
///
/// # Errors
/// When the user's name could be read as something else.
pub fn render_ident(os_user: &str) -> Result<String, PostgresError> {
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
    let mut text = format!(
        "# Written by Cellar; changes are overwritten.\n\
         # MAP   OS-USER  ROLE\n\
         {IDENT_MAP}  \"{os_user}\"  {SUPERUSER}\n\
         {IDENT_MAP}  \"{os_user}\"  {MONITOR_ROLE}\n"
    );
    if os_user != SUPERUSER {
        let _ = writeln!(text, "{IDENT_MAP}  \"{os_user}\"  \"{os_user}\"");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_hba() {
        insta::assert_snapshot!(render_hba(&ANY_ADDRESS).unwrap(), @r"
        # Written by Cellar; changes are overwritten.
        # TYPE   DATABASE     USER                ADDRESS  METHOD
        local    all          all                          peer map=cellar
        local    replication  all                          peer map=cellar
        hostssl  replication  cellar_replication  0.0.0.0/0  cert
        hostssl  replication  cellar_replication  ::/0  cert
        host     all          all                 all      reject
        host     replication  all                 all      reject
        ");
    }

    #[test]
    fn golden_ident() {
        insta::assert_snapshot!(render_ident("postgres").unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "postgres"  postgres
        cellar  "postgres"  cellar_monitor
        "#);
        insta::assert_snapshot!(render_ident("ada.l").unwrap(), @r#"
        # Written by Cellar; changes are overwritten.
        # MAP   OS-USER  ROLE
        cellar  "ada.l"  postgres
        cellar  "ada.l"  cellar_monitor
        cellar  "ada.l"  "ada.l"
        "#);
    }

    #[test]
    fn a_value_cannot_add_another_rule() {
        for address in ["", "all trust\nlocal", "10.0.0.0/8 trust", "a,b", "\"x\""] {
            assert!(render_hba(&[address]).is_err(), "{address:?}");
        }
        for user in ["", "/^.*$", "a\"b", "a\nb"] {
            assert!(render_ident(user).is_err(), "{user:?}");
        }
        assert!(!render_hba(&["samehost"]).unwrap().contains("trust"));
    }
}
