//! Who may connect for replication.

use cellar_postgres::FAILOVER_SLOTS_SINCE;

use super::*;

/// A key and certificates of it as a cell has them, made with the openssl that PostgreSQL's package brings along.
async fn certificates(cell: &Cell) -> std::path::PathBuf {
    let tls = cell.root.path().join("tls");
    let script = "set -e; umask 077; mkdir tls; cd tls
        new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
        $new -x509 -keyout ca.key -out ca.crt -subj /CN=ca
        sign() { openssl x509 -req -in $1.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $1.crt -extfile names; }
        echo subjectAltName=DNS:localhost > names
        $new -keyout server.key -out server.csr -subj /CN=zone; sign server
        openssl req -new -key server.key -out replication.csr -subj /CN=cellar_replication; sign replication
        openssl req -new -key server.key -out wrong.csr -subj /CN=somebody; sign wrong";
    let mut command = tokio::process::Command::new("/bin/sh");
    command.arg("-c").arg(script).current_dir(cell.root.path());
    if let Some((uid, gid)) = user() {
        command.uid(uid).gid(gid);
    }
    run(command, TEST_TIMEOUT).await.expect("openssl: install the Debian package openssl");
    tls
}

#[tokio::test]
async fn replication_needs_the_right_certificate_and_nothing_else_comes_in() {
    let mut primary = Cell::new();
    let tls = certificates(&primary).await;
    primary.config.settings.listen_addresses = "localhost".into();
    primary.config.settings.tls = Some(cellar_postgres::TlsFiles {
        certificate: tls.join("server.crt"),
        key: tls.join("server.key"),
        ca: tls.join("ca.crt"),
        revocations: None,
    });
    primary.initdb().await;
    primary.start().await;
    ensure_roles(&primary.endpoint(), "postgres", TEST_TIMEOUT).await.unwrap();
    let mut standby = copy_of(&primary).await;
    let port = primary.config.settings.port;
    let conninfo = PrimaryConninfo {
        host: "localhost",
        port,
        tls_directory: &tls,
        application_name: "zone2",
        syncs_slots: false,
    }
    .render();
    standby.config.settings.primary_conninfo = Some(conninfo.unwrap());
    standby.start().await;
    let from =
        wait_for("streaming", async || standby.probe().facts().await.unwrap().to_observed().streaming_from)
            .await;
    assert_eq!(from, ("localhost".to_owned(), port));

    let attempt = async |conninfo: String| {
        let mut command = primary.tools.command("psql");
        command.args(["-w", "-X", "-c", "IDENTIFY_SYSTEM", "-d", &conninfo]);
        run(command, TEST_TIMEOUT).await.map(|_| ()).map_err(|error| error.to_string())
    };
    let with = |certificate: &str, user: &str, rest: &str| {
        let file = |name: &str| tls.join(name).display().to_string();
        format!(
            "host=localhost port={port} user={user} sslmode=verify-full sslrootcert={} sslkey={} sslcert={} {rest}",
            file("ca.crt"),
            file("server.key"),
            file(certificate)
        )
    };
    let replication = "replication=true";
    attempt(with("replication.crt", REPLICATION_ROLE, replication)).await.unwrap();
    for (certificate, user, rest) in [
        ("wrong.crt", REPLICATION_ROLE, replication),
        ("missing.crt", REPLICATION_ROLE, replication),
        ("replication.crt", "postgres", replication),
        ("replication.crt", REPLICATION_ROLE, "dbname=template1"),
        ("wrong.crt", REPLICATION_ROLE, "dbname=postgres"),
        ("replication.crt", REPLICATION_ROLE, "replication=true sslmode=disable"),
    ] {
        let refused = attempt(with(certificate, user, rest)).await.unwrap_err();
        assert!(refused.contains("FATAL"), "{certificate} {user} {rest}: {refused}");
    }
    // There a standby asks for the slots that it synchronises. What is sent is no SQL, which only a session learns.
    let version = std::fs::read_to_string(primary.data().join("PG_VERSION")).unwrap();
    let syncs = version.trim().parse::<u32>().unwrap() >= FAILOVER_SLOTS_SINCE;
    let asked = attempt(with("replication.crt", REPLICATION_ROLE, "dbname=postgres")).await.unwrap_err();
    assert_eq!(!asked.contains("FATAL") && asked.contains("syntax error"), syncs, "{asked}");
}
