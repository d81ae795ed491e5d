//! Applications find the primary by themselves: health endpoints, roles with passwords and certificates, HAProxy.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cellar_tests::{Cluster, Finished, block_on, eventually, is_alive, run, signal, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::certificates::loopback;

/// The password of the application's role: long enough to be found wherever it lies.
const PASSWORD: &str = "correct-horse-battery-staple-5fa1";

/// A pooler or PostgreSQL that is frozen is out of rotation within this: 3 s for a look, 2 s until it is too old, and twice
/// a second for HAProxy.
const OUT_OF_ROTATION: Duration = Duration::from_secs(20);

/// A file with a password that only its owner may read.
fn password_file(directory: &Path, password: &str) -> PathBuf {
    let file = directory.join("password");
    std::fs::write(&file, format!("{password}\n")).expect("a file");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("a mode");
    file
}

/// A variable of `cellar env`.
#[track_caller]
fn variable(cluster: &Cluster, name: &str) -> String {
    let variables = cluster.json(&["env"]);
    variables[name].as_str().unwrap_or_else(|| panic!("no {name} in {variables}")).to_owned()
}

/// Runs SQL at a URI as whoever, without anything that `psql` would find by itself.
fn psql(uri: &str, password: Option<&str>, sql: &str) -> Finished {
    let mut command = Command::new("psql");
    command
        .args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-c", sql, "-d", uri])
        .env("PGCONNECT_TIMEOUT", "5")
        .env("HOME", "/nonexistent")
        .env_remove("PGPASSWORD");
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    run(&mut command)
}

/// A clusters' application: its URIs with role and database.
struct Application {
    writes: String,
    reads: String,
    direct: String,
}

impl Application {
    /// Makes the role `app` with its database.
    fn new(cluster: &Cluster) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let file = password_file(directory.path(), PASSWORD).display().to_string();
        cluster.cellar(&["roles", "create", "app", "--password-file", &file, "--owns", "app"]);
        let of = |name: &str| format!("{}&user=app&dbname=app", variable(cluster, name));
        Self {
            writes: of("CELLAR_ROUTED_URI"),
            reads: of("CELLAR_READ_URI"),
            direct: of("CELLAR_DIRECT_URI"),
        }
    }

    fn write(&self, what: &str) -> Finished {
        psql(&self.writes, Some(PASSWORD), &format!("INSERT INTO notes VALUES ('{what}')"))
    }

    /// The port of the PostgreSQL that a read is sent to.
    fn read_port(&self) -> Option<String> {
        let finished = psql(&self.reads, Some(PASSWORD), "SELECT inet_server_port()");
        (finished.code == 0).then(|| finished.stdout.trim().to_owned())
    }
}

fn up_with_route(cells: &str) -> Cluster {
    let cluster = Cluster::new();
    let _ = cluster.try_cellar(&["up", "--cells", cells, "--port-offset", "auto", "--route"]).ok();
    cluster
}

fn port_of(cluster: &Cluster, cell: &str) -> String {
    cluster.instance(cell).port.to_string()
}

