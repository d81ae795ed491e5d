//! `cellar up`, killed at any moment and run again, finishes the job, and a second initdb never
//! touches existing data.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, kill_hard, run, wait_for};

/// Starts `cellar up` and kills it when `reached` says so, together with what it has started.
fn kill_up_when(cluster: &Cluster, what: &str, mut reached: impl FnMut() -> bool) {
    let mut up = begin_up(cluster);
    wait_for(what, Duration::from_secs(120), || {
        let ended = up.try_wait().expect("up is ours").is_some();
        (reached() || ended).then_some(())
    });
    let _ = up.kill();
    let _ = up.wait();
}

fn up_command(cluster: &Cluster) -> Command {
    cluster.command(&["up", "--cells", "zone1,zone2", "--port-offset", "auto"])
}

fn begin_up(cluster: &Cluster) -> Child {
    begin(up_command(cluster))
}

fn begin(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar runs")
}

fn finish(cluster: &Cluster) {
    let again = cluster.try_cellar(&["up"]);
    assert_eq!(again.code, 0, "{again:?}");
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}

fn identity_in(cluster: &Cluster, cell: &str) -> String {
    cluster.sql(cell, "SELECT system_identifier FROM pg_control_system()")
}

fn identity(cluster: &Cluster) -> String {
    identity_in(cluster, "zone1")
}

/// At every step: the provisioner dies, and the daemons go on without it.
#[test]
fn up_is_killed_at_each_step_and_resumed() {
    let steps: [(&str, &str); 7] = [
        ("the authority", "ca/ca.crt"),
        ("etcd's data", "etcd/data/member"),
        ("multiadmin", "pid/multiadmin.pid"),
        ("a data directory", "zone1/pg_data/PG_VERSION"),
        ("the stanza", "repo/archive"),
        ("a copy of the primary in zone2", "zone2/pg_data.copy"),
        ("data in zone2", "zone2/pg_data"),
    ];
    for (what, path) in steps {
        let cluster = Cluster::new();
        let path = cluster.directory().join(path);
        kill_up_when(&cluster, what, || path.exists());
        finish(&cluster);
    }
}

/// The first pooler dies while it makes the database, and after.
#[test]
fn the_first_pooler_is_killed_while_it_makes_the_database() {
    let moments: [(&str, &str); 3] = [
        ("initdb", "zone1/pg_data.initdb"),
        ("a fresh data directory", "zone1/pg_data/PG_VERSION"),
        ("the repo", "repo/backup"),
    ];
    for (what, path) in moments {
        let cluster = Cluster::new();
        let path = cluster.directory().join(path);
        // What initdb writes is renamed in a second.
        let made = cluster.directory().join("zone1/pg_data/PG_VERSION");
        let mut up = begin_up(&cluster);
        wait_for(what, Duration::from_secs(60), || {
            (path.exists() || (what == "initdb" && made.exists())).then_some(())
        });
        kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
        let _ = up.kill();
        let _ = up.wait();
        finish(&cluster);
    }
}

/// A standby's pooler dies while it copies the primary.
#[test]
fn killed_copy_of_the_primary_is_made_again() {
    // The copy lasts for a second or less.
    let killed = (0..5).find_map(|_| {
        let cluster = Cluster::new();
        let (copy, data) =
            (cluster.directory().join("zone2/pg_data.copy"), cluster.directory().join("zone2/pg_data"));
        let mut up = begin_up(&cluster);
        wait_for("the copy", Duration::from_secs(120), || (copy.exists() || data.exists()).then_some(()));
        kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
        let _ = up.kill();
        let _ = up.wait();
        (!data.exists()).then_some(cluster)
    });
    let cluster = killed.expect("a pooler that was killed before the copy had ended");
    let copy = cluster.directory().join("zone2/pg_data.copy");
    finish(&cluster);
    assert!(!copy.exists(), "what the killed copy left is still there");
    assert_eq!(identity(&cluster), identity_in(&cluster, "zone2"));
}

/// PostgreSQL's programs, with a `pg_basebackup` that always fails.
fn programs_that_cannot_copy(directory: &Path) {
    let bindir = cellar_postgres::Tools::find(None).expect("PostgreSQL is installed").bindir().to_owned();
    for program in std::fs::read_dir(bindir).expect("its programs").flatten() {
        symlink(program.path(), directory.join(program.file_name())).expect("a link");
    }
    let script = directory.join("pg_basebackup");
    std::fs::remove_file(&script).expect("it was linked");
    std::fs::write(&script, "#!/bin/sh\necho 'no copy for you' >&2\nexit 1\n").expect("a script");
    for path in [&script, directory] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
}

/// `cellar up` of a cluster whose standby cannot copy the primary.
fn up_without_copies(cluster: &Cluster, programs: &Path) -> Command {
    programs_that_cannot_copy(programs);
    let mut command = up_command(cluster);
    command.env("CELLAR_PG_BINDIR", programs);
    command
}

#[test]
fn standby_that_cannot_copy_the_primary_is_restored_from_the_repository() {
    let cluster = Cluster::new();
    let programs = tempfile::tempdir().expect("a directory");
    let _ = run(&mut up_without_copies(&cluster, programs.path())).ok();
    let log = std::fs::read_to_string(cluster.directory().join("zone2/log/multipooler.log")).expect("a log");
    assert!(log.contains("no copy for you"), "it did not try to copy the primary: {log}");
    assert!(log.contains("restores the newest backup"), "it was not restored: {log}");
    cluster.wait_streaming("zone2");
    assert_eq!(identity(&cluster), identity_in(&cluster, "zone2"));
    let _ = cluster.backup("zone2", "incr");
}

/// A standby's pooler dies in the middle of its restore.
#[test]
fn a_restore_is_killed_and_completed() {
    let cluster = Cluster::new();
    let programs = tempfile::tempdir().expect("a directory");
    let marker = cluster.directory().join("zone2/state/seeding");
    let mut up = begin(up_without_copies(&cluster, programs.path()));
    wait_for("the restore", Duration::from_secs(120), || marker.exists().then_some(()));
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    let _ = up.kill();
    let _ = up.wait();
    finish(&cluster);
    assert_eq!(identity(&cluster), identity_in(&cluster, "zone2"));
}

/// Everything is killed at once at growing distances from the start: whatever the moment, the next
/// `up` finishes, and once there is a database it stays the same one.
#[test]
fn everything_is_killed_at_arbitrary_moments() {
    let cluster = Cluster::new();
    let mut known: Option<String> = None;
    for millis in [300_u64, 900, 1500, 2500, 4000] {
        let mut up = begin_up(&cluster);
        let until = Instant::now() + Duration::from_millis(millis);
        wait_for("the moment", Duration::from_secs(60), || (Instant::now() >= until).then_some(()));
        let _ = up.kill();
        let _ = up.wait();
        cluster.kill_everything();
        let control = cluster.directory().join("zone1/pg_data/global/pg_control");
        // The identity is the first eight bytes of pg_control.
        if let Ok(bytes) = std::fs::read(control) {
            let identity = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")).to_string();
            if let Some(known) = &known {
                assert_eq!(*known, identity, "a second initdb ran");
            }
            known = Some(identity);
        }
    }
    finish(&cluster);
    if let Some(known) = known {
        assert_eq!(known, identity(&cluster));
    }
}
