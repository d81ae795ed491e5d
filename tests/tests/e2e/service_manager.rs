//! What the daemons tell the service manager that started them: systemd takes one that says nothing for dead.

use std::time::{Duration, Instant};

use cellar_tests::{Cluster, ServiceManager, eventually, is_alive, kill_hard, signal};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

/// The watchdog's time in these tests. Each loop waits for etcd for at most 5 s at a time.
const WATCHDOG: Duration = Duration::from_secs(16);

/// How long a program may take to serve.
const START: Duration = Duration::from_secs(60);

/// The variables of a process.
fn variables(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|each| String::from_utf8_lossy(each).into_owned()).collect()
}

/// Whether it would be taken for alive for as long as three words of the watchdog take.
fn stays_alive(manager: &ServiceManager) -> bool {
    manager.forget();
    (0..3).all(|_| manager.hears("WATCHDOG=1", WATCHDOG))
}

#[test]
fn the_daemons_tell_the_service_manager_that_they_serve_live_and_stop() {
    let cluster = Cluster::up("zone1");
    let (admin_pid, admin) = cluster.restart_as_service("pid/multiadmin.pid", WATCHDOG);
    let (pooler_pid, pooler) = cluster.restart_as_service("zone1/pid/multipooler.pid", WATCHDOG);
    assert!(admin.hears("READY=1", START), "multiadmin serves");
    assert!(pooler.hears("READY=1", START), "the multipooler serves");

    // What it starts is not to report in its place: Debian's PostgreSQL would.
    let before = cluster.postmaster("zone1");
    kill_hard(before);
    eventually("PostgreSQL to be started by this multipooler", || {
        let now = std::fs::read_to_string(cluster.directory().join("zone1/pg_data/postmaster.pid"));
        let pid = now.ok().and_then(|text| text.lines().next()?.parse().ok());
        pid.is_some_and(|pid: i32| pid != before && is_alive(pid))
    });
    let postmaster = cluster.postmaster("zone1");
    let server = cluster.pid("zone1/pid/pgbackrest-server.pid");
    assert!(variables(pooler_pid).iter().any(|each| each.starts_with("NOTIFY_SOCKET=")));
    for pid in [postmaster, server] {
        let variables = variables(pid);
        assert!(variables.len() > 1, "process {pid} has no variables");
        for name in cellar_system::SERVICE_MANAGER_VARIABLES {
            assert!(!variables.iter().any(|each| each.starts_with(&format!("{name}="))), "{variables:?}");
        }
    }

    // An etcd that does not answer is no reason to end anything.
    let etcd = cluster.pid("pid/etcd.pid");
    signal(etcd, Signal::SIGSTOP);
    let (admin_lives, pooler_lives) = (stays_alive(&admin), stays_alive(&pooler));
    signal(etcd, Signal::SIGCONT);
    assert!(admin_lives && pooler_lives, "multiadmin {admin_lives}, multipooler {pooler_lives}");

    for (pid, manager) in [(admin_pid, &admin), (pooler_pid, &pooler)] {
        signal(pid, Signal::SIGTERM);
        assert!(manager.hears("STOPPING=1", Duration::from_secs(20)), "process {pid}");
    }
    assert!(is_alive(postmaster), "PostgreSQL goes on");
}

#[test]
fn a_multipooler_that_stands_still_says_nothing() {
    let cluster = Cluster::up("zone1");
    let watchdog = Duration::from_secs(4);
    let (pid, manager) = cluster.restart_as_service("zone1/pid/multipooler.pid", watchdog);
    assert!(manager.hears("READY=1", START) && manager.hears("WATCHDOG=1", START));
    // Nobody writes to this pipe, so whoever opens it waits, as for a disk that does not answer. It is read when
    // PostgreSQL is to be started.
    let pipe = cluster.directory().join("zone1/state/seeding");
    nix::unistd::mkfifo(&pipe, Mode::from_bits_truncate(0o666)).unwrap();
    kill_hard(cluster.postmaster("zone1"));
    let deadline = Instant::now() + START;
    // One word may have been on its way; then none for as long as systemd waits.
    while manager.hears("WATCHDOG=1", watchdog) {
        assert!(Instant::now() < deadline, "it lives on");
    }
    kill_hard(pid);
    std::fs::remove_file(&pipe).unwrap();
}
