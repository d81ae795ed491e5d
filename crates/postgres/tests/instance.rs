//! The real PostgreSQL, from nothing to gone.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on should say where")]

mod directories;
mod given;
mod replication;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use cellar_model::{Role, Timeline};
use cellar_postgres::{
    CERTIFICATE_CLIENT_GROUP, CLIENT_GROUP, ControlState, DataDirectory, Endpoint, InstanceFacts,
    MONITOR_ROLE, PostgresError, PostmasterState, PrimaryConninfo, Probe, REPLICATION_ROLE, StopTimeouts,
    Stopped, check_permissions, configure, ensure_roles, execute, initdb, inspect, occupants, promote, query,
    reload, run, running, start, stop, stop_vanished,
};
use nix::sys::signal::Signal;
use support::{Cell, TEST_TIMEOUT, entries, signal, user, wait_for};

fn quick() -> StopTimeouts {
    StopTimeouts {
        fast: Duration::from_secs(2),
        checkpoint: Duration::from_secs(60),
        immediate: Duration::from_secs(10),
        kill: Duration::from_secs(5),
    }
}

/// A copy of the running primary in a cell of its own, taken over the socket.
async fn copy_of(primary: &Cell) -> Cell {
    if let Some((uid, _)) = user() {
        // Tests of root are the one case in which two OS users connect: root asks, postgres copies.
        let name = nix::unistd::User::from_uid(uid.into()).unwrap().unwrap().name;
        let ident = primary.data().join("pg_ident.conf");
        let text = fs::read_to_string(&ident).unwrap();
        fs::write(&ident, format!("{text}cellar {name} postgres\n")).unwrap();
        reload(&primary.data()).unwrap();
    }
    let standby = Cell::new();
    let mut command = standby.tools.command("pg_basebackup");
    command.arg("-D").arg(standby.data()).arg("-h").arg(&primary.config.settings.socket_directory).args([
        "-U",
        "postgres",
        "-p",
        &primary.config.settings.port.to_string(),
        "--checkpoint=fast",
        "-R",
    ]);
    run(command, TEST_TIMEOUT).await.unwrap();
    standby
}

#[tokio::test]
async fn from_initdb_to_stop() {
    let cell = Cell::new();
    assert_eq!(inspect(&cell.tools, &cell.data()).await.unwrap(), DataDirectory::Missing);
    cell.initdb().await;
    assert!(entries(cell.root.path()).iter().all(|name| !name.contains("initdb")));
    let uid = user().map_or_else(|| nix::unistd::geteuid().as_raw(), |(uid, _)| uid);
    check_permissions(&cell.data(), uid).unwrap();
    let DataDirectory::Valid { version: 15.., control, recovers: false } =
        inspect(&cell.tools, &cell.data()).await.unwrap()
    else {
        panic!()
    };
    assert!(control.data_checksums && control.state == ControlState::ShutDown);
    assert!(matches!(cell.probe().facts().await, Err(PostgresError::NotRunning(_))));
    assert!(matches!(reload(&cell.data()), Err(PostgresError::NotRunning(_))));

    let postmaster = cell.start().await;
    assert_eq!(
        (postmaster.state, postmaster.port),
        (PostmasterState::Ready, Some(cell.config.settings.port))
    );
    let mut probe = cell.probe();
    let facts = probe.facts().await.unwrap();
    let observed = facts.to_observed();
    assert_eq!((observed.role, observed.timeline), (Role::Primary, Timeline::new(1)));
    assert_eq!(observed.data_directory, cell.data().to_str().unwrap());
    assert_eq!(observed.system_identifier, control.system_identifier);
    assert_eq!(facts.redo_lsn, control.redo);
    assert!(facts.server_version == cell.tools.version().await.unwrap() && facts.wal_receiver.is_none());
    for (name, value) in [("cluster_name", "demo/it's"), ("archive_mode", "on"), ("data_checksums", "on")] {
        let answer = query(&cell.endpoint(), &format!("SHOW {name}"), TEST_TIMEOUT).await.unwrap();
        assert_eq!(answer, [[Some(value.to_owned())]], "{name}");
    }

    execute(&cell.endpoint(), "SELECT pg_switch_wal()", TEST_TIMEOUT).await.unwrap();
    wait_for("the archiver", async || {
        let archiver = probe.facts().await.unwrap().archiver;
        archiver.last_archived_wal.filter(|_| archiver.last_archived_time.is_some())
    })
    .await;

    assert_eq!(stop(&cell.data(), &StopTimeouts::default()).await.unwrap(), Stopped::Fast);
    assert_eq!(stop(&cell.data(), &StopTimeouts::default()).await.unwrap(), Stopped::NotRunning);
    assert!(running(&cell.data()).unwrap().is_none());
    // The probe's connection is dead; the next question finds the new server.
    cell.start().await;
    assert_eq!(probe.facts().await.unwrap().role, Role::Primary);
}

