//! Putting replaced certificates into use wherever they are used.
//!
//! The files are checked every second. New ones go to this process's own server and its connection to etcd, to
//! PostgreSQL, and to pgBackRest's server. The latter two are then asked, through a connection, which certificate they
//! serve. If one of them does not use the new set, the old set is put back.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use cellar_api::v1::InstallCertificatesRequest;
use cellar_model::{CellLayout, Code, Pooler, Refusal, timestamp_ms};
use cellar_postgres::{reload, running};
use cellar_tls::{
    CertificateInfo, ClientTls, KeyFile, ProbeProtocol, Reloaded, SERVER_CERTIFICATE, SERVER_KEY, Stamps,
    TlsError, exchange_back, forget_previous, install_renewed, previous, probe,
};

use crate::agent::Agent;
use crate::services::revocations::Revocations;

/// How often the files are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// How long PostgreSQL and pgBackRest may take to serve a new certificate after they were told to reload.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(20);

/// How often they are asked meanwhile. Each question is a session of pgBackRest's server.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// How long one such question may take.
const CERTIFICATE_PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The files of a cell's certificates and its key.
const FILES: [&str; 5] = ["ca.crt", "server.key", SERVER_CERTIFICATE, "pooler.crt", "replication.crt"];

/// The files of a cell's certificates as they are now: to be taken before they are loaded, so that [`watch`] sees every
/// later change.
pub(crate) fn stamps(layout: &CellLayout) -> Stamps {
    let tls = layout.tls();
    Stamps::of(FILES.iter().map(|file| tls.join(file)).collect())
}

/// Puts new certificates and revocations into use: files that differ from `stamps`. Never returns.
pub(crate) async fn watch(agent: Rc<Agent>, mut stamps: Stamps) {
    let mut warned = None;
    let (mut problem, mut revocation_problem) = (String::new(), String::new());
    let mut revocations = Revocations::default();
    let mut first = first_to_end(&agent);
    report_expiry(&agent, first.as_ref(), &mut warned);
    loop {
        if stamps.changed() {
            // The files are replaced one after the other, so a set may not fit together yet. The last change does.
            problem = put_into_use(&agent, &mut stamps).await.err().unwrap_or_default();
            warned = None;
            first = first_to_end(&agent);
            revocations.again();
        }
        let refused = revocations.step(&agent).await.err().unwrap_or_default();
        if refused != revocation_problem && !refused.is_empty() {
            tracing::error!(problem = refused, "revoked certificates are not refused everywhere");
        }
        revocation_problem = refused;
        let shown: Vec<&str> = [problem.as_str(), revocation_problem.as_str()]
            .into_iter()
            .filter(|text| !text.is_empty())
            .collect();
        let shown = shown.join("; ");
        if agent.report.borrow().certificate_problem != shown {
            agent.update_report(|report| report.certificate_problem = shown);
        }
        report_expiry(&agent, first.as_ref(), &mut warned);
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
}

/// The certificate of this cell that ends first.
fn first_to_end(agent: &Agent) -> Option<CertificateInfo> {
    let tls = agent.layout.tls();
    let certificates = FILES.iter().filter(|file| file.ends_with(".crt"));
    let read = certificates.filter_map(|file| CertificateInfo::from_file(&tls.join(file)).ok());
    read.min_by_key(|info| info.not_after)
}

/// Puts the first expiry of the certificates into the status, and a warning into the log once for each day on which
/// one is due.
fn report_expiry(agent: &Agent, first: Option<&CertificateInfo>, warned: &mut Option<u64>) {
    let Some(first) = first else { return };
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
            "a certificate of this cell ends soon: renew it (`cellar certs rotate`, on hosts `cellar cluster bundle`)"
        );
        *warned = due;
    }
}

