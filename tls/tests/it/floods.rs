//! Peers that want to keep others out: without a certificate, and with one.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cellar_tls::{
    ClientTls, ConnectionLimits, HandshakeLimits, MtlsListener, ServerLimits, unchecked_client,
};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{World, admin, connect};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What a good client may have to wait on a busy machine: far less than any deadline of the server.
const PROMPT: Duration = Duration::from_secs(3);

/// A bound on what the server must do by itself.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The health service behind our limits; gone when dropped.
struct Served {
    world: World,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn new(handshakes: HandshakeLimits, connections: ConnectionLimits, limits: ServerLimits) -> Self {
        let world = World::new();
        let listener = MtlsListener::bind("127.0.0.1:0".parse().unwrap(), world.server_config())
            .await
            .unwrap()
            .with_limits(handshakes)
            .with_connection_limits(connections);
        let address = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let serving = limits.server().add_service(health).serve_with_incoming(listener.incoming());
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Self { world, address, task }
    }

    async fn usual() -> Self {
        Self::new(HandshakeLimits::default(), ConnectionLimits::default(), ServerLimits::default()).await
    }

    fn client(&self, name: &str) -> ClientTls {
        ClientTls::from_dir(&self.world.client_dir(name, &admin(name))).unwrap()
    }

    /// A connection whose HTTP/2 the test speaks itself.
    async fn raw(&self, client: &ClientTls) -> TlsStream<TcpStream> {
        let mut config = client.rustls_config().unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        connect(self.address, config, "localhost").await.unwrap()
    }

    /// A call by somebody else on a new connection is answered promptly.
    async fn answers(&self) {
        let good = self.client("good");
        let begin = Instant::now();
        call(&good, self.address).await.unwrap();
        assert!(begin.elapsed() < PROMPT, "{:?}", begin.elapsed());
    }
}

async fn call(client: &ClientTls, address: SocketAddr) -> Result<(), String> {
    let endpoint = client.endpoint(&address.to_string(), Some(TEST_TIMEOUT)).unwrap();
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    let request = HealthCheckRequest { service: String::new() };
    HealthClient::new(channel).check(request).await.map(|_| ()).map_err(|error| error.to_string())
}

