//! One accepted connection, and who is at its other end.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::certificate::PeerIdentity;
use crate::connections::ConnectionSlot;

/// Bytes of HTTP/2's client preface (RFC 9113, section 3.4). hyper waits for them without a deadline; from then on it
/// sends keepalives.
const PREFACE_BYTES: usize = 24;

/// What handlers learn of a connection: `request.extensions().get::<MtlsConnectInfo>()`.
#[derive(Debug, Clone)]
pub struct MtlsConnectInfo {
    /// The peer's address.
    pub remote_addr: SocketAddr,
    /// Who the peer proved to be.
    pub peer: Arc<PeerIdentity>,
}

/// An accepted connection whose peer proved its identity.
#[derive(Debug)]
pub struct MtlsStream {
    tls: TlsStream<TcpStream>,
    info: MtlsConnectInfo,
    /// Bytes of the preface that are still to come, and the end of the time for them.
    preface: Option<(usize, Pin<Box<Sleep>>)>,
    /// `None` once it has completed: it must not be polled again then.
    revoked: Option<RevokedLater>,
    _slot: ConnectionSlot,
}

/// Completes when the peer's certificate is revoked.
pub(crate) struct RevokedLater(pub(crate) Pin<Box<dyn Future<Output = ()> + Send>>);

impl std::fmt::Debug for RevokedLater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RevokedLater")
    }
}

impl MtlsStream {
    pub(crate) fn new(
        tls: TlsStream<TcpStream>,
        info: MtlsConnectInfo,
        slot: ConnectionSlot,
        preface_timeout: Duration,
        revoked: RevokedLater,
    ) -> Self {
        let preface = Some((PREFACE_BYTES, Box::pin(sleep(preface_timeout))));
        Self { tls, info, preface, revoked: Some(revoked), _slot: slot }
    }
}

impl Connected for MtlsStream {
    type ConnectInfo = MtlsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for MtlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The server always reads, so this error reaches it at once and ends all calls on the connection.
        if this.revoked.as_mut().is_none_or(|revoked| revoked.0.as_mut().poll(cx).is_ready()) {
            this.revoked = None;
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let Some((left, deadline)) = &mut this.preface else {
            return Pin::new(&mut this.tls).poll_read(cx, buf);
        };
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.tls).poll_read(cx, buf))?;
        *left = left.saturating_sub(buf.filled().len() - before);
        if *left == 0 {
            this.preface = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MtlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().tls).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tls).poll_shutdown(cx)
    }
}