#[tokio::test]
async fn roles_are_made_once_and_only_on_a_primary() {
    let cell = Cell::running().await;
    for _ in 0..2 {
        ensure_roles(&cell.endpoint(), "some \"body\"", TEST_TIMEOUT).await.unwrap();
    }
    let sql = "SELECT rolname, rolreplication, rolsuper FROM pg_roles WHERE rolname !~ '^(pg_|postgres)' ORDER BY 1";
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(
        query(&cell.endpoint(), sql, TEST_TIMEOUT).await.unwrap(),
        [
            [text(CERTIFICATE_CLIENT_GROUP), text("f"), text("f")],
            [text(CLIENT_GROUP), text("f"), text("f")],
            [text(MONITOR_ROLE), text("f"), text("f")],
            [text(REPLICATION_ROLE), text("t"), text("f")],
            [text("some \"body\""), text("f"), text("t")]
        ]
    );
    let error = execute(&cell.endpoint(), "SELECT 1/0", TEST_TIMEOUT).await.unwrap_err();
    assert!(matches!(&error, PostgresError::Sql { code, .. } if code == "22012"), "{error}");
    let slow = execute(&cell.endpoint(), "SELECT pg_sleep(60)", Duration::from_millis(300)).await;
    assert!(matches!(slow, Err(PostgresError::NoAnswer { .. })));
}

#[tokio::test]
async fn the_facts_of_a_standby_follow_its_promotion() {
    let primary = Cell::running().await;
    let mut standby = copy_of(&primary).await;
    // The copy brought its source's files along; -R wrote primary_conninfo to postgresql.auto.conf, which
    // would win over ours.
    let sockets = primary.config.settings.socket_directory.to_str().unwrap();
    let port = primary.config.settings.port;
    standby.config.settings.primary_conninfo =
        Some(format!("host={sockets} port={port} user=postgres application_name=zone2"));
    let postmaster = standby.start().await;
    assert_eq!(postmaster.state, PostmasterState::Ready);
    let mut probe = standby.probe();
    let facts = wait_for("streaming", async || {
        let facts = probe.facts().await.unwrap();
        facts.streaming_from().is_some().then_some(facts)
    })
    .await;
    let address = Some((sockets.to_owned(), port));
    let observed = facts.to_observed();
    assert_eq!((observed.role, observed.timeline), (Role::Standby, Timeline::new(1)));
    assert_eq!((&observed.streaming_from, &facts.configured_primary), (&address, &address));
    assert!(facts.in_hot_standby && facts.write_lsn.is_none() && observed.primary_lsn.is_some());
    assert!(facts.wal_receiver.unwrap().last_message_age.unwrap() < TEST_TIMEOUT);
    wait_for("the standby in pg_stat_replication", async || {
        (primary.probe().facts().await.unwrap().streaming_to == ["zone2"]).then_some(())
    })
    .await;
    let found = inspect(&standby.tools, &standby.data()).await.unwrap();
    assert!(matches!(found, DataDirectory::Valid { recovers: true, .. }), "{found:?}");
    let refused = ensure_roles(&standby.endpoint(), "nobody", TEST_TIMEOUT).await;
    // The replication role is not there yet, and nothing can be made here.
    assert!(matches!(&refused, Err(PostgresError::Sql { code, .. }) if code == "25006"), "{refused:?}");

    // Without its sender it is still a standby of its timeline.
    stop(&primary.data(), &quick()).await.unwrap();
    wait_for("the end of streaming", async || {
        probe.facts().await.unwrap().streaming_from().is_none().then_some(())
    })
    .await;
    let alone = probe.facts().await.unwrap().to_observed();
    assert_eq!((alone.role, alone.timeline), (Role::Standby, Timeline::new(1)));

    promote(&standby.tools, &standby.data(), TEST_TIMEOUT).await.unwrap();
    let promoted = probe.facts().await.unwrap();
    assert_eq!((promoted.role, promoted.timeline), (Role::Primary, Timeline::new(2)));
    assert!(promote(&standby.tools, &standby.data(), TEST_TIMEOUT).await.is_err());
}