#[test]
fn application_follows_the_primary_through_haproxy() {
    let cluster = up_with_route("zone1,zone2,zone3");
    let application = Application::new(&cluster);
    let made = psql(&application.writes, Some(PASSWORD), "CREATE TABLE notes (what text)");
    let _ = made.ok();
    let _ = application.write("through the route").ok();
    let said =
        psql(&application.direct, Some(PASSWORD), "SELECT pg_is_in_recovery(), count(*) FROM notes").ok();
    assert_eq!(said.trim(), "f|1", "libpq finds the primary among all cells");

    // Reads are spread over the standbys.
    let (zone1, zone2, zone3) =
        (port_of(&cluster, "zone1"), port_of(&cluster, "zone2"), port_of(&cluster, "zone3"));
    eventually("reads to be sent to both standbys", || {
        let ports: Vec<_> = (0..6).filter_map(|_| application.read_port()).collect();
        assert!(!ports.contains(&zone1), "a read was sent to the primary: {ports:?}");
        ports.contains(&zone2) && ports.contains(&zone3)
    });

    // A pooler that is frozen is taken out, and comes back.
    let frozen = cluster.pid("zone3/pid/multipooler.pid");
    signal(frozen, Signal::SIGSTOP);
    wait_for("no read to be sent to the frozen cell", OUT_OF_ROTATION, || {
        let ports: Vec<_> = (0..6).filter_map(|_| application.read_port()).collect();
        (ports.len() == 6 && !ports.contains(&zone3)).then_some(())
    });
    signal(frozen, Signal::SIGCONT);
    eventually("reads to be sent there again", || {
        (0..6).filter_map(|_| application.read_port()).any(|port| port == zone3)
    });
    let frozen = cluster.pid("zone1/pid/multipooler.pid");
    signal(frozen, Signal::SIGSTOP);
    wait_for("no write to be sent to the frozen cell", OUT_OF_ROTATION, || {
        (application.write("not sent").code != 0).then_some(())
    });
    signal(frozen, Signal::SIGCONT);
    eventually("writes to be sent there again", || application.write("after the freeze").code == 0);

    // HAProxy verifies whom it asks, so it learns of another authority.
    cluster.cellar(&["certs", "rotate", "--ca"]);
    let _ = application.write("after another authority").ok();

    // The primary moves, and the URI stays.
    cluster.cellar(&["restore", "--latest", "--onto", "zone2", "--yes"]);
    assert_eq!(cluster.primary(), "zone2");
    eventually("writes to be sent to the new primary", || application.write("after the move").code == 0);
    let told = psql(&application.writes, Some(PASSWORD), "SELECT inet_server_port(), count(*) FILTER (WHERE what IN ('through the route', 'after the freeze')) FROM notes").ok();
    assert_eq!(told.trim(), format!("{zone2}|2"));
    let _ = psql(&application.direct, Some(PASSWORD), "INSERT INTO notes VALUES ('without the route')").ok();
    eventually("reads to be sent to a standby of the new primary", || {
        application.read_port().is_some_and(|port| port != zone2)
    });

    // Seen, ended and started with the cluster.
    let haproxy = cluster.pid("pid/haproxy.pid");
    let status = cluster.cellar(&["status"]);
    assert!(status.contains(&format!("HAProxy runs (process {haproxy})")), "{status}");
    cluster.cellar(&["down"]);
    assert!(!is_alive(haproxy), "it ended with the cluster");
    cluster.cellar(&["up"]);
    let _ = application.write("after a restart").ok();
    signal(cluster.pid("pid/haproxy.pid"), Signal::SIGKILL);
    eventually("doctor to miss it", || {
        let found = cluster.try_cellar(&["doctor"]);
        found.code == 1 && found.stdout.contains("HAProxy does not run")
    });
    let haproxy = || std::fs::read_to_string(cluster.directory().join("pid/haproxy.pid")).unwrap_or_default();
    let before = haproxy();
    cluster.cellar(&["up", "--route=false"]);
    assert_eq!(haproxy(), before, "none was started");
    assert_ne!(application.write("without the route").code, 0);
}

