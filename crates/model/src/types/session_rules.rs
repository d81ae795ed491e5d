//! Settings that every session of ours in PostgreSQL has, whoever opens it.
//!
//! The database's own settings, of the server, a role or a database, are for the database's sessions. Some of them would
//! keep ours from working at all.

/// The first major version of PostgreSQL that has triggers on login, and `event_triggers`, which disables them.
const LOGIN_TRIGGERS_SINCE: u32 = 17;

/// Options of a session: a standby refuses every query of a serializable transaction.
///
/// PostgreSQL splits options at spaces, and a backslash keeps one from being a separator.
pub const SESSION_RULES: &str =
    r"-c default_transaction_isolation=read\ committed -c default_transaction_deferrable=off";

/// As [`SESSION_RULES`], of a superuser's session. No trigger runs when it logs in: one that fails or writes would keep
/// it out. Without a version, what every version takes: PostgreSQL refuses a session with an option it does not know.
#[must_use]
pub fn superuser_session_rules(version: Option<u32>) -> String {
    match version {
        Some(version) if version >= LOGIN_TRIGGERS_SINCE => format!("{SESSION_RULES} -c event_triggers=off"),
        _ => SESSION_RULES.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_triggers_are_disabled_where_there_are_any() {
        for (version, disabled) in [(None, false), (Some(16), false), (Some(17), true), (Some(18), true)] {
            let rules = superuser_session_rules(version);
            assert!(rules.starts_with(SESSION_RULES));
            assert_eq!(rules.contains("-c event_triggers=off"), disabled, "{version:?}");
        }
    }
}