/// Who has asked an instance what it is and is still connected.
async fn watchers(cell: &Cell) -> Vec<String> {
    let sql = "SELECT DISTINCT usename::text FROM pg_stat_activity WHERE query LIKE 'SELECT r.standby,%'";
    query(&cell.endpoint(), sql, TEST_TIMEOUT).await.unwrap().into_iter().flatten().flatten().collect()
}

/// Waits until a probe's connection is one of `role`, and returns what it was told over that one.
async fn watched_by(cell: &Cell, role: &str, probe: &mut Probe) -> InstanceFacts {
    wait_for(role, async || {
        let facts = probe.facts().await.unwrap();
        (watchers(cell).await == [role]).then_some(facts)
    })
    .await
}

#[tokio::test]
async fn the_monitoring_role_may_only_watch() {
    let cell = Cell::running().await;
    let mut probe = cell.probe();
    let before = watched_by(&cell, "postgres", &mut probe).await;
    ensure_roles(&cell.endpoint(), "postgres", TEST_TIMEOUT).await.unwrap();
    // The same probe changes over once the role is there.
    let facts = watched_by(&cell, MONITOR_ROLE, &mut probe).await;
    assert_eq!(
        (&facts.data_directory, facts.system_identifier, facts.role, facts.timeline),
        (&before.data_directory, before.system_identifier, Role::Primary, Timeline::new(1))
    );

    let ask = async |sql: &str| query(&cell.endpoint(), sql, TEST_TIMEOUT).await.unwrap();
    let more = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = 'cellar_monitor'";
    assert_eq!(ask(more).await, [[Some("f".to_owned())]]);
    let groups = "SELECT roleid::regrole FROM pg_auth_members WHERE member = 'cellar_monitor'::regrole";
    assert_eq!(ask(groups).await, [[Some("pg_monitor".to_owned())]]);
    for forbidden in [
        "CREATE ROLE other",
        "CREATE TABLE public.t ()",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT pg_switch_wal()",
        "SELECT pg_promote()",
        "COPY (SELECT 1) TO PROGRAM 'true'",
    ] {
        let sql = format!("SET SESSION AUTHORIZATION cellar_monitor; {forbidden}");
        let refused = execute(&cell.endpoint(), &sql, TEST_TIMEOUT).await;
        assert!(matches!(&refused, Err(PostgresError::Sql { code, .. }) if code == "42501"), "{refused:?}");
    }
}

#[tokio::test]
async fn the_superuser_is_used_while_the_monitoring_role_cannot_connect() {
    let cell = Cell::running().await;
    ensure_roles(&cell.endpoint(), "postgres", TEST_TIMEOUT).await.unwrap();
    for (spoilt, repaired) in [
        ("ALTER ROLE cellar_monitor NOLOGIN", "ALTER ROLE cellar_monitor LOGIN"),
        ("ALTER ROLE cellar_monitor CONNECTION LIMIT 0", "ALTER ROLE cellar_monitor CONNECTION LIMIT -1"),
        ("REVOKE pg_monitor FROM cellar_monitor", "GRANT pg_monitor TO cellar_monitor"),
    ] {
        execute(&cell.endpoint(), spoilt, TEST_TIMEOUT).await.unwrap();
        watched_by(&cell, "postgres", &mut cell.probe()).await;
        execute(&cell.endpoint(), repaired, TEST_TIMEOUT).await.unwrap();
        watched_by(&cell, MONITOR_ROLE, &mut cell.probe()).await;
    }
}