#[test]
fn nobody_but_members_of_the_groups_comes_in_over_tcp() {
    let cluster = Cluster::up("zone1,zone2");
    // Whatever PostgreSQL writes down, the password is not in it.
    for setting in ["log_statement = 'all'", "log_min_duration_statement = 0", "log_connections = on"] {
        cluster.sql("zone1", &format!("ALTER SYSTEM SET {setting}"));
    }
    cluster.sql("zone1", "SELECT pg_reload_conf()");
    let directory = tempfile::tempdir().expect("a directory");
    let file = password_file(directory.path(), PASSWORD).display().to_string();
    cluster.cellar(&["roles", "create", "app", "--password-file", &file, "--owns", "app"]);
    let base = variable(&cluster, "CELLAR_DIRECT_URI");
    let at = |user: &str, database: &str| format!("{base}&user={user}&dbname={database}");
    let _ = psql(&at("app", "app"), Some(PASSWORD), "CREATE TABLE t AS SELECT 1").ok();

    let verifier = cluster.sql("zone1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'");
    assert!(verifier.starts_with("SCRAM-SHA-256$4096:"), "{verifier}");
    // Members of neither group, with the password that lets the other one in.
    for (role, attributes) in
        [("boss", "SUPERUSER LOGIN"), ("copier", "REPLICATION LOGIN"), ("somebody", "LOGIN")]
    {
        cluster.sql("zone1", &format!("CREATE ROLE {role} {attributes} PASSWORD '{verifier}'"));
    }
    for role in ["postgres", "cellar_monitor", "cellar_replication"] {
        cluster.sql("zone1", &format!("ALTER ROLE {role} PASSWORD '{verifier}'"));
    }
    // Cellar's own stay out also when somebody makes them members.
    cluster.sql("zone1", "GRANT cellar_client TO postgres");
    let mut attempts = vec![
        ("no password", at("app", "app"), None, "no password supplied"),
        ("another password", at("app", "app"), Some("something-else"), "password authentication failed"),
        ("no TLS", at("app", "app").replace("verify-full", "disable"), Some(PASSWORD), "pg_hba.conf"),
        ("Cellar's database", at("app", "postgres"), Some(PASSWORD), "pg_hba.conf rejects"),
        ("a template", at("app", "template1"), Some(PASSWORD), "pg_hba.conf rejects"),
        (
            "replication",
            format!("{}&replication=true", at("app", "app")),
            Some(PASSWORD),
            "pg_hba.conf rejects",
        ),
    ];
    for role in ["boss", "copier", "somebody", "postgres", "cellar_monitor", "cellar_replication"] {
        attempts.push((role, at(role, "app"), Some(PASSWORD), "pg_hba.conf rejects"));
    }
    for (what, uri, password, why) in attempts {
        let refused = psql(&uri, password, "SELECT 1").refused(2);
        assert!(refused.contains(why), "{what}: {refused}");
    }
    // Over the socket, roles and their groups are as before.
    cluster.sql("zone1", "REVOKE cellar_client FROM postgres");
    assert_eq!(cluster.sql("zone2", "SELECT 1"), "1");

    // With a certificate, and only with the one of its name.
    cluster.cellar(&["roles", "create", "reports", "--certificate"]);
    let tls = directory.path().join("tls").display().to_string();
    cluster.cellar(&["certs", "issue", "--client", "reports", "--out", &tls]);
    let with_certificate =
        |user: &str| format!("{}&sslcert={tls}/client.crt&sslkey={tls}/client.key", at(user, "app"));
    assert_eq!(psql(&with_certificate("reports"), None, "SELECT current_user").ok().trim(), "reports");
    for (what, uri) in [("none", at("reports", "app")), ("another's", with_certificate("app"))] {
        assert_ne!(psql(&uri, None, "SELECT 1").code, 0, "{what}");
    }
    let admin = cluster.directory().join("client").display().to_string();
    let stolen = format!("{}&sslcert={admin}/client.crt&sslkey={admin}/client.key", at("reports", "app"));
    assert_ne!(psql(&stolen, None, "SELECT 1").code, 0, "a certificate for multiadmin");

    let listed = cluster.json(&["roles", "list"]);
    let role = |name: &str| {
        let roles = listed["roles"].as_array().expect("roles");
        roles.iter().find(|role| role["name"] == name).cloned().unwrap_or(Value::Null)
    };
    assert_eq!(
        (&role("app")["owns"], &role("reports")["certificate"]),
        (&serde_json::json!(["app"]), &Value::Bool(true))
    );
    assert!(role("boss").is_null() && role("postgres").is_null(), "{listed}");

    // Refusals, and an end.
    for (arguments, code, why) in [
        (&["roles", "create", "app", "--password-file", &file][..], 3, "there is a role app already"),
        (&["roles", "create", "pg_x", "--certificate"], 2, "for itself"),
        (&["roles", "create", "other", "--certificate", "--owns", "app"], 3, "belongs to app"),
        (&["roles", "drop", "boss"], 2, "no role that applications connect as"),
        (&["roles", "drop", "app"], 3, "something depends on the role app"),
    ] {
        let message = cluster.try_cellar(arguments).refused(code);
        assert!(message.contains(why), "{arguments:?}: {message}");
    }
    cluster.cellar(&["roles", "drop", "reports"]);
    assert_ne!(psql(&with_certificate("reports"), None, "SELECT 1").code, 0);

    let audit = cluster.json(&["audit", "list", "--rpc", "CreateRole"]);
    let records = audit["records"].as_array().expect("records");
    // Newest first: the last is the one that made it.
    let of_app = records.iter().rfind(|record| record["arguments"]["name"] == "app").expect("a record");
    assert_eq!(of_app["arguments"]["scramVerifier"], "(withheld)", "{of_app}");
    assert_eq!(of_app["arguments"]["owns"], "app");
    let salt = verifier.split(['$', ':']).nth(2).expect("a salt").to_owned();
    for secret in [PASSWORD, &salt] {
        let found = files_with(cluster.directory(), secret);
        // PostgreSQL keeps the verifier, and its WAL has it on the way; both copies of the ALTER ROLE above are logged.
        let data = |path: &PathBuf| {
            let text = path.display().to_string();
            text.contains("/pg_data") || text.contains("/repo/") || text.ends_with("postgres.log")
        };
        let leaked: Vec<_> = found.iter().filter(|path| secret == PASSWORD || !data(path)).collect();
        assert!(leaked.is_empty(), "{leaked:?}");
    }
    let log = std::fs::read_to_string(cluster.directory().join("zone1/log/postgres.log")).expect("a log");
    assert!(
        log.contains("CREATE ROLE boss") && !log.contains("CREATE ROLE \"app\""),
        "the statement is not logged"
    );
}

