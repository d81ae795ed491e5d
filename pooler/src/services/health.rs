//! The health endpoints: HTTPS for balancers, which asks for no certificate and says nothing secret.
//!
//! Anybody on the network may connect here, and everything else of the agent runs on the same thread. So each connection
//! is one request, all of them have a deadline, and there are few of them at a time: of one address a few, so that who
//! floods does not displace a balancer elsewhere; in all, the oldest makes room.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{
    HealthQuestion, HealthQuestionError, HealthScene, HealthStanding, LookedAt, Pooler, answer_health,
};
use cellar_system::clock;
use cellar_tls::{Connecting, OpenListener, ReloadableServerConfig, ServerFiles};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::task::JoinHandle;

use crate::agent::Agent;

/// How long a connection may last, from its beginning to its end.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at a time. Balancers connect once a second, and leave at once.
const MAX_CONNECTIONS: usize = 64;

/// Connections of one address at a time; more are refused.
const MAX_OF_ADDRESS: usize = 16;

/// Bytes of a request's line and headers, the least that hyper allows to set.
const MAX_HEADER_BYTES: usize = 8 << 10;

/// Headers of a request.
const MAX_HEADERS: usize = 32;

/// How long to wait after the server could not listen, and how often to look whether the port is another one.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Pause after a failed `accept`, which fails at once again while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves while the cell's card has a port for it. Never returns.
pub(crate) async fn serve(agent: Rc<Agent>) {
    loop {
        if let Ok((card, _)) = agent.assignment()
            && card.health_port != 0
            && let Err(error) = serve_at(&agent, &card).await
        {
            tracing::warn!(%error, "the health endpoints are not served");
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// The open connections, the oldest first. Those that are here end with this.
#[derive(Default)]
struct Connections(VecDeque<(IpAddr, JoinHandle<()>)>);

impl Connections {
    /// Whether there is room for one more of this address; makes it.
    fn make_room(&mut self, address: IpAddr) -> bool {
        self.0.retain(|(_, task)| !task.is_finished());
        if self.0.iter().filter(|(of, _)| *of == address).count() >= MAX_OF_ADDRESS {
            return false;
        }
        if self.0.len() >= MAX_CONNECTIONS
            && let Some((_, oldest)) = self.0.pop_front()
        {
            oldest.abort();
        }
        true
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.0.iter().for_each(|(_, task)| task.abort());
    }
}

async fn serve_at(agent: &Rc<Agent>, card: &Pooler) -> Result<(), cellar_tls::TlsError> {
    let files = ServerFiles::in_dir(PathBuf::from(&card.tls_directory), "pooler.crt", "server.key");
    agent.refresh_listening(card).await;
    let addresses = agent.listening.borrow().sockets(card.health_port);
    let config = ReloadableServerConfig::load_open(files)?;
    agent.health_tls.replace(Some(config.clone()));
    let listener = OpenListener::bind_all(&addresses, config).await?;
    let mut connections = Connections::default();
    let mut topology = agent.mirror.changes();
    let mut turn = 0_usize;
    loop {
        turn = turn.wrapping_add(1);
        tokio::select! {
            accepted = listener.accept(turn) => match accepted {
                Ok(connecting) => begin(agent, &mut connections, connecting),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection to the health endpoints");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Ok(()) = topology.changed() => {
                let is_same = |now: Pooler| now.health_port == card.health_port;
                if !agent.card_of(&agent.cell).is_some_and(is_same) {
                    return Ok(());
                }
            }
        }
    }
}

/// Begins a connection, if there is room for it.
fn begin(agent: &Rc<Agent>, connections: &mut Connections, connecting: Connecting) {
    let address = connecting.address();
    if connections.make_room(address) {
        let work = tokio::time::timeout(CONNECTION_TIMEOUT, converse(Rc::clone(agent), connecting));
        let task = tokio::task::spawn_local(async move { drop(work.await) });
        connections.0.push_back((address, task));
    }
}

/// One connection: a handshake, a request, an answer. Whoever breaks off is not worth a line in the log.
async fn converse(agent: Rc<Agent>, connecting: Connecting) {
    let Ok(stream) = connecting.handshake().await else { return };
    let service = service_fn(|request: Request<Incoming>| {
        let answer = respond(&request, || scene(&agent));
        async move { Ok::<_, Infallible>(answer) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// What is known of the instance at this moment.
fn scene(agent: &Agent) -> HealthScene {
    let record = agent.mirror.view().incarnation(&agent.database);
    let look = agent.look.borrow();
    let facts = agent.facts.borrow();
    // What was found under another record is not known to be so under this one.
    let current = look.as_ref().filter(|look| look.incarnation == record).and_then(|look| look.current);
    let looked_at = look.as_ref().zip(facts.as_ref()).map(|(look, facts)| {
        let observed = facts.to_observed();
        LookedAt {
            stopped: look.stopped,
            waits_for_quorum: agent.availability.isolated.get(),
            age: clock::uptime().saturating_sub(look.begun),
            role: facts.role,
            timeline: facts.timeline,
            streams_from: facts.streaming_from().and_then(|(host, port)| agent.cell_at(host, *port)),
            last_message_age: facts.wal_receiver.as_ref().and_then(|receiver| receiver.last_message_age),
            lag_bytes: match facts.role {
                cellar_model::Role::Standby => {
                    observed.primary_lsn.map(|primary| primary.bytes_ahead_of(observed.replay_lsn))
                }
                _ => Some(0),
            },
        }
    });
    HealthScene {
        cell: agent.cell.clone(),
        state: agent.report.borrow().state,
        looked_at,
        leader: agent.leader(),
        standing: current.map(|current| HealthStanding { current, fenced: record.fence.is_some() }),
    }
}

/// The answer to a request.
fn respond<B>(request: &Request<B>, scene: impl FnOnce() -> HealthScene) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match HealthQuestion::parse(request.uri().path(), request.uri().query()) {
        Err(error @ HealthQuestionError::UnknownPath) => plain(StatusCode::NOT_FOUND, &error.to_string()),
        Err(error @ HealthQuestionError::BadLag) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
        Ok(question) => {
            let scene = scene();
            let verdict = answer_health(question, &scene);
            let status = if verdict.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            json(status, &document(&scene, verdict.err().as_deref()))
        }
    }
}

/// What the body says: nothing that everybody may not know.
fn document(scene: &HealthScene, reason: Option<&str>) -> serde_json::Value {
    let found = scene.looked_at.as_ref();
    serde_json::json!({
        "role": found.map_or("unknown", |found| match found.role {
            cellar_model::Role::Primary => "primary",
            cellar_model::Role::Standby => "replica",
            cellar_model::Role::Unknown => "unknown",
        }),
        "state": scene.state.as_str(),
        "timeline": found.map(|found| found.timeline.get()),
        "term": scene.leader.as_ref().map(|leader| leader.term.get()),
        "lagBytes": found.and_then(|found| found.lag_bytes),
        "reason": reason,
    })
}

fn plain(status: StatusCode, reason: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "reason": reason }))
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{InstanceState, Leader, Role, Timeline};

    fn primary() -> HealthScene {
        let cell: cellar_model::CellName = "zone1".parse().unwrap();
        HealthScene {
            cell: cell.clone(),
            state: InstanceState::Running,
            looked_at: Some(LookedAt {
                age: Duration::ZERO,
                role: Role::Primary,
                timeline: Timeline::new(3),
                streams_from: None,
                last_message_age: None,
                lag_bytes: Some(0),
                stopped: false,
                waits_for_quorum: false,
            }),
            leader: Some(Leader {
                cell,
                term: Timeline::new(3),
                system_identifier: None,
                lsn: None,
                leadership: None,
            }),
            standing: Some(HealthStanding { current: true, fenced: false }),
        }
    }

    fn ask(method: Method, path: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        respond(&request, primary).status()
    }

    #[test]
    fn status_is_what_balancers_look_at() {
        for (method, path, wanted) in [
            (Method::GET, "/primary", 200),
            (Method::HEAD, "/primary", 200),
            (Method::GET, "/replica?lag=16MB", 503),
            (Method::GET, "/replica?lag=much", 400),
            (Method::GET, "/config", 404),
            (Method::POST, "/primary", 405),
            (Method::OPTIONS, "/primary", 405),
        ] {
            assert_eq!(ask(method.clone(), path).as_u16(), wanted, "{method} {path}");
        }
    }

    #[test]
    fn body_says_role_timeline_term_and_lag_and_no_more() {
        let said = document(&primary(), Some("why"));
        let wanted = serde_json::json!({
            "role": "primary", "state": "running", "timeline": 3, "term": 3, "lagBytes": 0, "reason": "why"
        });
        assert_eq!(said, wanted);
    }

    #[tokio::test]
    async fn one_address_takes_a_part_of_the_connections_and_the_oldest_make_room() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let mut connections = Connections::default();
                let open = |connections: &mut Connections, last: u8, count: usize| {
                    let address = IpAddr::from([10, 0, 0, last]);
                    let mut taken = 0;
                    for _ in 0..count {
                        if connections.make_room(address) {
                            let task = tokio::task::spawn_local(std::future::pending());
                            connections.0.push_back((address, task));
                            taken += 1;
                        }
                    }
                    taken
                };
                assert_eq!(open(&mut connections, 1, MAX_CONNECTIONS), MAX_OF_ADDRESS);
                for last in 2..20 {
                    assert_eq!(open(&mut connections, last, MAX_OF_ADDRESS), MAX_OF_ADDRESS);
                    assert!(connections.0.len() <= MAX_CONNECTIONS);
                }
            })
            .await;
    }
}
