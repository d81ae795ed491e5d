//! `primary_conninfo`: how a standby reaches its primary.

use std::path::Path;

use crate::error::PostgresError;
use crate::failover_slots::SYNC_DATABASE;
use crate::roles::REPLICATION_ROLE;

/// Where a standby finds its primary and how it proves itself. Mutual TLS, no password anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrimaryConninfo<'a> {
    /// DNS name of the primary; must be in its certificate.
    pub host: &'a str,
    /// The primary's port.
    pub port: u16,
    /// Directory with `ca.crt`, `server.key` and `replication.crt`, a certificate of that key whose
    /// common name is [`REPLICATION_ROLE`].
    pub tls_directory: &'a Path,
    /// The standby's cell, for `pg_stat_replication`.
    pub application_name: &'a str,
    /// Whether it names a database too, which nothing but the synchronisation of slots wants.
    pub syncs_slots: bool,
}

fn quoted(name: &'static str, value: &str) -> Result<String, PostgresError> {
    if value.chars().any(char::is_control) {
        let reason = "must not hold control characters";
        return Err(PostgresError::InvalidSetting { name: name.to_owned(), reason });
    }
    Ok(format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")))
}

impl PrimaryConninfo<'_> {
    /// The value of `primary_conninfo`.
    ///
    /// # Errors
    /// When a value is not text that a configuration file can hold.
    pub fn render(&self) -> Result<String, PostgresError> {
        let file = |name| {
            let path = self.tls_directory.join(name);
            path.to_str().map(str::to_owned).ok_or(PostgresError::InvalidSetting {
                name: "the TLS directory".to_owned(),
                reason: "must be valid UTF-8",
            })
        };
        let port = self.port.to_string();
        let (certificate, key, ca) = (file("replication.crt")?, file("server.key")?, file("ca.crt")?);
        let pairs = [
            ("host", self.host),
            ("port", &port),
            ("user", REPLICATION_ROLE),
            ("application_name", self.application_name),
            ("sslmode", "verify-full"),
            ("sslcert", &certificate),
            ("sslkey", &key),
            ("sslrootcert", &ca),
            // A Kerberos ticket that happens to be there must not replace TLS.
            ("gssencmode", "disable"),
            ("connect_timeout", "10"),
            // A host that vanishes without a word is noticed in about 10 + 3 × 5 s; unacknowledged data in 20 s.
            ("keepalives_idle", "10"),
            ("keepalives_interval", "5"),
            ("keepalives_count", "3"),
            ("tcp_user_timeout", "20000"),
        ];
        let database = self.syncs_slots.then_some(("dbname", SYNC_DATABASE));
        let words: Result<Vec<String>, PostgresError> = pairs
            .into_iter()
            .chain(database)
            .map(|(name, value)| Ok(format!("{name}={}", quoted(name, value)?)))
            .collect();
        Ok(words?.join(" "))
    }
}

/// Splits a conninfo string as libpq does. `None` when it is malformed, or a URI.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let mut chars = after.trim_start().chars();
        let is_quoted = chars.as_str().starts_with('\'');
        if is_quoted {
            chars.next();
        }
        let mut value = String::new();
        let mut closed = false;
        while let Some(c) = chars.next() {
            match c {
                '\\' => value.extend(chars.next()),
                '\'' if is_quoted => {
                    closed = true;
                    break;
                }
                c if !is_quoted && c.is_ascii_whitespace() => break,
                c => value.push(c),
            }
        }
        if is_quoted && !closed {
            return None;
        }
        found.push((name.to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Some(found)
}

/// Host and port of a conninfo string: what to compare to find out whether a standby points at the
/// right primary. `None` when it names no host, or is not in the `key=value` form.
#[must_use]
pub fn conninfo_address(text: &str) -> Option<(String, u16)> {
    let pairs = pairs(text)?;
    // As in libpq, the last one counts.
    let last = |key: &str| pairs.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let host = last("host").filter(|host| !host.is_empty())?;
    let port = match last("port").unwrap_or_default() {
        "" => 5432,
        text => text.parse().ok()?,
    };
    Some((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render(directory: &str, name: &str) -> Result<String, PostgresError> {
        let tls_directory = Path::new(directory);
        let (host, port) = ("zone1.example", 25432);
        PrimaryConninfo { host, port, tls_directory, application_name: name, syncs_slots: false }.render()
    }

    #[test]
    fn golden() {
        insta::assert_snapshot!(render("/c/zone2/tls", "zone2").unwrap(), @"host='zone1.example' port='25432' user='cellar_replication' application_name='zone2' sslmode='verify-full' sslcert='/c/zone2/tls/replication.crt' sslkey='/c/zone2/tls/server.key' sslrootcert='/c/zone2/tls/ca.crt' gssencmode='disable' connect_timeout='10' keepalives_idle='10' keepalives_interval='5' keepalives_count='3' tcp_user_timeout='20000'");
    }

    #[test]
    fn quotes_and_backslashes_survive_and_line_breaks_are_refused() {
        let text = render(r"/it's\odd dir", "zone2").unwrap();
        let found = pairs(&text).unwrap();
        assert!(found.contains(&("sslrootcert".into(), r"/it's\odd dir/ca.crt".into())), "{found:?}");
        assert!(render("/c", "a\nb").is_err());
    }

    #[test]
    fn addresses_are_read_as_libpq_reads_them() {
        let address = |text: &str| conninfo_address(text);
        assert_eq!(address(&render("/c", "z").unwrap()), Some(("zone1.example".into(), 25432)));
        assert_eq!(address("host = a port=1"), Some(("a".into(), 1)));
        assert_eq!(address("host=a host='b c'"), Some(("b c".into(), 5432)));
        for none in ["", "port=1", "host=''", "host='a", "=x", "postgres://a/b", "host=a port=x", "word"] {
            assert_eq!(address(none), None, "{none:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(name in "[^\\p{Cc}]{0,30}") {
            let found = pairs(&render("/c", &name).unwrap()).unwrap();
            prop_assert!(found.contains(&("application_name".into(), name)));
        }

        #[test]
        fn reading_never_panics(text in ".{0,60}") {
            let _ = conninfo_address(&text);
        }
    }
}