#[tokio::test]
async fn a_standby_is_watched_by_the_role_that_its_primary_made() {
    let primary = Cell::running().await;
    let mut standby = copy_of(&primary).await;
    let sockets = primary.config.settings.socket_directory.to_str().unwrap();
    let port = primary.config.settings.port;
    standby.config.settings.primary_conninfo =
        Some(format!("host={sockets} port={port} user=postgres application_name=zone2"));
    standby.start().await;
    let mut probe = standby.probe();
    watched_by(&standby, "postgres", &mut probe).await;
    ensure_roles(&primary.endpoint(), "postgres", TEST_TIMEOUT).await.unwrap();
    let facts = watched_by(&standby, MONITOR_ROLE, &mut probe).await;
    let address = Some((sockets.to_owned(), port));
    assert_eq!((facts.role, &facts.configured_primary), (Role::Standby, &address));
    let receiver = facts.wal_receiver.unwrap();
    assert_eq!((receiver.status.as_str(), receiver.sender), ("streaming", address));
    assert!(receiver.latest_end_lsn.is_some() && receiver.last_message_age.is_some());
    let on_primary = watched_by(&primary, MONITOR_ROLE, &mut primary.probe()).await;
    assert_eq!(on_primary.streaming_to, ["zone2"]);

    // With no receiver the timeline comes from pg_control.
    stop(&primary.data(), &quick()).await.unwrap();
    let alone = wait_for("the end of streaming", async || {
        let facts = probe.facts().await.unwrap();
        facts.wal_receiver.is_none().then_some(facts)
    })
    .await;
    assert_eq!((alone.role, alone.timeline), (Role::Standby, Timeline::new(1)));
    assert_eq!(watchers(&standby).await, [MONITOR_ROLE]);
}

#[tokio::test]
async fn a_new_primary_conninfo_takes_effect_with_a_reload() {
    let mut cell = Cell::running().await;
    let tls_directory = cell.root.path().join("it's\\tls");
    let conninfo = |port| {
        PrimaryConninfo {
            host: "localhost",
            port,
            tls_directory: &tls_directory,
            application_name: "zone 1",
            syncs_slots: false,
        }
        .render()
        .unwrap()
    };
    cell.config.settings.primary_conninfo = Some(conninfo(25432));
    assert!(configure(&cell.data(), &cell.config).unwrap());
    reload(&cell.data()).unwrap();
    wait_for("the setting", async || {
        let facts = cell.probe().facts().await.unwrap();
        (facts.configured_primary == Some(("localhost".into(), 25432))).then_some(())
    })
    .await;
    let shown = query(&cell.endpoint(), "SHOW primary_conninfo", TEST_TIMEOUT).await.unwrap();
    assert_eq!(shown, [[Some(conninfo(25432))]]);
}

#[tokio::test]
async fn hostile_values_reach_the_server_as_they_are() {
    let hostile: &[&str] = include!("../../../fuzz/hostile.rs");
    let mut cell = Cell::running().await;
    // Nothing has been written, so nothing is archived: the commands are not run.
    for text in hostile.iter().filter(|text| !text.chars().any(char::is_control)) {
        cell.config.settings.archive_command = (*text).to_owned();
        cell.config.settings.restore_command = Some(text.chars().rev().collect());
        configure(&cell.data(), &cell.config).unwrap();
        let sql = "SELECT name, setting FROM pg_file_settings WHERE name IN ('archive_command', 'restore_command') AND error IS NULL ORDER BY seqno";
        let found = query(&cell.endpoint(), sql, TEST_TIMEOUT).await.unwrap();
        let reversed: String = text.chars().rev().collect();
        let exact = |name: &str, value: &str| vec![Some(name.to_owned()), Some(value.to_owned())];
        assert_eq!(found, [exact("archive_command", text), exact("restore_command", &reversed)]);
    }
    let sql = "SELECT count(*)::text FROM pg_file_settings WHERE error IS NOT NULL";
    let broken = query(&cell.endpoint(), sql, TEST_TIMEOUT).await.unwrap();
    assert_eq!(broken, [[Some("0".to_owned())]]);
}