#[test]
fn a_role_gets_another_password_and_its_sessions_end_if_asked() {
    const OTHER: &str = "another-horse-another-battery-8c20";
    let cluster = Cluster::up("zone1");
    cluster.sql("zone1", "ALTER SYSTEM SET log_statement = 'all'");
    cluster.sql("zone1", "SELECT pg_reload_conf()");
    let directory = tempfile::tempdir().expect("a directory");
    let with = |password: &str| password_file(directory.path(), password).display().to_string();
    cluster.cellar(&["roles", "create", "app", "--password-file", &with(PASSWORD), "--owns", "app"]);
    cluster.cellar(&["roles", "create", "reports", "--certificate"]);
    let verifier = |role: &str| {
        let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'");
        cluster.sql("zone1", &sql)
    };
    cluster.sql("zone1", &format!("CREATE ROLE boss SUPERUSER LOGIN PASSWORD '{}'", verifier("app")));
    cluster.sql("zone1", "GRANT cellar_client TO boss");
    let uri = format!("{}&user=app&dbname=app", variable(&cluster, "CELLAR_DIRECT_URI"));
    let sessions = || cluster.sql("zone1", "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'");
    std::thread::scope(|scope| {
        let session = scope.spawn(|| psql(&uri, Some(PASSWORD), "SELECT pg_sleep(300)"));
        eventually("a session", || sessions() == "1");

        let said = cluster.cellar(&["roles", "password", "app", "--password-file", &with(OTHER)]);
        assert_eq!(said.trim(), "role app has another password");
        let refused = psql(&uri, Some(PASSWORD), "SELECT 1").refused(2);
        assert!(refused.contains("password authentication failed"), "{refused}");
        assert_eq!(psql(&uri, Some(OTHER), "SELECT current_user").ok().trim(), "app");
        eventually("the old session alone", || sessions() == "1");
        assert!(!session.is_finished(), "it goes on");

        let file = with(PASSWORD);
        cluster.cellar(&["roles", "password", "app", "--password-file", &file, "--end-sessions"]);
        let ended = session.join().expect("a thread").refused(2);
        assert!(ended.contains("terminating connection due to administrator command"), "{ended}");
        assert_eq!(psql(&uri, Some(PASSWORD), "SELECT 1").ok().trim(), "1");
    });

    let file = with(OTHER);
    for (role, why) in [
        ("reports", "the role reports proves itself with a certificate"),
        ("boss", "the role boss has superuser"),
        ("nobody", "no role that applications connect as"),
    ] {
        let before = verifier(role);
        let arguments = ["roles", "password", role, "--password-file", &file];
        let message = cluster.try_cellar(&arguments).refused(2);
        assert!(message.contains(why), "{role}: {message}");
        assert_eq!(verifier(role), before, "{role}");
    }

    let audit = cluster.json(&["audit", "list", "--rpc", "SetRolePassword"]);
    let records = audit["records"].as_array().expect("records");
    assert!(records.iter().all(|record| record["arguments"]["scramVerifier"] == "(withheld)"), "{audit}");
    assert!(records.iter().any(|record| record["arguments"]["endSessions"] == true), "{audit}");
    let log = std::fs::read_to_string(cluster.directory().join("zone1/log/postgres.log")).expect("a log");
    assert!(log.contains("CREATE ROLE boss") && !log.contains("ALTER ROLE \"app\""), "it is not logged");
}

/// The files below a directory that hold a text.
fn files_with(directory: &Path, text: &str) -> Vec<PathBuf> {
    let finished = run(Command::new("grep").args(["-rlaF", "--devices=skip", "-e", text]).arg(directory));
    finished.stdout.lines().map(PathBuf::from).collect()
}

/// Asks a health endpoint as a balancer does, without a certificate; the status and the body.
pub(crate) fn ask(cluster: &Cluster, cell: &str, method: &str, path: &str) -> Result<(u16, String), String> {
    ask_at(cluster, health_port(cluster, cell), method, path)
}

/// Where a cell answers balancers.
pub(crate) fn health_port(cluster: &Cluster, cell: &str) -> u16 {
    let card = cluster.poolers().into_iter().filter_map(|view| view.pooler).find(|card| card.cell == cell);
    card.expect("a card").health_port.try_into().expect("a port")
}

