//! Accepting connections: handshakes run beside each other, each with a
//! deadline, and all of them together within a bound.
//!
//! A peer that sends nothing, or stalls in its handshake, uses a slot until the deadline at the latest. When all slots
//! are used, one handshake is evicted: the oldest of the larger group, those that have sent nothing or those that have.
//! So neither idle connections nor stalled handshakes, however many, keep a good peer out: it has as long to send its
//! first bytes, and again to finish, as it takes to fill half the slots. Not accepting when all slots are used was
//! rejected: anybody could block the server.
//!
//! Connections whose peer has proven its identity are counted, in all and by certificate. Over the limit the newest is
//! refused: the others are in use.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, Id, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use crate::certificate::PeerIdentity;
use crate::connections::{ConnectionLimits, Connections};
use crate::error::{Result, TlsError};
use crate::guard::Revoked;
use crate::server::ReloadableServerConfig;
use crate::stream::{MtlsConnectInfo, MtlsStream, RevokedLater};

/// Finished handshakes that may wait for the server to take them.
const MAX_READY: usize = 64;

/// Pause after a failed `accept`, which fails at once again while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Refused handshakes are logged at most this often, with the count of those in between.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Bounds on connections that have not proven anything yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeLimits {
    /// How long one handshake may take.
    pub deadline: Duration,
    /// How many may be under way at once; each holds a file descriptor.
    pub pending: usize,
    /// How long after the handshake the first bytes of HTTP/2 may take. From then on the server's own
    /// keepalives notice a peer that does not go on.
    pub preface: Duration,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        // A quarter of the usual limit of 1024 file descriptors.
        Self { deadline: Duration::from_secs(10), pending: 256, preface: Duration::from_secs(10) }
    }
}

/// Listening sockets that accept only peers with a certificate of the cluster's authority.
#[derive(Debug)]
pub struct MtlsListener {
    listeners: Vec<TcpListener>,
    config: ReloadableServerConfig,
    limits: HandshakeLimits,
    connections: ConnectionLimits,
    revoked: Revoked,
}

impl MtlsListener {
    /// Listens on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    /// [`TlsError::Bind`], which names the port.
    pub async fn bind(addr: SocketAddr, config: ReloadableServerConfig) -> Result<Self> {
        Self::bind_all(&[addr], config).await
    }

    /// Listens on all of these addresses but those that this host does not have, unless it has none of them.
    ///
    /// # Errors
    /// [`TlsError::Bind`], which names the port.
    pub async fn bind_all(addrs: &[SocketAddr], config: ReloadableServerConfig) -> Result<Self> {
        let listeners = listen_all(addrs).await?;
        let (limits, connections) = (HandshakeLimits::default(), ConnectionLimits::default());
        Ok(Self { listeners, config, limits, connections, revoked: Revoked::default() })
    }

    /// Ends connections, with all calls on them, when the peer's certificate becomes revoked. A peer whose certificate is
    /// revoked already gets a connection, and the [`Guard`](crate::guard::Guard) refuses its calls and says why.
    #[must_use]
    pub fn ending_revoked(mut self, revoked: Revoked) -> Self {
        self.revoked = revoked;
        self
    }

