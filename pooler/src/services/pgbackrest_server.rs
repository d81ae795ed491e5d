//! `pgbackrest server`: through it the backups of other cells read from this cell when it is the primary.
//!
//! It is a child of the agent and dies with it. It is started again with growing pauses when it ends, and sent SIGHUP
//! when its config or its certificates have changed.
//!
//! On SIGHUP pgBackRest (2.45) closes its socket and binds it again; its sessions go on. But a session that was forked a
//! moment ago still holds the socket until it has closed its copy. Then the binding fails (41), and the server ends with
//! all its sessions. So SIGHUP is sent between two connections. Sessions go on with the config that held when they
//! began, also the sessions of a client that is not admitted any more. pgBackRest does not say whose they are, so then
//! all of them are ended.
//!
//! Its sessions connect to PostgreSQL with the environment that the server had at its start. What stands there depends on
//! the version of PostgreSQL, which is known once there is data: then a server that was started before is started again.
//!
//! It serves whoever has an accepted certificate, and a session is configured by its client. So the kernel keeps the server
//! and its sessions to the files that they are for, if it can: see `server_files`. When these are others than at its
//! start, such as those of a new tablespace, it is started again, too.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_pgbackrest::{Error, Invocation, accepted_names};
use cellar_system::Process;
use futures_util::FutureExt;
use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::listening::reach;
use crate::services::server_files::{self, UNCONFINED};

/// The server's pid file, in the cell's directory of them.
pub(super) const SERVER_PID_FILE: &str = "pgbackrest-server.pid";

/// First pause after the server ended.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause after the server ended.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// After a server that ran this long the pauses begin again with the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// How often to check whether the server listens, until it does.
const START_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often to check which sessions there are, while a reload is waiting.
const SESSION_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long no session must have begun or ended before a reload. A new session closes its copy of the socket within
/// milliseconds.
const QUIET_DURATION: Duration = Duration::from_millis(500);

/// How long a reload waits for that. After it somebody connects all the time, and must not keep new certificates out:
/// either the reload succeeds, or the server ends and is started again.
const QUIET_TIMEOUT: Duration = Duration::from_secs(60);

/// The same while the server admits a client that it must not admit any more. Then it is ended and started again.
const REVOKED_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the server may take to read its config.
const RELOAD_TIME: Duration = Duration::from_millis(300);

/// How long the server may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to check whether the server was started for the version of PostgreSQL and the files that are there now.
const OUTDATED_POLL_INTERVAL: Duration = Duration::from_millis(500);

/// How long sessions keep a server that is outdated while no job has the database's lock: a connection that says nothing
/// stays for ever.
const IDLE_SESSIONS_TIMEOUT: Duration = Duration::from_secs(60);

/// How often to check whether the server still listens. Each check is a connection, for which the server forks.
const LISTEN_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Keeps the server running. Never returns.
pub(crate) async fn supervise(agent: Rc<Agent>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        // The instance's supervisor writes the config; before that there is nothing to serve.
        if agent.assignment().is_ok_and(|(card, _)| PathBuf::from(&card.config_path).exists()) {
            match serve(&agent).await {
                Ok(End::Outdated) => {
                    tracing::info!(
                        "the pgBackRest TLS server is started again for the version and the files of PostgreSQL that are there now"
                    );
                    continue;
                }
                Ok(End::Exited(code)) => {
                    tracing::warn!(?code, "the pgBackRest TLS server ended; starting it again");
                }
                Err(error) => tracing::warn!(%error, "the pgBackRest TLS server cannot be started"),
            }
            agent.update_report(|report| {
                report.tls_server_up = false;
                report.tls_server_accepts.clear();
            });
            agent.server_files.replace(None);
        }
        pause = if begun.elapsed() > HEALTHY_AFTER { FIRST_PAUSE } else { (pause * 2).min(MAX_PAUSE) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The server may have ended for want of this config.
            () = agent.config_changed.notified() => pause = FIRST_PAUSE,
        }
    }
}

/// Why the server does not run any more.
enum End {
    /// It ended, or was ended, with this exit code; none when a signal ended it.
    Exited(Option<u8>),
    /// It was ended because its environment was that of another version of PostgreSQL, or the files that it may use are not
    /// those that it needs.
    Outdated,
}

