//! The server without TLS: health, reflection, hostile bytes, shutdown.

use std::time::Duration;

use cellar_admin::{Admin, serve};
use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{AuditOutcome, Code};
use cellar_tls::Guard;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Request;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::raw::Raw;
use crate::support::{World, backup_of, no_pooler, reason, wait_for};

/// A served admin without TLS.
struct Plain {
    address: std::net::SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<Result<(), cellar_admin::ServeError>>,
}

impl Plain {
    async fn serve(admin: &Admin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task =
            tokio::spawn(serve(admin.clone(), TcpListenerStream::new(listener), Guard::open(), shutdown));
        Self { address, stop: Some(stop), task }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address)).unwrap().connect().await.unwrap()
    }
}

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn health_follows_the_store() {
    let world = World::new().await;
    world.kv.set_unreachable(true);
    let admin = world.starting(no_pooler());
    let server = Plain::serve(&admin).await;
    let channel = server.channel().await;
    wait_for("not serving", || async { health(&channel, "").await == ServingStatus::NotServing }).await;
    world.kv.set_unreachable(false);
    for service in ["", "cellar.v1.MultiAdmin"] {
        wait_for("serving", || async { health(&channel, service).await == ServingStatus::Serving }).await;
    }
}

#[tokio::test]
async fn reflection_lists_our_services() {
    use tonic_reflection::pb::{v1 as one, v1alpha as alpha};
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let channel = server.channel().await;
    let ask = one::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = one::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = one::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let text = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(text.contains("cellar.v1.MultiAdmin") && text.contains("grpc.health.v1.Health"), "{text}");
    let ask =
        alpha::server_reflection_request::MessageRequest::FileContainingSymbol("cellar.v1.MultiAdmin".into());
    let request = alpha::ServerReflectionRequest { host: String::new(), message_request: Some(ask) };
    let mut client = alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let text = format!("{:?}", answers.message().await.unwrap().unwrap());
    assert!(text.contains("FileDescriptorResponse"), "{text}");
}

#[tokio::test]
async fn shutdown_ends_streams_and_does_not_wait_for_them() {
    let world = World::new().await;
    let admin = world.admin().await;
    let mut server = Plain::serve(&admin).await;
    let mut client = MultiAdminClient::new(server.channel().await);
    let job = client.backup(backup_of(3)).await.unwrap().into_inner();
    let mut jobs = client.watch_job(v1::GetJobRequest { id: job.id }).await.unwrap().into_inner();
    jobs.message().await.unwrap().unwrap();
    let begin = std::time::Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    assert_eq!(reason(jobs.message().await), "UNAVAILABLE");
    server.task.await.unwrap().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn hostile_bytes_do_not_affect_other_callers() {
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let mut good = MultiAdminClient::new(server.channel().await);
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut noise: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        preface[..10].to_vec(),
        preface.to_vec(),
        // A header frame that promises 16 MiB.
        [&preface[..], &[0xff, 0xff, 0xff, 1, 4, 0, 0, 0, 1]].concat(),
        // Settings with a wrong length, data on a stream that is not open.
        [&preface[..], &[0, 0, 5, 4, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5]].concat(),
        [&preface[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7, 0]].concat(),
    ];
    noise.extend((0..40u8).map(|n| [&preface[..], &[n; 64]].concat()));
    for bytes in noise {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        let _ = socket.write_all(&bytes).await;
        let _ = socket.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(crate::support::WAIT_TIMEOUT, socket.read_to_end(&mut answer))
            .await
            .unwrap();
        assert!(good.list_cells(v1::ListCellsRequest {}).await.is_ok());
    }
}

#[tokio::test]
async fn messages_that_do_not_decode_are_refused() {
    let world = World::new().await;
    let server = Plain::serve(&world.admin().await).await;
    let channel = server.channel().await;
    let before = world.contents().await;
    let call = |method: &'static str, bytes: Vec<u8>| {
        let channel = channel.clone();
        async move {
            let mut grpc = tonic::client::Grpc::new(channel);
            grpc.ready().await.unwrap();
            let path = format!("/cellar.v1.MultiAdmin/{method}").parse().unwrap();
            grpc.unary(Request::new(bytes), path, Raw).await.map(|_| ())
        }
    };
    for method in ["Backup", "RebuildStandby", "GetJob", "AddCell", "RemoveCell", "CancelJob", "GetBackup"] {
        // A field longer than the message; a broken varint; text that is not UTF-8; a wrong wire type.
        for bytes in [&[0x12, 0x7f, b'z'][..], &[0xff; 12], &[0x0a, 2, 0xc3, 0x28], &[0x0d, 0, 0, 0, 0]] {
            let status = call(method, bytes.to_vec()).await.unwrap_err();
            assert_ne!(status.code(), tonic::Code::Unavailable, "{method} {bytes:?}: {status}");
        }
    }
    let status = call("Backup", vec![0; cellar_tls::MAX_REQUEST + 1]).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status}");
    // A call of a mutating method is recorded all the same, without arguments, which cannot be decoded.
    let mut lines = world.audit_lines().into_iter();
    for rpc in ["Backup", "RebuildStandby", "AddCell", "RemoveCell", "CancelJob"] {
        for record in lines.by_ref().take(4) {
            assert_eq!((record.rpc.as_str(), record.outcome), (rpc, AuditOutcome::Failed), "{record:?}");
            assert_eq!((record.code, record.arguments.len()), (Some(Code::InvalidArgument), 0), "{record:?}");
            assert!(record.peer.starts_with("127.0.0.1:") && record.identity.is_empty(), "{record:?}");
        }
    }
    assert_eq!(lines.next().unwrap().rpc, "Backup", "the one that is too large");
    assert_eq!(lines.next(), None);
    assert_eq!(call("Nonsense", vec![]).await.unwrap_err().code(), tonic::Code::Unimplemented);
    assert_eq!(world.contents().await, before);
}
