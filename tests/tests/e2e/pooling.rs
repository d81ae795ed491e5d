//! Applications behind PgBouncer: who is let in, and what they notice while the primary is moved or lost.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_tests::{Application, Cluster, Finished, Pgbench, eventually, is_alive, run, signal, wait_for};
use nix::sys::signal::Signal;

const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// How long a failover, or a planned move, may take here before a write must succeed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// `psql` through a cell's PgBouncer.
fn psql(cluster: &Cluster, application: &Application, cell: &str, sql: &str) -> Finished {
    let mut command = application.pooled(cluster, cell, "psql");
    run(command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1", "-c", sql]).env("PGCONNECT_TIMEOUT", "5"))
}

/// The same with another URI and password.
fn psql_at(uri: &str, password: &str) -> Finished {
    let mut command = Command::new("psql");
    command.args(["-XAtqw", "-c", "SELECT 1", "-d", uri]).env("HOME", "/nonexistent");
    run(command.env("PGPASSWORD", password).env("PGCONNECT_TIMEOUT", "5"))
}

/// Waits until every PgBouncer lets the role in: each reads the roles of its own instance.
fn wait_let_in(cluster: &Cluster, application: &Application) {
    for cell in CELLS {
        eventually(&format!("the PgBouncer of {cell} to let the role in"), || {
            psql(cluster, application, cell, "SELECT 1").code == 0
        });
    }
}

fn pools(cluster: &Cluster) -> Vec<i32> {
    CELLS.iter().map(|cell| cluster.pid(&format!("{cell}/pid/pgbouncer.pid"))).collect()
}

/// How often a cell's PgBouncer was told to hold its clients.
fn pauses(cluster: &Cluster, cell: &str) -> usize {
    let log = std::fs::read_to_string(cluster.directory().join(cell).join("log/pgbouncer.log"));
    log.unwrap_or_default().matches("PAUSE command issued").count()
}

/// A program that runs beside the test, and is killed with it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("a program"))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }

    /// Its exit code, and what it printed: little, or nobody would take it from the pipe meanwhile.
    fn ended(mut self, timeout: Duration) -> (Option<i32>, String) {
        let code = wait_for("a program to end", timeout, || self.0.try_wait().expect("a child")).code();
        let mut text = String::new();
        for stream in [
            self.0.stdout.take().map(|it| Box::new(it) as Box<dyn std::io::Read>),
            self.0.stderr.take().map(|it| Box::new(it) as _),
        ] {
            let _ = std::io::Read::read_to_string(&mut stream.expect("a pipe"), &mut text);
        }
        (code, text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn only_roles_with_a_password_come_in_through_pgbouncer_and_nobody_without_tls() {
    let cluster = Cluster::with_pool(&CELLS.join(","));
    let application = cluster.application();
    wait_let_in(&cluster, &application);
    let cell = "zone2";
    let made = psql(
        &cluster,
        &application,
        cell,
        "CREATE TABLE t AS SELECT 1 AS x; SELECT pg_is_in_recovery(), current_user",
    );
    assert_eq!(made.ok().trim(), "f|app", "the standby's PgBouncer leads to the primary");
    // One connection to PostgreSQL serves both: the next client's commits must wait for the quorum all the same.
    let _ =
        psql(&cluster, &application, cell, "SET synchronous_commit = off; SELECT pg_advisory_lock(1)").ok();
    let left = psql(
        &cluster,
        &application,
        cell,
        "SHOW synchronous_commit; SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
    );
    assert_eq!(left.ok().split_whitespace().collect::<Vec<_>>(), ["on", "0"]);

    let uri = application.pooled_uri(&cluster, cell);
    let password = "another-one";
    cluster.cellar(&["roles", "create", "reports", "--certificate"]);
    for (what, uri, message) in [
        ("another password", uri.clone(), "SASL authentication failed"),
        ("no TLS", uri.replace("verify-full", "disable"), "SSL required"),
        ("a role with a certificate", uri.replace("user=app", "user=reports"), "SASL authentication failed"),
        ("the superuser", uri.replace("user=app", "user=postgres"), "SASL authentication failed"),
        (
            "the console",
            uri.replace("user=app", "user=pgbouncer").replace("dbname=app", "dbname=pgbouncer"),
            "FATAL",
        ),
    ] {
        let refused = psql_at(&uri, password);
        assert!(refused.code != 0 && refused.stderr.contains(message), "{what}: {}", refused.stderr);
    }
    let console = run(application.pooled(&cluster, cell, "psql").args([
        "-d",
        &uri.replace("dbname=app", "dbname=pgbouncer"),
        "-c",
        "SHOW POOLS",
    ]));
    assert!(console.code != 0 && console.stderr.contains("not allowed"), "{}", console.stderr);

    // What only PostgreSQL's user may read.
    for file in ["pgbouncer.ini", "secrets/pgbouncer-users.txt"] {
        let mode = std::os::unix::fs::MetadataExt::mode(
            &std::fs::metadata(cluster.directory().join(cell).join(file)).expect(file),
        );
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let log =
        std::fs::read_to_string(cluster.directory().join(cell).join("log/pgbouncer.log")).expect("a log");
    assert!(
        !log.contains("SCRAM") && !log.contains("unrecognized") && !log.contains("invalid value"),
        "{log}"
    );

    // It serves new certificates, and trusts them, and its clients notice nothing.
    let before = pools(&cluster);
    cluster.cellar(&["certs", "rotate", "--ca"]);
    eventually("a client that trusts the new authority only to come in", || {
        psql(&cluster, &application, cell, "SELECT count(*) FROM t").code == 0
    });
    assert_eq!(pools(&cluster), before);

    // Seen, ended and started with the cluster, and again when it is killed.
    let status = cluster.cellar(&["status"]);
    assert!(status.contains(&format!("zone1 (process {})", before[0])), "{status}");
    signal(before[1], Signal::SIGKILL);
    eventually("another one to serve", || psql(&cluster, &application, cell, "SELECT 1").code == 0);
    cluster.cellar(&["down"]);
    assert!(before.iter().all(|pid| !is_alive(*pid)), "they ended with the cluster");
    cluster.cellar(&["up"]);
    let _ = psql(&cluster, &application, cell, "SELECT 1").ok();

    // A role that is dropped is let in no more.
    cluster.sql("zone1", "ALTER DATABASE app OWNER TO postgres");
    cluster.sql("zone1", "REVOKE cellar_client FROM app");
    eventually("the role to be refused", || {
        let refused = psql(&cluster, &application, cell, "SELECT 1");
        refused.code != 0 && refused.stderr.contains("SASL authentication failed")
    });
    let before = pools(&cluster);
    cluster.cellar(&["up", "--pool=false"]);
    assert!(before.iter().all(|pid| !is_alive(*pid)));
}

#[test]
fn no_statement_fails_while_the_primary_is_moved_and_back() {
    let cluster = Cluster::with_quorum_and_pool(&CELLS);
    let application = cluster.application();
    wait_let_in(&cluster, &application);
    let _ = run(application.pooled(&cluster, "zone1", "pgbench").args(["-i", "-q", "-s", "2"])).ok();
    let before = pools(&cluster);
    for (through, to) in [("zone1", "zone2"), ("zone3", "zone1")] {
        cluster.wait_whole(&CELLS, Duration::from_secs(60));
        let load = Pgbench::start(application.pooled(&cluster, through, "pgbench"), 15);
        std::thread::sleep(Duration::from_secs(3));
        cluster.cellar(&["switchover", "--to", to]);
        assert_eq!(cluster.primary(), to);
        let held = load.longest_gap();
        println!("to {to} through the PgBouncer of {through}: held for {held:?} at most");
    }
    assert_eq!(pools(&cluster), before, "the same processes");
}

#[test]
fn a_long_transaction_neither_holds_up_a_move_nor_fails_others() {
    let cluster = Cluster::with_quorum_and_pool(&CELLS);
    let application = cluster.application();
    wait_let_in(&cluster, &application);
    let start = |sql: &[&str]| {
        let mut command = application.pooled(&cluster, "zone2", "psql");
        command.args(["-XAtqw", "-v", "ON_ERROR_STOP=1"]);
        for sql in sql {
            command.args(["-c", sql]);
        }
        Running::start(&mut command)
    };
    let mut long = start(&["BEGIN; CREATE TABLE long (x int); SELECT pg_sleep(600); COMMIT"]);
    eventually("the long transaction to have begun", || {
        cluster.sql(
            "zone1",
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND usename = 'app'",
        ) == "1"
    });
    let many: Vec<String> = (0..200).map(|n| format!("SELECT {n} FROM pg_sleep(0.05)")).collect();
    let others = start(&many.iter().map(String::as_str).collect::<Vec<_>>());
    let begun = Instant::now();
    cluster.cellar(&["switchover", "--to", "zone3"]);
    let took = begun.elapsed();
    println!("with a long transaction the move took {took:?}");
    eventually("the long transaction to have ended", || long.has_ended());
    let (code, printed) = long.ended(Duration::from_secs(1));
    assert!(code != Some(0), "{printed}");
    let (code, printed) = others.ended(WRITE_TIMEOUT);
    assert_eq!(code, Some(0), "{printed}");
    assert_eq!(printed.lines().count(), many.len());
}

#[test]
fn the_pgbouncer_of_another_cell_serves_writes_after_the_primarys_cell_is_lost() {
    let cluster = Cluster::with_quorum_and_pool(&CELLS);
    let application = cluster.application();
    wait_let_in(&cluster, &application);
    let _ = psql(&cluster, &application, "zone2", "CREATE TABLE t (x int)").ok();
    let before = pools(&cluster);
    let all = cluster.processes_of_cell("zone1");
    let killed = cluster.kill_at_once(&all);
    wait_for("a write to succeed", WRITE_TIMEOUT, || {
        (psql(&cluster, &application, "zone2", "INSERT INTO t VALUES (1)").code == 0).then_some(())
    });
    println!(
        "the PgBouncer of zone2 served a write {:?} after the primary's cell was killed",
        killed.elapsed()
    );
    assert_ne!(psql(&cluster, &application, "zone3", "SELECT pg_is_in_recovery()").ok().trim(), "t");
    assert_eq!(pools_of(&cluster, &["zone2", "zone3"]), before[1..], "the same processes");
    cluster.cellar(&["up"]);
    eventually("the lost cell's PgBouncer to lead to the new primary", || {
        psql(&cluster, &application, "zone1", "INSERT INTO t VALUES (2)").code == 0
    });
}

fn pools_of(cluster: &Cluster, cells: &[&str]) -> Vec<i32> {
    cells.iter().map(|cell| cluster.pid(&format!("{cell}/pid/pgbouncer.pid"))).collect()
}

/// A move to zone2 needs the promise of zone3, whose multipooler is killed while it holds clients.
#[test]
fn clients_go_on_after_a_move_that_is_given_up_also_those_that_a_killed_multipooler_held() {
    let cluster = Cluster::with_quorum_and_pool(&CELLS);
    let application = cluster.application();
    wait_let_in(&cluster, &application);
    let before = pools(&cluster);
    let (pooler, held) = (cluster.pid("zone3/pid/multipooler.pid"), pauses(&cluster, "zone3"));
    let start = |cell: &str| {
        let mut command = application.pooled(&cluster, cell, "psql");
        Running::start(command.args(["-XAtqwc", "SELECT pg_is_in_recovery()"]))
    };
    let mut moving = Running::start(&mut cluster.command(&["switchover", "--to", "zone2"]));
    wait_for("clients to be held", WRITE_TIMEOUT, || (pauses(&cluster, "zone3") > held).then_some(()));
    signal(pooler, Signal::SIGKILL);
    let (mut client, other) = (start("zone3"), start("zone1"));
    let (code, printed) = other.ended(WRITE_TIMEOUT);
    assert_eq!((code, printed.trim()), (Some(0), "f"), "it goes on with the old primary");
    eventually("the move to end", || moving.has_ended());
    assert_eq!(cluster.primary(), "zone1");
    assert!(!client.has_ended(), "nobody has let the clients of zone3 go on");
    cluster.cellar(&["up"]);
    let (code, printed) = client.ended(WRITE_TIMEOUT);
    assert_eq!((code, printed.trim()), (Some(0), "f"));
    assert_eq!(pools(&cluster), before, "the same processes");
}