/// The same at a port.
pub(crate) fn ask_at(
    cluster: &Cluster,
    port: u16,
    method: &str,
    path: &str,
) -> Result<(u16, String), String> {
    let authorities = cluster.directory().join("client/ca.crt");
    cellar_tls::install_ring_provider();
    let config = cellar_tls::unchecked_client(&authorities, None).expect("a client");
    let ask = async {
        let address = SocketAddr::new(loopback()[0], port);
        let tcp = tokio::net::TcpStream::connect(address).await?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = "localhost".try_into().expect("a name");
        let mut stream = connector.connect(name, tcp).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // The server need not say that it ends the session.
        let _ = stream.read_to_end(&mut answer).await;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = block_on(async { tokio::time::timeout(Duration::from_secs(4), ask).await });
    let answer = answer.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no HTTP")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    Ok((status, body.to_owned()))
}

#[test]
fn health_endpoints_tell_balancers_where_clients_belong() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.wait_streaming("zone2");
    let status = |cell: &str, path: &str| ask(&cluster, cell, "GET", path).map(|(status, _)| status);
    eventually("the standby to be read from", || status("zone2", "/replica?lag=16MB") == Ok(200));
    for (cell, path, wanted) in [
        ("zone1", "/primary", 200),
        ("zone1", "/replica", 503),
        ("zone1", "/read-only", 200),
        ("zone1", "/health", 200),
        ("zone1", "/liveness", 200),
        ("zone1", "/readiness", 200),
        ("zone2", "/primary", 503),
        ("zone2", "/read-only?lag=1MB", 200),
        ("zone2", "/readiness", 200),
        ("zone2", "/replica?lag=everything", 400),
        ("zone2", "/etc/passwd", 404),
    ] {
        assert_eq!(status(cell, path), Ok(wanted), "{cell} {path}");
    }
    let (_, body) = ask(&cluster, "zone2", "GET", "/primary").expect("an answer");
    let said: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((&said["role"], &said["timeline"], &said["term"]), (&"replica".into(), &1.into(), &1.into()));
    let keys: Vec<&String> = said.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["lagBytes", "reason", "role", "state", "term", "timeline"]);
    assert_eq!(ask(&cluster, "zone1", "HEAD", "/primary"), Ok((200, String::new())));
    assert_eq!(ask(&cluster, "zone1", "POST", "/primary").map(|(status, _)| status), Ok(405));

    // Frozen, whether its pooler, all of PostgreSQL or the postmaster alone, it is no place for clients; and then it is again.
    let postmaster = cluster.postmaster("zone1");
    let children = cellar_system::Process::find(postmaster).expect("a postmaster").children();
    let all = children.iter().map(|child| child.pid).chain([postmaster]).collect();
    for frozen in [vec![cluster.pid("zone1/pid/multipooler.pid")], vec![postmaster], all] {
        frozen.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
        wait_for("it to be out of rotation", OUT_OF_ROTATION, || {
            (status("zone1", "/primary") != Ok(200)).then_some(())
        });
        frozen.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
        eventually("it to be back", || status("zone1", "/primary") == Ok(200));
    }
}

#[test]
fn cell_from_before_there_were_health_endpoints_has_none_until_it_is_given_a_port() {
    let cluster = Cluster::up("zone1,zone2");
    let key = "/cellar/demo/poolers/app/zone2";
    let recorded = cluster.etcd_get(key);
    let mut record: Value = serde_json::from_str(&recorded).expect("JSON");
    let port = record.as_object_mut().and_then(|record| record.remove("healthPort")).expect("a port");
    let port: u16 = port.as_u64().and_then(|port| port.try_into().ok()).expect("a port");
    let answers = || ask_at(&cluster, port, "GET", "/health").is_ok();
    assert!(answers());
    cluster.etcd_put(key, &record.to_string());
    eventually("the pooler to stop listening", || !answers());
    let printed = cluster.try_cellar(&["config", "haproxy"]);
    assert!(!printed.stdout.contains("server zone2") && printed.stderr.contains("zone2"), "{printed:?}");
    cluster.cellar(&["up"]);
    eventually("the pooler to listen again", answers);
    assert_eq!(cluster.etcd_get(key), recorded);
}

#[test]
fn printed_config_is_one_that_haproxy_takes() {
    let cluster = Cluster::up("zone1,zone2");
    let config = cluster.directory().join("printed.cfg");
    std::fs::write(&config, cluster.cellar(&["config", "haproxy", "--listen", "*"])).expect("a file");
    let haproxy = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy", "/usr/bin/haproxy"];
    let haproxy = haproxy.into_iter().find(|path| Path::new(path).exists());
    let haproxy = haproxy.expect("haproxy is missing: install the Debian package haproxy (`make deps`)");
    let checked = run(Command::new(haproxy).args(["-c", "-f"]).arg(&config));
    assert_eq!(checked.code, 0, "{checked:?}");
    assert!(!checked.stderr.contains("WARNING"), "{}", checked.stderr);
}
