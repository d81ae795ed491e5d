//! Probing a TLS server from outside: which certificate it serves, and whether it accepts ours.
//!
//! With TLS 1.3 a client's handshake ends before the server has looked at the client's certificate, so a
//! finished handshake proves nothing. A probe therefore sends the first bytes of the server's own protocol
//! and waits for the answer, which comes only from a server that accepted the client.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file;
use crate::identity::{certificates, private_key};
use crate::provider::provider;

/// The opening of HTTP/2 (RFC 9113, 3.4) with an empty SETTINGS frame.
const HTTP2_OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Type of the SETTINGS frame, the first that an HTTP/2 server sends.
const HTTP2_SETTINGS: u8 = 4;

/// What etcd's members answer to each other, and to every client that they accept.
const HTTP_REQUEST: &[u8] = b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// PostgreSQL's request to continue with TLS: its length, and the code 1234.5679.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Version 3.0 of PostgreSQL's protocol, and a standby's user and mode.
const STARTUP: &[u8] = b"\0\x03\0\0user\0cellar_replication\0replication\0true\0\0";

/// How long pgBackRest must be silent after its greeting. For a client without a certificate it
/// ends the session at once; from one with a certificate it waits for the first command.
const SILENCE_TIMEOUT: Duration = Duration::from_millis(500);

/// No first answer of any server is longer, in bytes.
const MAX_ANSWER: usize = 8 << 10;

/// The protocol of a server, and so how it shows that it accepted the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeProtocol {
    /// gRPC: multiadmin, the poolers, and etcd towards its clients. An accepted client receives the
    /// server's HTTP/2 settings; which methods it may call is checked in each call.
    Grpc,
    /// HTTP/1.1: etcd towards its peers.
    Http,
    /// PostgreSQL. An accepted client may stream as `cellar_replication`, the only role that may connect over TCP.
    Postgres,
    /// pgBackRest's server. After its greeting it waits for an accepted client. 2.45 does so only for a name that
    /// may use some stanza; whether it may use a given one is checked when that is requested.
    Pgbackrest,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The certificate that the server serves now; verified, unless the configuration forbids that.
    pub served: CertificateInfo,
    /// Whether the server accepted us; else how it refused.
    pub accepted: std::result::Result<(), String>,
}

/// A client that trusts `authorities` and presents a certificate with its key, or none, whatever they are.
///
/// [`ClientTls`](crate::client::ClientTls) refuses at once what no server would accept; this is for testing that.
///
/// # Errors
/// When a file cannot be read, holds nothing of its kind, or the key does not fit the certificate.
pub fn unchecked_client(authorities: &Path, presented: Option<(&Path, &Path)>) -> Result<ClientConfig> {
    let failed = |source| TlsError::Configure { what: "a client", source };
    let mut roots = RootCertStore::empty();
    for root in certificates(authorities, &file::read(authorities)?)? {
        roots.add(root).map_err(failed)?;
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots);
    let Some((certificate, key)) = presented else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate, &file::read(certificate)?)?;
    builder.with_client_auth_cert(chain, private_key(key, &file::read(key)?)?).map_err(failed)
}

