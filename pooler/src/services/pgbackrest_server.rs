//! `pgbackrest server`: how other cells read what must come from the primary.
//!
//! A child of the agent, started again with growing pauses when it ends, and
//! sent SIGHUP when its config or its certificates have changed. It dies with the agent.
//!
//! On SIGHUP pgBackRest (2.45) closes its socket and binds it anew; its sessions go on. But a session that was forked a
//! moment ago still has the socket, until it has closed its copy: then the binding fails (41), and the server ends with
//! all its sessions. So it is told between two connections. Sessions go on with what was when they began, also those
//! of a name that is let in no more: pgBackRest does not say whose they are, so then all of them end.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_pgbackrest::{Error, Invocation, accepted_names};
use futures_util::FutureExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;

use crate::agent::Agent;

/// First pause after it ended.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A server that ran this long was healthy, and the pauses begin anew.
const HEALTHY: Duration = Duration::from_secs(60);

/// How often to look whether it listens, until it does.
const LOOK_FOR_START: Duration = Duration::from_millis(100);

/// How often to look who is connected, while something new waits for a good moment.
const LOOK_AT_SESSIONS: Duration = Duration::from_millis(100);

/// How long nobody must have come or gone. A new session has closed its copy of the socket within milliseconds.
const QUIET: Duration = Duration::from_millis(500);

/// How long to wait for that. Then somebody connects all the time, and must not keep new certificates out: it is
/// either a good moment or the server is started again.
const QUIET_PATIENCE: Duration = Duration::from_secs(60);

/// The same while the server lets in a name that it should not. Then it is started again at once.
const UNWELCOME_PATIENCE: Duration = Duration::from_secs(3);

/// How long the server may take to read its config.
const READING: Duration = Duration::from_millis(300);

/// How long the server may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How often to look whether it still listens. Each look is a connection that the server forks for.
const LOOK: Duration = Duration::from_secs(30);

/// Keeps the server running, for ever.
pub(crate) async fn supervise(agent: Rc<Agent>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let begun = Instant::now();
        // The config is rendered by the supervisor of the instance; before that there is nothing to serve.
        if agent.assignment().is_ok_and(|(card, _)| PathBuf::from(&card.config_path).exists()) {
            match serve(&agent).await {
                Ok(code) => tracing::warn!(?code, "the pgBackRest TLS server ended; starting it again"),
                Err(error) => tracing::warn!(%error, "the pgBackRest TLS server cannot be started"),
            }
            agent.update_report(|report| {
                report.tls_server_up = false;
                report.tls_server_accepts.clear();
            });
        }
        pause = if begun.elapsed() > HEALTHY { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // A new config may be what it lacked.
            () = agent.config_changed.notified() => pause = FIRST_PAUSE,
        }
    }
}

/// Runs the server until it ends.
async fn serve(agent: &Agent) -> Result<Option<u8>, Error> {
    let Ok((card, _)) = agent.assignment() else { return Ok(None) };
    let log = agent.layout.log().join("pgbackrest-server.log");
    // What has changed until now the server reads at its start; a SIGHUP before it has a handler ends it.
    let _ = agent.config_changed.notified().now_or_never();
    agent.reload_waits.set(false);
    let named_in_file = || accepted_names(&std::fs::read_to_string(&card.config_path).unwrap_or_default());
    let mut accepts = named_in_file();
    let (mut sessions, mut unchanged_since) = (Vec::new(), Instant::now());
    let mut waits_since = None;
    let invocation = Invocation::new("server").option("config", &card.config_path);
    let mut running = agent.pgbackrest.spawn_logged(&invocation, &log, 0).await?;
    let leader = running.group();
    let pid_file = agent.layout.pid().join("pgbackrest-server.pid");
    let mut up = false;
    let mut named = None;
    loop {
        tokio::select! {
            code = running.wait() => {
                let _ = std::fs::remove_file(&pid_file);
                return code;
            }
            () = agent.config_changed.notified() => agent.reload_waits.set(true),
            () = tokio::time::sleep(LOOK_AT_SESSIONS), if agent.reload_waits.get() => {
                let wanted = named_in_file();
                // Not started yet: it will read the new one.
                let Some(pid) = program_in(leader) else {
                    accepts = wanted;
                    agent.reload_waits.set(false);
                    continue;
                };
                let present = sessions_of(pid);
                if present != sessions {
                    (sessions, unchanged_since) = (present, Instant::now());
                }
                let quiet = sessions.is_empty() || unchanged_since.elapsed() >= QUIET;
                let waited = waits_since.get_or_insert_with(Instant::now).elapsed();
                let unwelcome = accepts.iter().any(|name| !wanted.contains(name));
                if unwelcome && !quiet && waited >= UNWELCOME_PATIENCE {
                    tracing::warn!("a certificate was revoked: the pgBackRest TLS server's sessions end with it");
                    let ended = running.terminate(END_PATIENCE).await;
                    let _ = std::fs::remove_file(&pid_file);
                    return ended;
                }
                if !quiet && waited < QUIET_PATIENCE {
                    continue;
                }
                tracing::info!(pid = pid.as_raw(), "the pgBackRest TLS server reads its config again");
                let _ = kill(pid, Signal::SIGHUP);
                if unwelcome {
                    tokio::time::sleep(READING).await;
                    for session in sessions_of(pid) {
                        tracing::warn!(pid = session.as_raw(), "a certificate was revoked: sessions end");
                        let _ = kill(session, Signal::SIGKILL);
                    }
                }
                (accepts, waits_since) = (wanted, None);
                agent.reload_waits.set(false);
                if up {
                    agent.update_report(|report| report.tls_server_accepts.clone_from(&accepts));
                }
            }
            () = tokio::time::sleep(if up { LOOK } else { LOOK_FOR_START }) => {
                if named.is_none() {
                    named = program_in(leader);
                    if let Some(pid) = named {
                        let _ = std::fs::write(&pid_file, format!("{pid}\n"));
                    }
                }
                let listens = listens(&card.listen, card.pgbackrest_port).await;
                if listens != up {
                    up = listens;
                    agent.update_report(|report| {
                        report.tls_server_up = up;
                        report.tls_server_accepts = if up { accepts.clone() } else { Vec::new() };
                    });
                }
            }
        }
    }
}

/// The server's own process: the one child of the shell that leads its group.
fn program_in(leader: i32) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{leader}/task/{leader}/children")).ok()?;
    let child: i32 = children.split_whitespace().next()?.parse().ok()?;
    let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
    (name.trim() == "pgbackrest").then(|| Pid::from_raw(child))
}

/// Who is connected: the server forks for each.
fn sessions_of(server: Pid) -> Vec<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
    let children = children.unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok().map(Pid::from_raw)).collect()
}

async fn listens(address: &str, port: u16) -> bool {
    let host = if address == "0.0.0.0" { "127.0.0.1" } else { address };
    let connect = TcpStream::connect((host, port));
    matches!(tokio::time::timeout(Duration::from_secs(2), connect).await, Ok(Ok(_)))
}
