//! The limits of every gRPC server of ours, in one place so that no server has fewer.
//!
//! What a peer may cost before it has proven anything is bounded by
//! [`HandshakeLimits`](crate::listener::HandshakeLimits); how many connections may be open by
//! [`ConnectionLimits`](crate::connections::ConnectionLimits); what one connection may do, here.

use std::time::Duration;

use tonic::transport::Server;

/// Largest request that a service accepts, bytes. Ours are a few hundred; the largest is a drill's checks.
pub const MAX_REQUEST: usize = 1 << 20;

/// What one connection may do.
///
/// Its age is not limited: hyper (1.12) fails a call that a client begins in the moment in which its connection is
/// told to go away. Nothing needs it: the [`Guard`](crate::guard::Guard) checks the certificate
/// in every call, and keepalives find peers that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Calls under way; more wait.
    pub calls: usize,
    /// Streams open, calls included; more are refused.
    pub streams: u32,
    /// Bytes of a request's headers.
    pub headers: u32,
    /// How often a peer is asked for a sign of life, which it must give within `keepalive_timeout`. This also
    /// bounds how long a peer may take over the headers of a request: it cannot answer in the middle of them.
    pub keepalive_interval: Duration,
    /// See `keepalive_interval`.
    pub keepalive_timeout: Duration,
    /// How long a handler may take until it answers, if the caller's own deadline is not shorter. Handlers have deadlines
    /// of their own within this.
    pub handler: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            calls: 64,
            streams: 256,
            headers: 16 << 10,
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            handler: Duration::from_secs(60),
        }
    }
}

impl ServerLimits {
    /// A server with these limits. Each service also needs `max_decoding_message_size` of [`MAX_REQUEST`]: tonic
    /// knows no limit of the server as a whole, and its default is 4 MiB.
    pub fn server(self) -> Server {
        Server::builder()
            .concurrency_limit_per_connection(self.calls)
            .max_concurrent_streams(self.streams)
            .http2_max_header_list_size(self.headers)
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .timeout(self.handler)
    }
}
