//! Taking up certificates that were replaced, everywhere they are used, and refusing those that were revoked.
//!
//! The files are looked at every second. What is new goes to this process's own server and its connection to etcd, to
//! PostgreSQL and to pgBackRest's server; the latter two are then asked, from outside, which certificate they serve.
//! If one of them does not take it up, the old set comes back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use cellar_api::v1::InstallCertificatesRequest;
use cellar_model::{Code, Pooler, Refusal, timestamp_ms};
use cellar_postgres::{execute, reload, running};
use cellar_tls::{
    CertificateInfo, ClientTls, KeyFile, ProbeProtocol, REVOCATIONS, Reloaded, RevokedSerials,
    SERVER_CERTIFICATE, SERVER_KEY, Stamps, TlsError, exchange_back, forget_previous, install_renewed,
    install_revocations, previous, probe, read_revocations,
};

use crate::agent::{Agent, PROBE_TIMEOUT};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long PostgreSQL and pgBackRest may take to serve what they were told to read.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often they are asked meanwhile. Each question is a session of pgBackRest's.
const ASK: Duration = Duration::from_millis(500);

/// How long one question may take.
const QUESTION: Duration = Duration::from_secs(3);

const FILES: [&str; 5] = ["ca.crt", "server.key", SERVER_CERTIFICATE, "pooler.crt", "replication.crt"];

/// Looks after the certificates, for ever.
pub(crate) async fn watch(agent: Rc<Agent>) {
    let tls = agent.layout.tls();
    let mut stamps = Stamps::of(FILES.iter().map(|file| tls.join(file)).collect());
    let mut warned = None;
    take_note(&agent, &mut warned);
    heed_revocations(&agent, true).await;
    loop {
        tokio::time::sleep(LOOK).await;
        if stamps.changed() {
            // Files are replaced one after the other when only the authorities change: what fits is taken up.
            let problem = take_up(&agent, &mut stamps).await.err().unwrap_or_default();
            agent.update_report(|report| report.certificate_problem = problem);
            warned = None;
            heed_revocations(&agent, true).await;
        } else {
            heed_revocations(&agent, false).await;
        }
        take_note(&agent, &mut warned);
    }
}

/// The certificates' first end, into the status, and into the log once for each day that counts.
fn take_note(agent: &Agent, warned: &mut Option<u64>) {
    let tls = agent.layout.tls();
    let certificates = FILES.iter().filter(|file| file.ends_with(".crt"));
    let read = certificates.filter_map(|file| CertificateInfo::from_file(&tls.join(file)).ok());
    let Some(first) = read.min_by_key(|info| info.not_after) else { return };
    let expiry = jiff::Timestamp::try_from(first.not_after).ok().map(timestamp_ms);
    if agent.report.borrow().certificate_expiry != expiry {
        agent.update_report(|report| report.certificate_expiry = expiry);
    }
    let due = first.warning(SystemTime::now());
    let warning = first.warning_text(SystemTime::now()).unwrap_or_default();
    if agent.report.borrow().certificate_warning != warning {
        agent.update_report(|report| report.certificate_warning = warning);
    }
    if due.is_some() && due != *warned {
        tracing::warn!(
            serial = first.serial,
            days = due,
            "a certificate of this cell ends soon: renew it (`cellar certs rotate`)"
        );
        *warned = due;
    }
}

/// Takes the files up everywhere.
async fn take_up(agent: &Agent, stamps: &mut Stamps) -> Result<(), String> {
    let tls = agent.layout.tls();
    let problem = loop {
        match apply(agent).await {
            // A set that is not needed any more is a key that lies about.
            Ok(()) => return forget_previous(&tls).map_err(|error| error.to_string()),
            // Replaced again while the last set was being taken up, which says nothing against the new one.
            Err(_) if stamps.changed() => {}
            Err(problem) => break problem,
        }
    };
    if !previous(&tls).exists() {
        tracing::error!(problem, "the new certificates are not taken up");
        return Err(problem);
    }
    tracing::error!(problem, "the new certificates are not taken up; the old ones come back");
    exchange_back(&tls).map_err(|error| format!("{problem}; and the old ones do not come back: {error}"))?;
    // This change is our own; whatever comes after it is news.
    let _ = stamps.changed();
    match apply(agent).await {
        Ok(()) => Err(format!("the new certificates were not taken up, the old ones are back: {problem}")),
        Err(again) => Err(format!("{problem}; nor are the old ones taken up: {again}")),
    }
}

async fn apply(agent: &Agent) -> Result<(), String> {
    let text = |error: cellar_tls::TlsError| error.to_string();
    let tls = agent.layout.tls();
    let identity =
        |file: &str| ClientTls::from_files(&tls.join("ca.crt"), &tls.join(file), &tls.join("server.key"));
    // All three, before anybody is told of anything: pgBackRest's server ends when it reads a pair that does not fit.
    let [own, standby, pgbackrest] = ["pooler.crt", "replication.crt", SERVER_CERTIFICATE].map(identity);
    let (own, standby, pgbackrest) = (own.map_err(text)?, standby.map_err(text)?, pgbackrest.map_err(text)?);
    let served = pgbackrest.info().clone();
    let server = agent.grpc_tls.borrow().clone();
    if let Some(server) = server
        && let Reloaded::Swapped(info) = server.reload().map_err(text)?
    {
        tracing::info!(serial = info.serial, "serving a new certificate");
    }
    agent.etcd.reconnect(own.tonic_config()).await.map_err(|error| error.to_string())?;
    let Ok((card, _)) = agent.assignment() else { return Ok(()) };
    let data = PathBuf::from(&card.data_directory);
    if matches!(running(&data), Ok(Some(_))) {
        reload(&data).map_err(|error| error.to_string())?;
        serves(&card, card.postgres_port, ProbeProtocol::Postgres, &standby, &served).await?;
    }
    agent.reload_waits.set(true);
    agent.config_changed.notify_one();
    let deadline = Instant::now() + PATIENCE;
    while agent.reload_waits.get() {
        if Instant::now() >= deadline {
            tracing::info!(
                "pgBackRest's server takes the new certificates up as soon as nobody is just connecting"
            );
            return Ok(());
        }
        tokio::time::sleep(ASK).await;
    }
    if agent.report.borrow().tls_server_up {
        serves(&card, card.pgbackrest_port, ProbeProtocol::Pgbackrest, &pgbackrest, &served).await?;
    }
    tracing::info!(serial = served.serial, "the new certificates are served everywhere");
    Ok(())
}