/// Runs the server until it ends.
async fn serve(agent: &Agent) -> Result<End, Error> {
    let Ok((card, database)) = agent.assignment() else { return Ok(End::Exited(None)) };
    let log = agent.layout.log().join("pgbackrest-server.log");
    // The server reads at its start what has changed until now. A SIGHUP before it has a handler would end it.
    let _ = agent.config_changed.notified().now_or_never();
    agent.reload_waits.set(false);
    let named_in_file = || accepted_names(&std::fs::read_to_string(&card.config_path).unwrap_or_default());
    let mut accepts = named_in_file();
    let (mut sessions, mut unchanged_since) = (Vec::new(), Instant::now());
    let mut waits_since = None;
    // What it says is in this log. A log that it can write would be one that its sessions can write.
    let invocation =
        Invocation::new("server").option("config", &card.config_path).option("log-level-file", "off");
    let session_options = agent.pgbackrest.session_options();
    let access = server_files::access(&agent.layout, &database.repository, &agent.cell);
    let files = access.present();
    let own_files = server_files::own(&agent.layout, &database.repository, &agent.cell).present();
    let mut running = agent.pgbackrest.spawn_confined(&invocation, &log, access).await?;
    let confined = running.is_confined();
    if !confined {
        tracing::warn!("{UNCONFINED}");
    }
    agent.update_report(|report| report.tls_server_unconfined = !confined);
    let mut outdated_since = None;
    let leader = running.group();
    let pid_file = agent.layout.pid().join(SERVER_PID_FILE);
    let mut up = false;
    let mut named = None;
    let mut next_poll = tokio::time::Instant::now() + START_POLL_INTERVAL;
    loop {
        tokio::select! {
            code = running.wait() => {
                let _ = std::fs::remove_file(&pid_file);
                return code.map(End::Exited);
            }
            () = agent.config_changed.notified() => agent.reload_waits.set(true),
            () = tokio::time::sleep(OUTDATED_POLL_INTERVAL) => {
                // A data directory that is being replaced has no version for a moment; that is no news.
                let version_differs = agent.layout.data().join("PG_VERSION").exists()
                    && agent.pgbackrest.session_options() != session_options;
                let present = if confined { server_files::present(agent) } else { None };
                let own_differ = present.as_ref().is_some_and(|(own, _)| *own != own_files);
                let differ = present.as_ref().is_some_and(|(_, all)| *all != files);
                let is_outdated = version_differs || own_differ || differ;
                if !is_outdated {
                    outdated_since = None;
                    continue;
                }
                let since = *outdated_since.get_or_insert_with(Instant::now);
                let is_idle = server_of(leader).is_some_and(|server| server.children().is_empty());
                let is_stuck = own_differ && since.elapsed() >= IDLE_SESSIONS_TIMEOUT && !has_job(agent);
                if is_idle || is_stuck {
                    let _ = running.terminate(END_TIMEOUT).await;
                    let _ = std::fs::remove_file(&pid_file);
                    return Ok(End::Outdated);
                }
            }
            () = tokio::time::sleep(SESSION_POLL_INTERVAL), if agent.reload_waits.get() => {
                let wanted = named_in_file();
                // The server has not started yet, so it will read the new config.
                let Some(server) = server_of(leader) else {
                    accepts = wanted;
                    agent.reload_waits.set(false);
                    continue;
                };
                let present = server.children();
                if present != sessions {
                    (sessions, unchanged_since) = (present, Instant::now());
                }
                let quiet = sessions.is_empty() || unchanged_since.elapsed() >= QUIET_DURATION;
                let waited = waits_since.get_or_insert_with(Instant::now).elapsed();
                let revoked = accepts.iter().any(|name| !wanted.contains(name));
                if revoked && !quiet && waited >= REVOKED_TIMEOUT {
                    tracing::warn!("a certificate was revoked: the pgBackRest TLS server's sessions end with it");
                    let ended = running.terminate(END_TIMEOUT).await;
                    let _ = std::fs::remove_file(&pid_file);
                    return ended.map(End::Exited);
                }
                if !quiet && waited < QUIET_TIMEOUT {
                    continue;
                }
                tracing::info!(pid = server.pid, "the pgBackRest TLS server reads its config again");
                let _ = server.signal(Signal::SIGHUP);
                if revoked {
                    tokio::time::sleep(RELOAD_TIME).await;
                    for session in server.children() {
                        tracing::warn!(pid = session.pid, "a certificate was revoked: sessions end");
                        let _ = session.signal(Signal::SIGKILL);
                    }
                }
                (accepts, waits_since) = (wanted, None);
                agent.reload_waits.set(false);
                if up {
                    agent.update_report(|report| report.tls_server_accepts.clone_from(&accepts));
                }
            }
            () = tokio::time::sleep_until(next_poll) => {
                if named.is_none() {
                    named = server_of(leader);
                    if let Some(server) = &named {
                        let _ = std::fs::write(&pid_file, format!("{}\n", server.pid));
                    }
                }
                let address = agent.listening.borrow().local();
                let listens = reach(&address.to_string(), card.pgbackrest_port).await.is_ok();
                if listens != up {
                    up = listens;
                    agent.server_files.replace((up && confined).then(|| files.clone()));
                    agent.update_report(|report| {
                        report.tls_server_up = up;
                        report.tls_server_accepts = if up { accepts.clone() } else { Vec::new() };
                    });
                }
                let pause = if up { LISTEN_POLL_INTERVAL } else { START_POLL_INTERVAL };
                next_poll = tokio::time::Instant::now() + pause;
            }
        }
    }
}

/// Whether a job has the database's lock, whose sessions may be the server's.
fn has_job(agent: &Agent) -> bool {
    agent.mirror.view().locks.get(&agent.database).is_some_and(|lock| lock.holder.is_some())
}

/// The server's own process: the one child of the shell that leads its group.
fn server_of(leader: i32) -> Option<Process> {
    let child = Process::find(leader)?.children().into_iter().next()?;
    (child.program == "pgbackrest").then_some(child)
}
