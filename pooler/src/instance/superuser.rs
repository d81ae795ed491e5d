//! Whether PostgreSQL lets the superuser in, as which jobs work.
//!
//! The status is read as another role, and would look well while every backup and restore fails.

use std::time::{Duration, Instant};

use cellar_postgres::{Endpoint, PostgresError, query};

use crate::agent::PROBE_TIMEOUT;

/// How often it is tried.
const INTERVAL: Duration = Duration::from_secs(60);

/// What PostgreSQL said last.
#[derive(Default)]
pub(crate) struct SuperuserLogin {
    tried: Option<Instant>,
    refused: Option<String>,
}

/// Whether PostgreSQL answered, and the answer will be the same until somebody changes something: the role may not log in
/// or lacks a right, or the database is gone or takes no connections.
pub(crate) fn is_refusal(error: &PostgresError) -> bool {
    // Classes 28 (authorization) and 3D (no such database); ALLOW_CONNECTIONS false is 55000.
    matches!(error, PostgresError::Sql { code, .. }
        if code.starts_with("28") || code.starts_with("3D") || code == "55000" || code == "42501")
}

/// What to do about a refusal.
pub(crate) const REMEDY: &str = "jobs connect to the database postgres as the superuser that is named like the OS user: let it log in again (ALTER ROLE … LOGIN SUPERUSER, as another superuser), and see that the database is there and takes connections";

impl SuperuserLogin {
    /// Tries it when it is due. What is wrong; none when nothing is, as far as was seen.
    pub(crate) async fn look(&mut self, endpoint: &Endpoint) -> Option<String> {
        if self.tried.is_none_or(|tried| tried.elapsed() >= INTERVAL) {
            self.tried = Some(Instant::now());
            match query(endpoint, "SELECT 1", PROBE_TIMEOUT).await {
                Ok(_) => self.refused = None,
                Err(error) if is_refusal(&error) => self.refused = Some(error.to_string()),
                // It answers nobody, which is told elsewhere, or was slow.
                Err(_) => {}
            }
        }
        self.refused.as_ref().map(|why| format!("backups, checks and restores fail: {why}; {REMEDY}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_stays_is_a_refusal() {
        let sql = |code: &str| PostgresError::Sql { code: code.to_owned(), message: "no".to_owned() };
        for code in ["28000", "28P01", "3D000", "55000", "42501"] {
            assert!(is_refusal(&sql(code)), "{code}");
        }
        for code in ["53300", "57P03", "57014", "40001"] {
            assert!(!is_refusal(&sql(code)), "{code}");
        }
        assert!(!is_refusal(&PostgresError::NotReady("starting".to_owned())));
    }
}