/// Waits until the server behind a port serves a certificate and lets us in with ours.
async fn serves(
    card: &Pooler,
    port: u16,
    protocol: ProbeProtocol,
    visitor: &ClientTls,
    wanted: &CertificateInfo,
) -> Result<(), String> {
    let host = if card.listen == "0.0.0.0" { "127.0.0.1" } else { &card.listen };
    let address: SocketAddr =
        format!("{host}:{port}").parse().map_err(|_| format!("{host} is no address"))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tls = visitor.rustls_config().map_err(|error| error.to_string())?;
        let found = probe(address, &card.host, protocol, tls, QUESTION).await;
        let problem = match found {
            Ok(found) if found.served.serial != wanted.serial => {
                format!("port {port} still serves the certificate {}", found.served.serial)
            }
            Ok(found) => match found.accepted {
                Ok(()) => return Ok(()),
                Err(why) => format!("port {port} refuses our own certificate: {why}"),
            },
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(problem);
        }
        tokio::time::sleep(ASK).await;
    }
}

fn refused(error: &TlsError) -> Refusal {
    Refusal::new(Code::InvalidArgument, error.to_string())
}

/// Proves possession of the cell's key, to be given renewed certificates.
pub(crate) fn signing_request(agent: &Agent) -> Result<String, Refusal> {
    let key = KeyFile::load_or_create(&agent.layout.tls().join(SERVER_KEY), None);
    key.and_then(|key| key.signing_request()).map_err(|error| refused(&error))
}

/// Puts renewed certificates in the place of the present ones; they are taken up within a second or two.
pub(crate) fn install(agent: &Agent, renewed: &InstallCertificatesRequest) -> Result<(), Refusal> {
    let leaves = [
        (SERVER_CERTIFICATE, renewed.server.as_str()),
        ("pooler.crt", renewed.pooler.as_str()),
        ("replication.crt", renewed.replication.as_str()),
    ];
    install_renewed(&agent.layout.tls(), SERVER_KEY, &leaves).map_err(|error| refused(&error))?;
    tracing::info!("renewed certificates have come");
    Ok(())
}

/// Refuses what is revoked from now on: in this process, in PostgreSQL, and on connections that stand already.
///
/// The list that was seen last is kept beside the certificates, so that it holds while etcd is away and after a
/// restart, and no older one comes after it.
async fn heed_revocations(agent: &Agent, again: bool) {
    let tls = agent.layout.tls();
    let recorded = agent.mirror.view().revocations.clone().map(|list| list.pem);
    let kept = || std::fs::read_to_string(tls.join(REVOCATIONS)).ok();
    let Some(pem) = recorded.clone().or_else(kept) else { return };
    if !again && *agent.revocations_seen.borrow() == pem {
        return;
    }
    let read = |pem: &str| {
        std::fs::read_to_string(tls.join("ca.crt"))
            .map_err(|error| error.to_string())
            .and_then(|trusted| read_revocations(pem, &trusted).map_err(|error| error.to_string()))
    };
    let first = agent.revocations_seen.replace(pem.clone()).is_empty();
    if first
        && recorded.is_some()
        && let Some(Ok((serials, _))) = kept().map(|pem| read(&pem))
    {
        let _ = agent.revoked.take(serials.into_keys().collect());
    }
    let (serials, lists) = match read(&pem) {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(error, "the revocation list cannot be verified; the one before stays in use");
            return;
        }
    };
    if !agent.revoked.take(serials.keys().cloned().collect()) {
        tracing::error!("the revocation list in etcd is older than the one in use, which stays in use");
        return;
    }
    match install_revocations(&tls, &lists, None) {
        Ok(true) => tracing::info!(count = serials.len(), "a new revocation list"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "PostgreSQL cannot be told of revoked certificates"),
    }
    let Ok((card, _)) = agent.assignment() else { return };
    let data = PathBuf::from(&card.data_directory);
    if matches!(running(&data), Ok(Some(_))) {
        // The setting itself is the supervisor's; here the list behind it has changed.
        agent.nudge.notify_one();
        if let Err(error) = reload(&data) {
            tracing::error!(%error, "PostgreSQL does not read the revocation list");
        }
        if let Some(sql) = end_sessions(&serials)
            && let Err(error) = execute(&agent.endpoint(&card), &sql, PROBE_TIMEOUT).await
        {
            tracing::warn!(%error, "sessions with revoked certificates are not ended");
        }
    }
}

/// Ends the sessions of revoked certificates; `None` when none is.
fn end_sessions(revoked: &RevokedSerials) -> Option<String> {
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
        assert_eq!(end_sessions(&RevokedSerials::new()), None);
        let since = std::time::SystemTime::UNIX_EPOCH;
        let sql = end_sessions(&RevokedSerials::from([("ff".to_owned(), since), ("x".to_owned(), since)]));
        assert!(sql.unwrap().ends_with("IN (255)"));
    }
}
