//! Listening for everybody: TLS that proves who the server is and asks nobody for a certificate.
//!
//! Who listens bounds how many connections there are and how long each lasts, because nobody here has proven anything.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::error::Result;
use crate::listener::{accept_any, listen_all};
use crate::server::ReloadableServerConfig;

/// Listening sockets that accept everybody.
#[derive(Debug)]
pub struct OpenListener {
    listeners: Vec<TcpListener>,
    config: ReloadableServerConfig,
}

/// A connection whose handshake has not begun.
#[derive(Debug)]
pub struct Connecting {
    tcp: TcpStream,
    remote: SocketAddr,
    config: Arc<ServerConfig>,
}

impl OpenListener {
    /// Listens on all of these addresses but those that this host does not have, unless it has none of them. `config` is
    /// one of [`ReloadableServerConfig::load_open`].
    ///
    /// # Errors
    /// [`TlsError::Bind`](crate::error::TlsError::Bind), which names the port.
    pub async fn bind_all(addrs: &[SocketAddr], config: ReloadableServerConfig) -> Result<Self> {
        Ok(Self { listeners: listen_all(addrs).await?, config })
    }

    /// The next connection. `turn` is another number each time, so that no socket keeps the others waiting.
    ///
    /// # Errors
    /// When the system accepts none, as while file descriptors are short. It is to be tried again after a pause.
    pub async fn accept(&self, turn: usize) -> io::Result<Connecting> {
        let (tcp, remote) = accept_any(&self.listeners, turn).await?;
        Ok(Connecting { tcp, remote, config: self.config.current() })
    }
}

impl Connecting {
    /// Where it comes from.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.remote.ip()
    }

    /// Shakes hands. Has no deadline of its own.
    ///
    /// # Errors
    /// When the peer leaves, or does not speak TLS.
    pub async fn handshake(self) -> io::Result<TlsStream<TcpStream>> {
        self.tcp.set_nodelay(true)?;
        TlsAcceptor::from(self.config).accept(self.tcp).await
    }
}