/// Connects to `address`, whose certificate must be for `server_name`, with the client certificate of `tls`.
///
/// # Errors
/// When nothing listens, the server is not the one it should be, or it does not answer within `deadline`.
/// Being refused is an answer and no error.
pub async fn probe(
    address: SocketAddr,
    server_name: &str,
    protocol: ProbeProtocol,
    tls: ClientConfig,
    deadline: Duration,
) -> Result<Probed> {
    let failed = |source| TlsError::Probe { address, source };
    match timeout(deadline, run(address, server_name, protocol, tls)).await {
        Ok(result) => result.map_err(failed),
        Err(_) => {
            Err(failed(io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {deadline:?}"))))
        }
    }
}

async fn run(
    address: SocketAddr,
    server_name: &str,
    protocol: ProbeProtocol,
    mut tls: ClientConfig,
) -> io::Result<Probed> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    tls.alpn_protocols = match protocol {
        ProbeProtocol::Grpc => vec![b"h2".to_vec()],
        _ => Vec::new(),
    };
    let mut tcp = TcpStream::connect(address).await?;
    if protocol == ProbeProtocol::Postgres {
        tcp.write_all(&SSL_REQUEST).await?;
        if tcp.read_u8().await? != b'S' {
            return Err(io::Error::other("PostgreSQL does not speak TLS there"));
        }
    }
    let mut stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let served = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let served = served.ok_or_else(|| io::Error::other("the server has no certificate"))?;
    let served = CertificateInfo::from_der(served).map_err(io::Error::other)?;
    // From here on the server is the right one, so whatever ends the connection is its answer to us.
    let accepted = match begin_protocol(&mut stream, protocol).await {
        Ok(answer) => answer,
        Err(error) => Err(error.to_string()),
    };
    Ok(Probed { served, accepted })
}

/// Sends the protocol's first bytes; the inner result is the server's answer.
async fn begin_protocol(
    stream: &mut TlsStream<TcpStream>,
    protocol: ProbeProtocol,
) -> io::Result<std::result::Result<(), String>> {
    let answer_or_error = |accepted: bool, answer: &[u8]| {
        if accepted { Ok(()) } else { Err(String::from_utf8_lossy(answer).trim_end().to_owned()) }
    };
    match protocol {
        ProbeProtocol::Grpc => {
            send(stream, HTTP2_OPENING).await?;
            // Length (3 bytes), type, flags, stream.
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            Ok(answer_or_error(head[3] == HTTP2_SETTINGS, b"the server speaks no HTTP/2"))
        }
        ProbeProtocol::Http => {
            send(stream, HTTP_REQUEST).await?;
            let status = line(stream).await?;
            Ok(answer_or_error(status.starts_with(b"HTTP/1.1 200 "), &status))
        }
        ProbeProtocol::Postgres => {
            let length = u32::try_from(STARTUP.len() + 4).unwrap_or(u32::MAX);
            send(stream, &[&length.to_be_bytes(), STARTUP].concat()).await?;
            // R: how to authenticate, or that it is done; E: an error.
            let kind = stream.read_u8().await?;
            let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
            let mut body = vec![0; length.saturating_sub(4).min(MAX_ANSWER)];
            stream.read_exact(&mut body).await?;
            // 0 means authenticated; anything else asks for a password or the like, which a probe does not have.
            Ok(answer_or_error(kind == b'R' && body == [0; 4], postgres_message(&body).as_bytes()))
        }
        ProbeProtocol::Pgbackrest => {
            let greeting = line(stream).await?;
            if !greeting.starts_with(b"{") {
                return Ok(answer_or_error(false, &greeting));
            }
            match timeout(SILENCE_TIMEOUT, stream.read_u8()).await {
                Err(_) => Ok(Ok(())),
                Ok(_) => Ok(Err("pgBackRest ends the session after its greeting".to_owned())),
            }
        }
    }
}

async fn send(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// The first line that the server sends, without its end.
async fn line(stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    while line.len() < MAX_ANSWER {
        match stream.read_u8().await? {
            b'\n' => break,
            byte => line.push(byte),
        }
    }
    Ok(line)
}

/// The message (field M) of an error of PostgreSQL's, whose fields each begin with a letter and end with a NUL.
fn postgres_message(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0);
    let message = fields.filter_map(|field| field.strip_prefix(b"M")).next();
    message.map_or_else(
        || "PostgreSQL asks for more than a certificate".to_owned(),
        |text| String::from_utf8_lossy(text).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_postgresql_is_the_reason() {
        let error = b"SFATAL\0VFATAL\0C28000\0Mconnection requires a valid client certificate\0Fauth.c\0\0";
        assert_eq!(postgres_message(error), "connection requires a valid client certificate");
        assert_eq!(postgres_message(&[0, 0, 0, 10]), "PostgreSQL asks for more than a certificate");
    }
}