#[tokio::test]
async fn a_frozen_server_gives_no_answer_in_time() {
    let cell = Cell::running().await;
    let mut kept = Probe::new(cell.endpoint(), Duration::from_secs(1));
    kept.facts().await.unwrap();
    let pids = cell.pids();
    for pid in &pids {
        signal(*pid, Signal::SIGSTOP);
    }
    // First over the connection that is open, then over new ones, as many as the socket's backlog
    // holds and more: the answer must not change.
    let mut probe = Probe::new(cell.endpoint(), Duration::from_millis(40));
    for round in 0..140 {
        let (probe, within) = if round == 0 { (&mut kept, 1000) } else { (&mut probe, 40) };
        let began = Instant::now();
        let answer = probe.facts().await;
        assert!(matches!(answer, Err(PostgresError::NoAnswer { .. })), "{round}: {answer:?}");
        assert!(began.elapsed() < Duration::from_millis(within + 500), "{round}: {:?}", began.elapsed());
    }
    assert!(running(&cell.data()).unwrap().is_some(), "frozen is not dead");
    for pid in &pids {
        signal(*pid, Signal::SIGCONT);
    }
    let mut probe = cell.probe();
    wait_for("the thawed server", async || probe.facts().await.ok()).await;
}

#[tokio::test]
async fn a_frozen_server_is_stopped_by_force_with_all_of_its_processes() {
    let cell = Cell::running().await;
    for pid in cell.pids() {
        signal(pid, Signal::SIGSTOP);
    }
    let second = Duration::from_secs(1);
    let timeouts = StopTimeouts { fast: second, checkpoint: second, immediate: second, kill: TEST_TIMEOUT };
    assert_eq!(stop(&cell.data(), &timeouts).await.unwrap(), Stopped::Killed);
    assert_eq!(cell.pids(), Vec::<i32>::new());
    // Nothing is left that keeps the next one from starting.
    assert_eq!(cell.start().await.state, PostmasterState::Ready);
}

#[tokio::test]
async fn what_a_dead_postmaster_left_is_reported_and_can_be_stopped() {
    let cell = Cell::running().await;
    let postmaster = running(&cell.data()).unwrap().unwrap().pid;
    for pid in cell.pids() {
        signal(pid, Signal::SIGSTOP);
    }
    signal(postmaster, Signal::SIGKILL);
    wait_for("its death", async || running(&cell.data()).unwrap().is_none().then_some(())).await;
    let refused = start(&cell.tools, &cell.data(), &cell.config, &cell.log(), TEST_TIMEOUT).await;
    assert!(matches!(&refused, Err(PostgresError::Orphans { pids, .. }) if !pids.is_empty()), "{refused:?}");
    assert_eq!(stop(&cell.data(), &quick()).await.unwrap(), Stopped::Killed);
    cell.start().await;
}

#[tokio::test]
async fn a_hanging_archiver_delays_only_the_fast_shutdown() {
    let mut cell = Cell::new();
    cell.config.settings.archive_command = "sleep 3600".into();
    cell.initdb().await;
    cell.start().await;
    execute(&cell.endpoint(), "SELECT pg_switch_wal()", TEST_TIMEOUT).await.unwrap();
    assert_eq!(stop(&cell.data(), &quick()).await.unwrap(), Stopped::Immediate);
    assert_eq!(cell.pids(), Vec::<i32>::new());
    let found = inspect(&cell.tools, &cell.data()).await.unwrap();
    let DataDirectory::Valid { control, .. } = found else { panic!("{found:?}") };
    // The shutdown checkpoint was written; it is only the archiver that it waited for.
    assert!(matches!(control.state, ControlState::ShutDown | ControlState::InProduction), "{control:?}");
}

