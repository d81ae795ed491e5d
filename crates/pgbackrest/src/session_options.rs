//! Settings of the sessions that pgBackRest opens in PostgreSQL.
//!
//! A backup's session waits without a word while files are copied. What the database's own settings end such sessions
//! with must not hold for it. libpq reads `PGOPTIONS`, and what it says counts more than `postgresql.conf` and what the
//! catalogs say of the role and the database. A session in another cell is opened there, by a child of that cell's
//! TLS server, so the server has the same environment.

use std::path::Path;

use cellar_model::superuser_session_rules;

/// Settings that are 0 in pgBackRest's sessions, with the first major version of PostgreSQL that knows them: one that
/// PostgreSQL does not know would keep pgBackRest from connecting. pgBackRest has a timeout of its own for statements
/// (`db-timeout`); 2.45 is subject to the server's all the same, which ends a backup at its first checkpoint.
const UNLIMITED: [(&str, u32); 5] = [
    ("statement_timeout", 0),
    ("lock_timeout", 0),
    ("idle_in_transaction_session_timeout", 0),
    ("idle_session_timeout", 14),
    ("transaction_timeout", 17),
];

/// The value of `PGOPTIONS` for a major version of PostgreSQL; without one, what every version takes. pgBackRest logs in
/// as a superuser.
fn options_for(version: Option<u32>) -> String {
    let known = UNLIMITED.iter().filter(|(_, since)| *since <= version.unwrap_or_default());
    let unlimited = known.map(|(name, _)| format!("-c {name}=0"));
    unlimited.chain([superuser_session_rules(version)]).collect::<Vec<_>>().join(" ")
}

/// The value of `PGOPTIONS` for the instance that has its data in this directory.
pub(crate) fn options_for_data(directory: Option<&Path>) -> String {
    let text = directory.and_then(|directory| std::fs::read_to_string(directory.join("PG_VERSION")).ok());
    options_for(text.and_then(|text| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_settings_that_the_version_knows_are_named() {
        let names = |version| {
            let options = options_for(version);
            assert!(options.ends_with(&superuser_session_rules(version)), "{options}");
            assert!(options.starts_with("-c statement_timeout=0 -c lock_timeout=0 -c idle_in"));
            (options.contains("idle_session_timeout=0"), options.contains("transaction_timeout=0"))
        };
        for (version, expected) in [
            (None, (false, false)),
            (Some(13), (false, false)),
            (Some(15), (true, false)),
            (Some(17), (true, true)),
            (Some(18), (true, true)),
        ] {
            let (idle, transaction) = names(version);
            assert_eq!((idle, transaction), expected, "{version:?}");
        }
    }

    #[test]
    fn version_is_that_of_the_data_directory() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(options_for_data(Some(data.path())), options_for(None));
        std::fs::write(data.path().join("PG_VERSION"), "17\n").unwrap();
        assert_eq!(options_for_data(Some(data.path())), options_for(Some(17)));
        assert_eq!(options_for_data(None), options_for(None));
    }
}
