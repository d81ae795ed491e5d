//! Refusing revoked certificates: in this process, in PostgreSQL, and on open connections.
//!
//! The last list is kept beside the certificates, so that it holds while etcd does not answer and after a restart, and
//! no older list replaces it. What fails is tried again until the list holds everywhere.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cellar_postgres::{Endpoint, PostgresError, query, reload, running};
use cellar_tls::{REVOCATIONS, RevokedSerials, install_revocations, read_revocations};
use jiff::Timestamp;

use crate::agent::{Agent, PROBE_TIMEOUT};

/// How long PostgreSQL may take to use a list before that is a problem. The supervisor's rounds set it.
const LOAD_TIMEOUT: Duration = Duration::from_secs(20);

/// What has become of the newest list.
#[derive(Debug, Default)]
pub(super) struct Revocations {
    /// The list that is refused in this process.
    taken: String,
    /// The list that PostgreSQL was told to load: which, when as PostgreSQL counts, and since when that lasts.
    told: Option<(String, Timestamp, Instant)>,
    /// The list that holds everywhere.
    done: String,
}

impl Revocations {
    /// Lets the list be put into use again, because the files beside it have changed.
    pub(super) fn again(&mut self) {
        self.told = None;
        self.done.clear();
    }

    /// Takes the next step towards refusing revoked certificates everywhere. To be repeated without end.
    ///
    /// # Errors
    /// What keeps it from being so, for people.
    pub(super) async fn step(&mut self, agent: &Agent) -> Result<(), String> {
        let tls = agent.layout.tls();
        let recorded = agent.mirror.view().revocations.clone().map(|list| list.pem);
        let kept = || std::fs::read_to_string(tls.join(REVOCATIONS)).ok();
        let Some(pem) = recorded.clone().or_else(kept) else { return Ok(()) };
        if self.done == pem {
            return Ok(());
        }
        if self.taken.is_empty()
            && recorded.is_some()
            && let Some(Ok((serials, _))) = kept().map(|pem| read(&tls, &pem))
        {
            let _ = agent.revoked.take(serials.into_keys().collect());
        }
        let (serials, lists) = read(&tls, &pem).map_err(|error| {
            format!("the revocation list cannot be verified; the one before stays in use: {error}")
        })?;
        if !agent.revoked.take(serials.keys().cloned().collect()) {
            return Err(
                "the revocation list in etcd is older than the one in use, which stays in use".to_owned()
            );
        }
        self.taken.clone_from(&pem);
        match install_revocations(&tls, &lists, None) {
            Ok(true) => tracing::info!(count = serials.len(), "a new revocation list"),
            Ok(false) => {}
            Err(error) => return Err(format!("PostgreSQL cannot be told of revoked certificates: {error}")),
        }
        if let Some(etcd) = &agent.etcd_tls {
            install_revocations(etcd, &lists, None)
                .map_err(|error| format!("etcd cannot be told of revoked certificates: {error}"))?;
        }
        // Once it runs, and uses the list, there may be sessions to end.
        let Ok((card, _)) = agent.assignment() else { return Ok(()) };
        let data = PathBuf::from(&card.data_directory);
        if !matches!(running(&data), Ok(Some(_))) {
            self.told = None;
            return Ok(());
        }
        let (since, waited) = match &self.told {
            Some((told, since, from)) if *told == pem => (*since, from.elapsed()),
            _ => {
                // The supervisor writes the setting; here the list that it names has changed.
                let since = Timestamp::now();
                reload(&data)
                    .map_err(|error| format!("PostgreSQL does not read the revocation list: {error}"))?;
                self.told = Some((pem.clone(), since, Instant::now()));
                (since, Duration::ZERO)
            }
        };
        match end_sessions(&agent.endpoint(&card), &tls.join(REVOCATIONS), since, &serials).await {
            Ok(Holds::Everywhere) => self.done = pem,
            Ok(Holds::Nearly) => {}
            Ok(Holds::NotYet) => {
                agent.nudge.notify_one();
                if waited > LOAD_TIMEOUT {
                    // The clock may have been set back, so that no load is later than the one that was asked for.
                    let _ = reload(&data);
                    if let Some((_, since, _)) = &mut self.told {
                        *since = Timestamp::now();
                    }
                    return Err("PostgreSQL does not use the revocation list".to_owned());
                }
            }
            Err(PostgresError::NotRunning(_) | PostgresError::NotReady(_)) => {}
            Err(error) => return Err(format!("sessions with revoked certificates are not ended: {error}")),
        }
        Ok(())
    }
}