    /// Replaces the bounds on handshakes.
    #[must_use]
    pub fn with_limits(mut self, limits: HandshakeLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the bounds on open connections.
    #[must_use]
    pub fn with_connection_limits(mut self, connections: ConnectionLimits) -> Self {
        self.connections = connections;
        self
    }

    /// The address it listens on, the first of several.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listeners.first().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }

    /// Starts accepting, for tonic's `serve_with_incoming` or
    /// `serve_with_incoming_shutdown`. Must be called within a tokio runtime;
    /// dropping the stream closes the socket.
    #[must_use]
    pub fn incoming(self) -> MtlsIncoming {
        let (ready, streams) = mpsc::channel(MAX_READY);
        MtlsIncoming { streams, accepting: tokio::spawn(accept(self, ready)) }
    }
}

/// The stream of accepted connections.
#[derive(Debug)]
pub struct MtlsIncoming {
    streams: mpsc::Receiver<MtlsStream>,
    accepting: JoinHandle<()>,
}

impl Stream for MtlsIncoming {
    type Item = io::Result<MtlsStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.streams.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}

impl Drop for MtlsIncoming {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A handshake under way.
struct Pending {
    id: Id,
    spoke: Arc<AtomicBool>,
    task: AbortHandle,
}

/// Why a handshake failed.
enum Failure {
    Refused(SocketAddr, String),
    TimedOut(SocketAddr),
}

async fn accept(server: MtlsListener, ready: mpsc::Sender<MtlsStream>) {
    let MtlsListener { listeners, config, limits, connections, revoked } = server;
    let connections = Connections::new(connections);
    let mut tasks: JoinSet<std::result::Result<(), Failure>> = JoinSet::new();
    let mut pending: VecDeque<Pending> = VecDeque::new();
    let mut log = FailureLog::default();
    let mut turn = 0_usize;
    loop {
        turn = turn.wrapping_add(1);
        tokio::select! {
            Some(done) = tasks.join_next_with_id() => {
                let id = match &done {
                    Ok((id, _)) => *id,
                    Err(error) => error.id(),
                };
                pending.retain(|p| p.id != id);
                if let Ok((_, Err(failure))) = done {
                    log.record(&failure);
                }
            }
            accepted = accept_any(&listeners, turn) => match accepted {
                Ok((tcp, remote)) => {
                    while pending.len() >= limits.pending.max(1) {
                        evict(&mut pending);
                    }
                    let spoke = Arc::new(AtomicBool::new(false));
                    let context = HandshakeContext { config: config.clone(), connections: connections.clone(), ready: ready.clone(), limits, revoked: revoked.clone() };
                    let work = handshake(tcp, remote, spoke.clone(), context);
                    let task = tasks.spawn(work);
                    pending.push_back(Pending { id: task.id(), spoke, task });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    evict(&mut pending);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Sockets on all of these addresses but those that this host does not have, unless it has none of them.
pub(crate) async fn listen_all(addrs: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let (mut listeners, mut missing) = (Vec::new(), None);
    for &addr in addrs {
        match TcpListener::bind(addr).await {
            Ok(listener) => listeners.push(listener),
            Err(source) if is_missing(&source) => missing = Some(TlsError::Bind { addr, source }),
            Err(source) => return Err(TlsError::Bind { addr, source }),
        }
    }
    match missing.filter(|_| listeners.is_empty()) {
        Some(error) => Err(error),
        None => Ok(listeners),
    }
}

/// Whether the host does not have the address, or no addresses of its kind.
fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

/// The next connection to any of the sockets. With each `turn` another one is asked first, so that none keeps the others
/// from being accepted.
pub(crate) async fn accept_any(
    listeners: &[TcpListener],
    turn: usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        let count = listeners.len();
        let mut in_turn = (0..count).filter_map(|at| listeners.get((at + turn) % count));
        let ready = in_turn.find_map(|listener| match listener.poll_accept(context) {
            Poll::Ready(accepted) => Some(accepted),
            Poll::Pending => None,
        });
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Ends the handshake least likely to become a connection.
fn evict(pending: &mut VecDeque<Pending>) {
    let spoke: Vec<bool> = pending.iter().map(|p| p.spoke.load(Ordering::Relaxed)).collect();
    if let Some(slot_to_evict) = slot_to_evict(&spoke).and_then(|at| pending.remove(at)) {
        slot_to_evict.task.abort();
    }
}

/// Which handshake to evict, given which peers have sent bytes, the oldest first.
///
/// The oldest of the larger group. Always evicting a silent peer would, once stalled handshakes use all slots, refuse
/// every peer whose first bytes are still on their way; evicting by age alone would refuse peers in the middle of their
/// handshake when many connect at once.
fn slot_to_evict(spoke: &[bool]) -> Option<usize> {
    let silent = spoke.iter().filter(|spoke| !**spoke).count();
    let among = silent * 2 <= spoke.len();
    spoke.iter().position(|spoke| *spoke == among)
}

/// What a handshake needs of its listener.
struct HandshakeContext {
    config: ReloadableServerConfig,
    connections: Connections,
    ready: mpsc::Sender<MtlsStream>,
    limits: HandshakeLimits,
    revoked: Revoked,
}

async fn handshake(
    tcp: TcpStream,
    remote_addr: SocketAddr,
    spoke: Arc<AtomicBool>,
    context: HandshakeContext,
) -> std::result::Result<(), Failure> {
    let HandshakeContext { config, connections, ready, limits, revoked } = context;
    let attempt = async {
        tcp.set_nodelay(true)?;
        tcp.readable().await?;
        spoke.store(true, Ordering::Relaxed);
        TlsAcceptor::from(config.current()).accept(tcp).await
    };
    let refused = |reason: String| Failure::Refused(remote_addr, reason);
    let tls = timeout(limits.deadline, attempt)
        .await
        .map_err(|_| Failure::TimedOut(remote_addr))?
        .map_err(|error| refused(error.to_string()))?;
    let certificate = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.ok_or_else(|| refused("no client certificate".to_owned()))?;
    let peer = PeerIdentity::from_der(certificate).map_err(|error| refused(error.to_string()))?;
    let slot = connections.open(&peer.serial).map_err(|reason| refused(reason.to_owned()))?;
    let revoked_later = RevokedLater(Box::pin(revoked.wait_for(&peer.serial)));
    let info = MtlsConnectInfo { remote_addr, peer: Arc::new(peer) };
    // A closed channel means that the server is shutting down.
    drop(ready.send(MtlsStream::new(tls, info, slot, limits.preface, revoked_later)).await);
    Ok(())
}

/// Logs refused peers, without letting them fill the log.
#[derive(Default)]
struct FailureLog {
    last: Option<Instant>,
    unlogged: u64,
}

impl FailureLog {
    fn record(&mut self, failure: &Failure) {
        let (remote, reason) = match failure {
            Failure::Refused(remote, reason) => (remote, reason.as_str()),
            Failure::TimedOut(remote) => (remote, "the handshake took too long"),
        };
        if self.last.is_some_and(|last| last.elapsed() < WARN_INTERVAL) {
            self.unlogged += 1;
            return;
        }
        tracing::warn!(%remote, reason, unlogged = self.unlogged, "refused a connection");
        *self = Self { last: Some(Instant::now()), unlogged: 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::slot_to_evict;

    #[test]
    fn oldest_handshake_of_the_larger_group_is_evicted() {
        let (spoke, silent) = (true, false);
        assert_eq!(slot_to_evict(&[]), None);
        assert_eq!(slot_to_evict(&[silent]), Some(0));
        assert_eq!(slot_to_evict(&[spoke]), Some(0));
        assert_eq!(
            slot_to_evict(&[spoke, silent, silent]),
            Some(1),
            "a handshake among idle connections stays"
        );
        assert_eq!(
            slot_to_evict(&[silent, spoke, spoke]),
            Some(1),
            "a newcomer among stalled handshakes stays"
        );
        assert_eq!(slot_to_evict(&[silent, spoke]), Some(1));
    }
}