/// What the shared buffers hold is written at the end, on a slow disk for minutes.
#[tokio::test]
async fn a_shutdown_whose_checkpoint_takes_longer_than_a_shutdown_may_is_waited_for() {
    let cell = Cell::running().await;
    let rows = "CREATE TABLE public.t AS SELECT generate_series(1, 1000000)";
    execute(&cell.endpoint(), rows, TEST_TIMEOUT).await.unwrap();
    // Over long before the checkpoint is.
    let timeouts = StopTimeouts { fast: Duration::from_millis(1), ..quick() };
    assert_eq!(stop(&cell.data(), &timeouts).await.unwrap(), Stopped::Fast);
    let found = inspect(&cell.tools, &cell.data()).await.unwrap();
    let DataDirectory::Valid { control, .. } = found else { panic!("{found:?}") };
    assert_eq!(control.state, ControlState::ShutDown);
}

#[tokio::test]
async fn an_adopted_server_is_the_same_one() {
    let cell = Cell::running().await;
    let first = running(&cell.data()).unwrap().unwrap();
    // Its session is not ours: it does not end with us, nor get our terminal's signals.
    let session = |pid: i32| nix::unistd::getsid(Some(nix::unistd::Pid::from_raw(pid))).unwrap().as_raw();
    assert_eq!(session(first.pid), first.pid);
    assert_eq!(cell.start().await, first);
    // Renamed, as a restore does, it is still found, and the name alone finds nothing.
    let old = cell.root.path().join("old_data");
    fs::rename(cell.data(), &old).unwrap();
    assert_eq!(running(&old).unwrap(), Some(first));
    assert_eq!(running(&cell.data()).unwrap(), None);
    fs::create_dir(cell.data()).unwrap();
    fs::copy(old.join("postmaster.pid"), cell.data().join("postmaster.pid")).unwrap();
    assert_eq!(running(&cell.data()).unwrap(), None, "the pid file of another directory's server");
    assert_eq!(occupants(&cell.data()).unwrap(), Vec::<i32>::new());
    stop(&old, &quick()).await.unwrap();
}

#[tokio::test]
async fn a_reused_process_id_is_not_taken_for_the_server_and_does_not_block_a_start() {
    let other = Cell::running().await;
    let stranger = running(&other.data()).unwrap().unwrap().pid;
    let cell = Cell::running().await;
    let pid_file = cell.data().join("postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(stop(&cell.data(), &quick()).await.unwrap(), Stopped::Fast);
    // As after a reboot without a shutdown, when another cell's server came up first.
    let (own, rest) = text.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{stranger}\n{rest}")).unwrap();
    let socket = &cell.config.settings.socket_directory;
    let lock = socket.join(format!(".s.PGSQL.{}.lock", cell.config.settings.port));
    fs::write(lock, format!("{stranger}\n{rest}")).unwrap();
    assert_eq!(running(&cell.data()).unwrap(), None);
    assert_eq!(stop(&cell.data(), &quick()).await.unwrap(), Stopped::NotRunning);
    let started = cell.start().await;
    assert_ne!(started.pid.to_string(), own);
    assert_eq!(running(&other.data()).unwrap().unwrap().pid, stranger);
    // A dead number is PostgreSQL's own business, and start works over it too.
    signal(started.pid, Signal::SIGKILL);
    wait_for("the backends' end", async || cell.pids().is_empty().then_some(())).await;
    assert!(pid_file.exists());
    cell.start().await;
}

#[tokio::test]
async fn a_failed_start_quotes_the_log() {
    let cell = Cell::new();
    cell.initdb().await;
    let conf = cell.data().join("postgresql.conf");
    fs::write(&conf, fs::read_to_string(&conf).unwrap() + "work_mem = many\n").unwrap();
    let error = start(&cell.tools, &cell.data(), &cell.config, &cell.log(), TEST_TIMEOUT).await.unwrap_err();
    let PostgresError::CommandFailed { program, output, .. } = error else { panic!("{error}") };
    assert!(program == "pg_ctl" && output.contains("invalid value for parameter \"work_mem\""), "{output}");
}