fn read(tls: &Path, pem: &str) -> Result<(RevokedSerials, String), String> {
    let trusted = std::fs::read_to_string(tls.join("ca.crt")).map_err(|error| error.to_string())?;
    read_revocations(pem, &trusted).map_err(|error| error.to_string())
}

/// How far a list holds in PostgreSQL.
#[derive(Debug, PartialEq, Eq)]
enum Holds {
    /// It lets revoked certificates in.
    NotYet,
    /// It refuses them, and had sessions of them.
    Nearly,
    /// It refuses them, and has no session of them.
    Everywhere,
}

impl Holds {
    fn of(is_used: bool, ended: usize) -> Self {
        match (is_used, ended) {
            (false, _) => Self::NotYet,
            (true, 0) => Self::Everywhere,
            (true, _) => Self::Nearly,
        }
    }
}

/// Ends the sessions of revoked certificates. Says whether that was the last time: a session that ends comes back for as
/// long as PostgreSQL does not use the list. So that is asked before.
async fn end_sessions(
    endpoint: &Endpoint,
    list: &Path,
    since: Timestamp,
    revoked: &RevokedSerials,
) -> Result<Holds, PostgresError> {
    let used = query(endpoint, &usage_query(list, since), PROBE_TIMEOUT).await?;
    let is_used = used.iter().flatten().flatten().any(|value| value == "t");
    let ended = match termination(revoked) {
        Some(sql) => query(endpoint, &sql, PROBE_TIMEOUT).await?.len(),
        None => 0,
    };
    Ok(Holds::of(is_used, ended))
}

/// Asks whether a session that begins now is under a configuration that names the list and was loaded after `since`.
fn usage_query(list: &Path, since: Timestamp) -> String {
    format!(
        "SELECT current_setting('ssl_crl_file') = '{}' AND pg_conf_load_time() >= '{since}'",
        list.display().to_string().replace('\'', "''")
    )
}

/// Ends the sessions of revoked certificates, a row for each; `None` when none is revoked.
fn termination(revoked: &RevokedSerials) -> Option<String> {
    // PostgreSQL shows serial numbers as decimal numbers. Ours have 16 bytes.
    let numbers = revoked.keys().filter_map(|serial| u128::from_str_radix(serial, 16).ok());
    let list: Vec<String> = numbers.map(|number| number.to_string()).collect();
    (!list.is_empty()).then(|| {
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_ssl WHERE client_serial IN ({})",
            list.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_compared_as_postgres_shows_them() {
        assert_eq!(termination(&RevokedSerials::new()), None);
        let since = std::time::SystemTime::UNIX_EPOCH;
        let sql = termination(&RevokedSerials::from([("ff".to_owned(), since), ("x".to_owned(), since)]));
        assert!(sql.unwrap().ends_with("IN (255)"));
    }

    #[test]
    fn sessions_are_ended_until_there_are_none_and_none_can_come_back() {
        for (is_used, ended, holds) in [
            (false, 0, Holds::NotYet),
            (false, 1, Holds::NotYet),
            (true, 1, Holds::Nearly),
            (true, 0, Holds::Everywhere),
        ] {
            assert_eq!(Holds::of(is_used, ended), holds, "{is_used} {ended}");
        }
        let sql = usage_query(Path::new("/c/it's/ca.crl"), Timestamp::UNIX_EPOCH);
        assert!(sql.contains("'/c/it''s/ca.crl'") && sql.ends_with(">= '1970-01-01T00:00:00Z'"), "{sql}");
    }
}