/// Sends bytes one at a time, for ever or until the other side hangs up.
async fn dribble<W: AsyncWriteExt + Unpin>(to: &mut W, bytes: impl IntoIterator<Item = u8>) {
    for byte in bytes {
        if to.write_all(&[byte]).await.is_err() || to.flush().await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until the server hangs up; what it said until then.
async fn hung_up<S: AsyncReadExt + Unpin>(stream: &mut S) -> Vec<u8> {
    let mut said = Vec::new();
    let _ =
        tokio::time::timeout(TEST_TIMEOUT, stream.read_to_end(&mut said)).await.expect("it never hangs up");
    said
}

async fn hangs_up_on<W>(mut stream: TlsStream<TcpStream>, work: W)
where
    W: AsyncFnOnce(&mut tokio::io::WriteHalf<&mut TlsStream<TcpStream>>),
{
    let (mut read, mut write) = tokio::io::split(&mut stream);
    tokio::select! {
        _ = hung_up(&mut read) => {}
        () = async { work(&mut write).await; std::future::pending::<()>().await } => {}
    }
}

#[tokio::test]
async fn handshakes_at_a_byte_a_time_do_not_delay_others() {
    let served = Served::usual().await;
    let config = unchecked_client(&served.world.server().authorities, None).unwrap();
    let hello = client_hello(config);
    let mut slow = tokio::task::JoinSet::new();
    // More than there are slots.
    for _ in 0..300 {
        let mut socket = TcpStream::connect(served.address).await.unwrap();
        let hello = hello.clone();
        slow.spawn(async move { dribble(&mut socket, hello).await });
    }
    served.answers().await;
}

/// Peers who begin a handshake and stall take every slot, and more of them come. Somebody whose first bytes are long
/// on their way is then the only silent one, and must not be taken for idle.
#[tokio::test]
async fn handshakes_that_stall_do_not_keep_out_a_distant_client() {
    const SLOTS: usize = 8;
    let limits = HandshakeLimits { pending: SLOTS, ..HandshakeLimits::default() };
    let served = Served::new(limits, ConnectionLimits::default(), ServerLimits::default()).await;
    let mut config = served.client("distant").rustls_config().unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let hello = client_hello(unchecked_client(&served.world.server().authorities, None).unwrap());
    let mut stalled = Vec::new();
    for _ in 0..SLOTS {
        stalled.push(stalls(served.address, &hello).await);
    }
    let distant = TcpStream::connect(served.address).await.unwrap();
    for _ in 0..SLOTS / 2 {
        stalled.push(stalls(served.address, &hello).await);
    }
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut stream = within(connector.connect(name, distant)).await.unwrap();
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    within(stream.read_exact(&mut [0])).await.unwrap();
    served.answers().await;
}

/// A connection whose handshake is under way, since the server has answered, and goes no further.
async fn stalls(address: SocketAddr, hello: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(hello).await.unwrap();
    within(socket.read_exact(&mut [0])).await.unwrap();
    socket
}

/// The first message of a real client.
fn client_hello(config: ClientConfig) -> Vec<u8> {
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut connection = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn connection_without_http2_preface_is_ended() {
    let preface = Duration::from_millis(500);
    let served = Served::new(
        HandshakeLimits { preface, ..HandshakeLimits::default() },
        ConnectionLimits::default(),
        ServerLimits::default(),
    )
    .await;
    let slow = served.client("slow");
    // Long before the server's keepalives would notice.
    let begin = Instant::now();
    hung_up(&mut served.raw(&slow).await).await;
    hangs_up_on(served.raw(&slow).await, async |to| dribble(to, PREFACE.iter().copied()).await).await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    // One that began in time stays.
    let mut good = served.raw(&slow).await;
    good.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let mut byte = [0];
    tokio::time::sleep(preface * 2).await;
    good.read_exact(&mut byte).await.unwrap();
    served.answers().await;
}

#[tokio::test]
async fn connection_with_headers_at_a_byte_a_time_is_ended() {
    let limits = ServerLimits {
        keepalive_interval: Duration::from_millis(500),
        keepalive_timeout: Duration::from_millis(500),
        ..ServerLimits::default()
    };
    let served = Served::new(HandshakeLimits::default(), ConnectionLimits::default(), limits).await;
    let slow = served.client("slow");
    // A frame of headers of 4096 bytes, begun and never ended.
    let frame = || [0, 0x10, 0, 1, 4, 0, 0, 0, 1].into_iter().chain(std::iter::repeat_n(0x40, 4096));
    let begin = Instant::now();
    hangs_up_on(served.raw(&slow).await, async |to| {
        to.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        dribble(to, frame()).await;
    })
    .await;
    assert!(begin.elapsed() < TEST_TIMEOUT, "{:?}", begin.elapsed());
    served.answers().await;
}

#[tokio::test]
async fn one_certificate_cannot_take_every_connection() {
    let limits = ConnectionLimits { total: 8, per_certificate: 3 };
    let served = Served::new(HandshakeLimits::default(), limits, ServerLimits::default()).await;
    let (greedy, other) = (served.client("greedy"), served.client("other"));
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(served.raw(&greedy).await);
    }
    // With TLS 1.3 the client's side of a refused handshake succeeds, and ends at once.
    hung_up(&mut served.raw(&greedy).await).await;
    assert!(call(&greedy, served.address).await.is_err());
    served.answers().await;
    for _ in 0..3 {
        held.push(served.raw(&other).await);
    }
    let third = served.client("third");
    for _ in 0..2 {
        held.push(served.raw(&third).await);
    }
    // Now all places are taken.
    assert!(call(&third, served.address).await.is_err());
    held.clear();
    let begin = Instant::now();
    while call(&greedy, served.address).await.is_err() {
        assert!(begin.elapsed() < TEST_TIMEOUT, "the places are not given back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Frames as the server sends them: type, flags, stream and payload.
async fn frames(
    stream: &mut TlsStream<TcpStream>,
    mut until: impl FnMut(u8, u32, &[u8]) -> bool,
) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await?;
        if until(head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), &payload) {
            return Ok(());
        }
    }
}

/// A call's headers, its body still to come.
fn open_call(stream: u32) -> Vec<u8> {
    let mut block = vec![0x83, 0x87];
    for (name, value) in
        [(0x04, "/grpc.health.v1.Health/Check"), (0x01, "localhost"), (0x0f, "application/grpc")]
    {
        block.push(name);
        if name == 0x0f {
            // content-type, the 31st name of HPACK's table.
            block.push(0x10);
        }
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.as_bytes());
    }
    let mut frame = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4];
    frame.extend(stream.to_be_bytes());
    frame.extend(block);
    frame
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let limits = ServerLimits { streams: 10, ..ServerLimits::default() };
    let served = Served::new(HandshakeLimits::default(), ConnectionLimits::default(), limits).await;
    let mut stream = served.raw(&served.client("greedy")).await;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    for n in 0..15 {
        stream.write_all(&open_call(2 * n + 1)).await.unwrap();
    }
    stream.flush().await.unwrap();
    let mut refused = Vec::new();
    let seen = frames(&mut stream, |kind, stream, payload| {
        // RST_STREAM with REFUSED_STREAM.
        if kind == 3 && payload == [0, 0, 0, 7] {
            refused.push(stream);
        }
        refused.len() == 5
    });
    within(seen).await.unwrap();
    assert_eq!(refused, [21, 23, 25, 27, 29]);
    served.answers().await;
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, work).await.expect("the server does nothing")
}

#[tokio::test]
async fn oversize_headers_are_refused_and_the_connection_lives() {
    let served = Served::usual().await;
    let good = served.client("good");
    let endpoint = good.endpoint(&served.address.to_string(), Some(TEST_TIMEOUT)).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    for size in [20 << 10, 200 << 10, 2 << 20] {
        let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
        request.metadata_mut().insert("x-large", "x".repeat(size).parse().unwrap());
        client.check(request).await.unwrap_err();
        let mut request = tonic::Request::new(HealthCheckRequest { service: String::new() });
        request.metadata_mut().insert("x-small", "x".repeat(1000).parse().unwrap());
        client.check(request).await.unwrap();
    }
    served.answers().await;
}

/// The server's limits keep within the file descriptors that a process usually has.
#[test]
fn all_limits_together_fit_the_usual_limit_of_file_descriptors() {
    let (handshakes, connections) = (HandshakeLimits::default(), ConnectionLimits::default());
    assert!(handshakes.pending + connections.total + 128 <= 1024);
    assert!(connections.per_certificate * 2 <= connections.total);
}
