use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_tls::{ClientTls, ProbeProtocol, Reloaded, generate_server_cert, probe, unchecked_client};

use crate::support::{World, connect, served_serial};

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The real pgBackRest's server takes our pair, asks for a client certificate,
/// and serves a renewed one after SIGHUP.
#[tokio::test]
async fn pgbackrest_accepts_the_pair() {
    if Command::new("pgbackrest").arg("version").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: pgbackrest is not installed");
        return;
    }
    let world = World::new();
    let files = world.server();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let option = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let mut command = Command::new("pgbackrest");
    command
        .args([
            "server",
            "--config=/dev/null",
            "--tls-server-address=127.0.0.1",
            "--tls-server-auth=pgbackrest=*",
        ])
        .args(["--log-level-console=info", "--log-level-file=off", "--log-level-stderr=off"])
        .arg(format!("--tls-server-port={port}"))
        .arg(option("tls-server-ca-file", &files.authorities))
        .arg(option("tls-server-cert-file", &files.certificate))
        .arg(option("tls-server-key-file", &files.key))
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut server = Running(command.spawn().unwrap());

    let client = ClientTls::from_files(&files.authorities, &files.certificate, &files.key).unwrap();
    let address = ([127, 0, 0, 1], port).into();
    let serve_serial = async || {
        let config = client.rustls_config().unwrap();
        connect(address, config, "localhost").await.map(|stream| served_serial(&stream))
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    let first = client.info().serial.clone();
    while !serve_serial().await.is_ok_and(|serial| serial == first) {
        assert!(server.0.try_wait().unwrap().is_none(), "the server refused the pair");
        assert!(Instant::now() < deadline, "the first certificate is not served");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let ping = Command::new("pgbackrest")
        .args(["server-ping", "localhost", "--config=/dev/null", "--log-level-console=off"])
        .arg(format!("--tls-server-port={port}"))
        .env_clear()
        .status()
        .unwrap();
    assert!(ping.success());

    // Its server lets a client without a certificate shake hands and hear the greeting, and no more.
    let look = async |tls| {
        probe(address, "localhost", ProbeProtocol::Pgbackrest, tls, Duration::from_secs(10)).await.unwrap()
    };
    assert_eq!(look(client.rustls_config().unwrap()).await.accepted, Ok(()));
    let nobody = look(unchecked_client(&files.authorities, None).unwrap()).await;
    assert_eq!(nobody.served.serial, first);
    assert!(nobody.accepted.unwrap_err().contains("after its greeting"));

    let config = cellar_tls::ReloadableServerConfig::load(files.clone()).unwrap();
    std::fs::remove_file(&files.certificate).unwrap();
    generate_server_cert(&world.ca, &world.path("server"), "localhost", None).unwrap();
    let Reloaded::Swapped(renewed) = config.reload().unwrap() else {
        panic!("the renewed pair is the old one")
    };
    let pid = nix::unistd::Pid::from_raw(server.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    while !serve_serial().await.is_ok_and(|serial| serial == renewed.serial) {
        assert!(Instant::now() < deadline, "the renewed certificate is not served");
        if let Some(status) = server.0.try_wait().unwrap() {
            // 2.45 binds its port again on SIGHUP, and fails with 41 while a session
            // process forked a moment ago still holds it. A supervisor starts it again; so do we.
            assert_eq!(status.code(), Some(41));
            server = Running(command.spawn().unwrap());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