/// Puts the files into use everywhere, or else puts the old ones back.
async fn put_into_use(agent: &Agent, stamps: &mut Stamps) -> Result<(), String> {
    let tls = agent.layout.tls();
    let problem = loop {
        match apply(agent).await {
            // The old set is not needed any more, and contains a key.
            Ok(()) => return forget_previous(&tls).map_err(|error| error.to_string()),
            // The files were replaced again meanwhile, so the failure says nothing about the newest set.
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
    // This change is our own, so it is no news.
    let _ = stamps.changed();
    match apply(agent).await {
        Ok(()) => {
            // What is kept now is the set that is of no use: the next change that cannot be loaded must not bring it back.
            let forgotten =
                forget_previous(&tls).map_err(|error| format!("; {error}")).err().unwrap_or_default();
            Err(format!(
                "the new certificates were not taken up, the old ones are back: {problem}{forgotten}"
            ))
        }
        Err(again) => Err(format!("{problem}; nor are the old ones taken up: {again}")),
    }
}

async fn apply(agent: &Agent) -> Result<(), String> {
    let text = |error: cellar_tls::TlsError| error.to_string();
    let tls = agent.layout.tls();
    let identity =
        |file: &str| ClientTls::from_files(&tls.join("ca.crt"), &tls.join(file), &tls.join("server.key"));
    // All three are read before anything is reloaded: pgBackRest's server ends when it reads a key that does not fit its
    // certificate.
    let [own, standby, pgbackrest] = ["pooler.crt", "replication.crt", SERVER_CERTIFICATE].map(identity);
    let (own, standby, pgbackrest) = (own.map_err(text)?, standby.map_err(text)?, pgbackrest.map_err(text)?);
    let served = pgbackrest.info().clone();
    for server in [&agent.grpc_tls, &agent.health_tls] {
        let server = server.borrow().clone();
        if let Some(server) = server
            && let Reloaded::Swapped(info) = server.reload().map_err(text)?
        {
            tracing::info!(serial = info.serial, "serving a new certificate");
        }
    }
    agent.etcd.reconnect(own.tonic_config()).await.map_err(|error| error.to_string())?;
    agent.client.replace(own);
    let Ok((card, _)) = agent.assignment() else { return Ok(()) };
    let data = PathBuf::from(&card.data_directory);
    if matches!(running(&data), Ok(Some(_))) {
        reload(&data).map_err(|error| error.to_string())?;
        serves(agent, &card, card.postgres_port, ProbeProtocol::Postgres, &standby, &served).await?;
    }
    agent.pooling.read_files_again();
    agent.reload_waits.set(true);
    agent.config_changed.notify_one();
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    while agent.reload_waits.get() {
        if Instant::now() >= deadline {
            tracing::info!(
                "pgBackRest's server takes the new certificates up as soon as nobody is just connecting"
            );
            return Ok(());
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    if agent.report.borrow().tls_server_up {
        serves(agent, &card, card.pgbackrest_port, ProbeProtocol::Pgbackrest, &pgbackrest, &served).await?;
    }
    tracing::info!(serial = served.serial, "the new certificates are served everywhere");
    Ok(())
}

/// Waits until the server at a port serves the `wanted` certificate and admits us with ours.
async fn serves(
    agent: &Agent,
    card: &Pooler,
    port: u16,
    protocol: ProbeProtocol,
    visitor: &ClientTls,
    wanted: &CertificateInfo,
) -> Result<(), String> {
    let address = SocketAddr::new(agent.listening.borrow().local(), port);
    let deadline = Instant::now() + RELOAD_TIMEOUT;
    loop {
        let tls = visitor.rustls_config().map_err(|error| error.to_string())?;
        let found = probe(address, &card.host, protocol, tls, CERTIFICATE_PROBE_TIMEOUT).await;
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
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

fn refused(error: &TlsError) -> Refusal {
    Refusal::new(Code::InvalidArgument, error.to_string())
}

/// A signing request: it proves possession of the cell's key, so that renewed certificates can be issued.
pub(crate) fn signing_request(agent: &Agent) -> Result<String, Refusal> {
    let key = KeyFile::load_or_create(&agent.layout.tls().join(SERVER_KEY), None);
    key.and_then(|key| key.signing_request()).map_err(|error| refused(&error))
}

/// Replaces the certificates by renewed ones, which are put into use within about a second.
pub(crate) fn install(agent: &Agent, renewed: &InstallCertificatesRequest) -> Result<(), Refusal> {
    let leaves = [
        (SERVER_CERTIFICATE, renewed.server.as_str()),
        ("pooler.crt", renewed.pooler.as_str()),
        ("replication.crt", renewed.replication.as_str()),
    ];
    install_renewed(&agent.layout.tls(), SERVER_KEY, &leaves).map_err(|error| refused(&error))?;
    tracing::info!("renewed certificates are installed");
    Ok(())
}
