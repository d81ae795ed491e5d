//! The driver with the real program, and with stand-ins that misbehave.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cellar_pgbackrest::{Error, ExitClass, Invocation, Pgbackrest, StanzaStatus};

const SECOND: Duration = Duration::from_secs(1);

/// The longest time between two turns of the other task of a test, in microseconds.
static LONGEST: AtomicU64 = AtomicU64::new(0);

/// A program that does as the script says.
fn stand_in(dir: &Path, script: &str) -> Pgbackrest {
    let binary = dir.join("pgbackrest");
    std::fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    Pgbackrest { binary, data_directory: None }
}

async fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < 10 * SECOND, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // A zombie has ended.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn config(dir: &Path) -> PathBuf {
    let file = dir.join("pgbackrest.conf");
    let d = dir.display();
    let text = format!(
        "[global]\nrepo1-path={d}/repo\nlock-path={d}/lock\nlog-path={d}/log\nlog-level-console=info\nlog-level-file=off\n[st]\npg1-path={d}/none\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

fn installed() -> Pgbackrest {
    let found = std::process::Command::new("pgbackrest").arg("version").output();
    assert!(found.is_ok(), "pgbackrest does not run: install the Debian package `pgbackrest`");
    Pgbackrest::default()
}

#[tokio::test]
async fn the_real_program_answers() {
    let program = installed();
    let version = program.version().await.unwrap();
    assert!(version.to_string().starts_with("2."), "{version}");
    let dir = tempfile::tempdir().unwrap();
    let (config, stanza) = (config(dir.path()), "st".parse().unwrap());
    let info = program.info(&config, &stanza, 10 * SECOND).await.unwrap();
    assert_eq!(info.status, StanzaStatus::MissingStanzaPath);
    let label = "20260101-000000F".parse().unwrap();
    let error = program.backup_record(&config, &stanza, &label, 10 * SECOND).await.unwrap_err();
    assert!(matches!(error, Error::NotInRepository(_)), "{error}");
    let wrong = Invocation::on("info", &config, &stanza).option("no-such-option", "1");
    let Err(Error::Failed { failure, .. }) = program.run_checked(&wrong, 10 * SECOND).await else { panic!() };
    assert_eq!((failure.exit_code, failure.class), (Some(31), ExitClass::InvalidArgument));
    assert!(failure.message.contains("no-such-option"), "{}", failure.message);
}

#[tokio::test]
async fn a_repo_of_another_passphrase_is_not_an_empty_one() {
    let program = installed();
    let dir = tempfile::tempdir().unwrap();
    let plain = config(dir.path());
    let encrypted = dir.path().join("encrypted.conf");
    let secret = "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=battery staple battery\n[st]";
    std::fs::write(&encrypted, read(&plain).replace("[st]", secret)).unwrap();
    for kind in ["archive", "backup"] {
        let path = dir.path().join("repo").join(kind).join("st");
        std::fs::create_dir_all(&path).unwrap();
        // What OpenSSL puts before the salt, and what could be anything.
        let content = [b"Salted__".to_vec(), (0..=255).rev().collect()].concat();
        for name in [format!("{kind}.info"), format!("{kind}.info.copy")] {
            std::fs::write(path.join(name), &content).unwrap();
        }
    }
    let stanza = "st".parse().unwrap();
    for config in [&plain, &encrypted] {
        let error = program.info(config, &stanza, 10 * SECOND).await.unwrap_err();
        assert!(matches!(error, Error::Garbled { .. }), "{error:?}");
        assert!(
            error.hint().contains("another passphrase") && !error.to_string().contains("battery"),
            "{error}"
        );
        assert!(!error.to_string().contains(char::is_control), "{error}");
    }
    let error =
        program.repo_get(&encrypted, &stanza, "backup/st/backup.info", 10 * SECOND).await.unwrap_err();
    assert!(error.hint().contains("another passphrase"), "{error:?}");
}

#[tokio::test]
async fn what_repo_get_printed_is_in_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let half = "echo 'cipher-pass=\"battery staple\"'; echo 'ERROR: [039]: the rest is lost' >&2; exit 39";
    let program = stand_in(dir.path(), half);
    let stanza = "st".parse().unwrap();
    let error = program.repo_get(&config(dir.path()), &stanza, "x", 10 * SECOND).await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("the rest is lost") && !text.contains("battery"), "{text}");
}

#[tokio::test]
async fn a_missing_program_names_its_package() {
    for binary in ["/nowhere/pgbackrest", "no-such-pgbackrest"] {
        let error = Pgbackrest { binary: binary.into(), data_directory: None }.version().await.unwrap_err();
        assert!(error.to_string().contains("install the Debian package `pgbackrest`"), "{error}");
    }
}

#[tokio::test]
async fn the_deadline_ends_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("worker");
    let program = stand_in(dir.path(), &format!("sleep 60 & echo $! > {}; wait", pid.display()));
    let begun = Instant::now();
    let error = program.run_captured(&Invocation::new("backup"), SECOND).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }) && begun.elapsed() < 5 * SECOND);
    wait_for("the worker to die", || !alive(&read(&pid))).await;
}

#[tokio::test]
async fn a_worker_left_behind_is_killed_and_does_not_hold_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("worker");
    let program = stand_in(dir.path(), &format!("sleep 60 & echo $! > {}; echo done; exit 7", pid.display()));
    let output = program.run_captured(&Invocation::new("backup"), 20 * SECOND).await.unwrap();
    assert_eq!((output.code, output.stdout.as_slice()), (Some(7), b"done\n".as_slice()));
    wait_for("the worker to die", || !alive(&read(&pid))).await;
}

#[tokio::test]
async fn the_environment_and_the_arguments_are_exact() {
    let dir = tempfile::tempdir().unwrap();
    let program = stand_in(dir.path(), "env; for a in \"$@\"; do echo \"<$a>\"; done");
    let invocation = Invocation::new("info").option("x", "a b;$(c)'\"").argument("");
    let output = program.run_captured(&invocation, 10 * SECOND).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\nLC_ALL=C\n") || text.starts_with("LC_ALL=C\n"));
    assert!(text.contains("TZ=UTC\n"));
    let options = format!(
        "PGOPTIONS=-c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 {}",
        cellar_model::SESSION_RULES
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("PG")).collect::<Vec<_>>(), [options.as_str()]);
    assert!(text.ends_with("<--x=a b;$(c)'\">\n<info>\n<>\n"), "{text}");
}

#[tokio::test]
async fn terminate_sends_sigterm_before_sigkill() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let gentle =
        stand_in(dir.path(), "trap 'echo released; exit 63' TERM; echo begun; while :; do sleep 0.05; done");
    let mut running = gentle.spawn_logged(&Invocation::new("backup"), &log, 0, None).await.unwrap();
    wait_for("its first words", || read(&log).contains("begun")).await;
    assert_eq!(running.terminate(10 * SECOND).await.unwrap(), Some(63));
    // The shell also remarks that its sleep was terminated.
    assert!(read(&log).ends_with("released\n"));

    let stubborn = stand_in(dir.path(), "trap '' TERM; echo again; while :; do sleep 0.05; done");
    let mut running = stubborn.spawn_logged(&Invocation::new("backup"), &log, 0, None).await.unwrap();
    wait_for("its words", || read(&log).contains("again")).await;
    let begun = Instant::now();
    assert_eq!(running.terminate(SECOND / 2).await.unwrap(), None);
    assert!(begun.elapsed() < 5 * SECOND);
    // The log is kept, and appended to.
    assert!(read(&log).starts_with("begun\n") && read(&log).contains("released\nagain\n"));
}

#[tokio::test]
async fn dropping_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, pid) = (dir.path().join("log"), dir.path().join("worker"));
    let program = stand_in(dir.path(), &format!("echo $$ > {}; sleep 60", pid.display()));
    let running = program.spawn_logged(&Invocation::new("backup"), &log, 0, None).await.unwrap();
    wait_for("its pid", || !read(&pid).is_empty()).await;
    drop(running);
    wait_for("its end", || !alive(&read(&pid))).await;
}

/// What `children_die_with_their_parent` runs as the parent: this test binary itself.
#[test]
fn parent_for_the_test_below() {
    let Some(dir) = std::env::var_os("CELLAR_TEST_PARENT_DIR") else { return };
    let dir = PathBuf::from(dir);
    let program = Pgbackrest { binary: dir.join("pgbackrest"), data_directory: None };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let _running =
            program.spawn_logged(&Invocation::new("backup"), &dir.join("log"), 0, None).await.unwrap();
        tokio::time::sleep(60 * SECOND).await;
    });
}

#[tokio::test]
async fn children_die_with_their_parent() {
    let dir = tempfile::tempdir().unwrap();
    let (main, worker) = (dir.path().join("main"), dir.path().join("worker"));
    stand_in(
        dir.path(),
        &format!("echo $$ > {}; sleep 60 & echo $! > {}; wait", main.display(), worker.display()),
    );
    let mut parent = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "parent_for_the_test_below"])
        .env("CELLAR_TEST_PARENT_DIR", dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the worker", || alive(&read(&worker)) && alive(&read(&main))).await;
    parent.kill().await.unwrap();
    wait_for("the end of both", || !alive(&read(&worker)) && !alive(&read(&main))).await;
}

#[tokio::test]
async fn a_future_that_is_dropped_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let program = stand_in(dir.path(), &format!("echo $$ > {}; sleep 60", pid.display()));
    let invocation = Invocation::new("backup");
    for patience in [0, 1, 5, 300] {
        let run = program.run_captured(&invocation, 60 * SECOND);
        assert!(tokio::time::timeout(Duration::from_millis(patience), run).await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        wait_for("its end", || !alive(&read(&pid))).await;
    }
    assert!(!read(&pid).is_empty());
}

/// Threads of this process that have started a confined command.
fn confined_spawners() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks.filter(|task| read(&task.path().join("comm")).starts_with("confined-spawne")).count()
}

#[tokio::test]
async fn a_confined_command_has_its_own_files_only_and_ends_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    for name in ["inside", "outside"] {
        std::fs::create_dir(place(name)).unwrap();
        std::fs::write(place(name).join("file"), name).unwrap();
    }
    let (inside, outside, log) = (place("inside"), place("outside"), place("log"));
    let access = cellar_system::FileAccess {
        programs: ["/usr", "/bin", "/lib", "/lib64", "/nix/store", "/gnu/store"].map(PathBuf::from).into(),
        readable: vec![],
        writable: vec![inside.clone(), "/dev/null".into()],
    };
    let script = format!(
        "cd {}; cat file >copy; cat {outside}/file >other; echo x >{outside}/new; sleep 60 & echo $! >worker; echo $$ >main; wait",
        inside.display(),
        outside = outside.display()
    );
    let program = stand_in(dir.path(), &script);
    let before = confined_spawners();
    let running = program.spawn_confined(&Invocation::new("server"), &log, access).await.unwrap();
    let (main, worker) = (inside.join("main"), inside.join("worker"));
    wait_for("its processes", || alive(&read(&main)) && alive(&read(&worker))).await;
    assert_eq!(read(&inside.join("copy")), "inside", "{}", read(&log));
    let reached = (read(&inside.join("other")), outside.join("new").exists());
    let expected = if running.is_confined() { (String::new(), false) } else { ("outside".to_owned(), true) };
    assert_eq!(reached, expected, "{}", read(&log));
    // It does not end by itself when the thread that has started it has nothing more to do.
    assert_eq!(confined_spawners(), before + 1);
    drop(running);
    wait_for("the end of both", || !alive(&read(&main)) && !alive(&read(&worker))).await;
    wait_for("the end of the thread", || confined_spawners() == before).await;
    // Nothing else of this process is confined.
    let (program, whole) =
        (stand_in(dir.path(), &format!("echo x >{}/new", outside.display())), place("log2"));
    let mut running = program.spawn_logged(&Invocation::new("info"), &whole, 0, None).await.unwrap();
    assert!(!running.is_confined());
    assert_eq!(running.wait().await.unwrap(), Some(0), "{}", read(&whole));
}

/// Uptime of this host, as the watchdog reads it.
fn uptime() -> Duration {
    let text = read(Path::new("/proc/uptime"));
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// What a job's command looks like: a main process and a worker, both of which ignore the usual signals.
fn main_and_worker(dir: &Path) -> (Pgbackrest, PathBuf, PathBuf) {
    let (main, worker) = (dir.join("main"), dir.join("worker"));
    let script = format!(
        "trap '' TERM INT HUP; sleep 60 & echo $! > {}; echo $$ > {}; wait",
        worker.display(),
        main.display()
    );
    (stand_in(dir, &script), main, worker)
}

#[tokio::test]
async fn the_watchdog_ends_the_whole_group_in_time_also_when_its_main_process_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (program, main, worker) = main_and_worker(dir.path());
    let until = uptime() + 3 * SECOND;
    let log = dir.path().join("log");
    let mut running = program.spawn_logged(&Invocation::new("backup"), &log, 0, Some(until)).await.unwrap();
    wait_for("its processes", || alive(&read(&main)) && alive(&read(&worker))).await;
    let main_pid = nix::unistd::Pid::from_raw(read(&main).trim().parse().unwrap());
    nix::sys::signal::kill(main_pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    wait_for("the end of both", || !alive(&read(&main)) && !alive(&read(&worker))).await;
    assert!(uptime() < until + 2 * SECOND, "{:?} {until:?}", uptime());
    assert_eq!(running.wait().await.unwrap(), None);
}

#[tokio::test]
async fn the_watchdog_waits_as_long_as_it_is_given_more_time() {
    let dir = tempfile::tempdir().unwrap();
    let program = stand_in(dir.path(), "sleep 4; exit 7");
    let log = dir.path().join("log");
    let until = || Some(uptime() + 2 * SECOND);
    let watch = async |_: &cellar_pgbackrest::Running| Ok::<(), Error>(());
    let code = program.run_watched(&Invocation::new("backup"), &log, 0, SECOND / 10, until, watch).await;
    assert_eq!(code.unwrap(), Some(7), "{}", read(&log));
}

#[tokio::test]
async fn a_command_whose_time_is_over_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (begun, log) = (dir.path().join("begun"), dir.path().join("log"));
    let program = stand_in(dir.path(), &format!("sleep 1; touch {}", begun.display()));
    let mut running =
        program.spawn_logged(&Invocation::new("backup"), &log, 0, Some(uptime())).await.unwrap();
    assert_eq!(running.wait().await.unwrap(), None);
    assert!(!begun.exists());
}

/// What `info` prints, with exit code 0: measured with 2.45.
fn info_answer(code: u32, message: &str) -> String {
    let of_stanza = if code == 99 { "other" } else { message };
    format!(
        r#"printf '%s' '[{{"archive":[],"backup":[],"cipher":"none","db":[],"name":"st","repo":[{{"cipher":"none","key":1,"status":{{"code":{code},"message":"{message}"}}}}],"status":{{"code":{code},"lock":{{"backup":{{"held":false}}}},"message":"{of_stanza}"}}}}]'"#
    )
}

#[tokio::test]
async fn unreadable_repo_is_not_an_empty_one() {
    let dir = tempfile::tempdir().unwrap();
    let (config, stanza) = (config(dir.path()), "st".parse().unwrap());
    let denied = "[PathOpenError] unable to list file info for path: [13] Permission denied";
    let silent = "[FileReadError] timeout after 1000ms waiting for read from host";
    for message in [denied, silent] {
        let program = stand_in(dir.path(), &info_answer(99, message));
        let error = program.info(&config, &stanza, 10 * SECOND).await.unwrap_err();
        assert!(matches!(&error, Error::RepoUnreadable(why) if why == message), "{error}");
        assert!(!error.hint().is_empty());
    }
    let program = stand_in(dir.path(), &info_answer(2, "no valid backups"));
    assert_eq!(program.info(&config, &stanza, 10 * SECOND).await.unwrap().status, StanzaStatus::NoBackup);
}

#[tokio::test]
async fn manifest_that_cannot_be_loaded_is_told_from_a_repo_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let (config, stanza) = (config(dir.path()), "st".parse().unwrap());
    let label = "20260101-000000F".parse().unwrap();
    let malformed = "[FormatError] unable to load backup manifest file: FormatError: missing = in key/value at line 43: new";
    for (code, message) in [(99, malformed), (6, "requested backup not found"), (0, "ok")] {
        let program = stand_in(dir.path(), &info_answer(code, message));
        let why = program.unloadable(&config, &stanza, &label, 10 * SECOND).await.unwrap();
        assert!(why.is_some(), "{code} {message}");
    }
    let silent = "[FileReadError] timeout after 1000ms waiting for read from host";
    let program = stand_in(dir.path(), &info_answer(99, silent));
    let error = program.unloadable(&config, &stanza, &label, 10 * SECOND).await.unwrap_err();
    assert!(matches!(error, Error::RepoUnreadable(_)), "{error}");
}

#[tokio::test]
async fn program_that_cannot_be_executed_was_not_killed() {
    let dir = tempfile::tempdir().unwrap();
    let program = stand_in(dir.path(), "exit 0");
    std::fs::write(&program.binary, "#!/no/such/interpreter\n").unwrap();
    let missing = program.run_captured(&Invocation::new("x"), 10 * SECOND).await;
    std::fs::set_permissions(&program.binary, std::fs::Permissions::from_mode(0o644)).unwrap();
    let denied = program.run_captured(&Invocation::new("x"), 10 * SECOND).await;
    for ended in [missing, denied] {
        assert!(matches!(&ended, Err(Error::Io { what, .. }) if what == "start pgbackrest"), "{ended:?}");
    }
    // Its own exit codes and signals are as ever.
    let ended = async |script| {
        stand_in(dir.path(), script).run_captured(&Invocation::new("x"), 10 * SECOND).await.unwrap().code
    };
    assert_eq!(ended("exit 125").await, Some(125));
    assert_eq!(ended("kill -9 $$").await, None);
}

/// A manifest is counted by another thread: the caller's has other work.
#[tokio::test(flavor = "current_thread")]
async fn other_tasks_go_on_while_a_long_manifest_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let files = 100_000;
    let line = |at: u32| format!("pg_data/base/{at}={{\"size\":8192,\"checksum\":\"0\",\"timestamp\":1}}\n");
    let manifest: String = ["[target:file]\n".to_owned()].into_iter().chain((0..files).map(line)).collect();
    let path = dir.path().join("manifest");
    std::fs::write(&path, &manifest).unwrap();
    let begun = Instant::now();
    assert_eq!(cellar_pgbackrest::count_manifest(&manifest).with_content, u64::from(files));
    let alone = begun.elapsed();
    let program = stand_in(dir.path(), &format!("cat {}", path.display()));
    let other = tokio::spawn(async {
        let (mut longest, mut last) = (Duration::ZERO, Instant::now());
        let begun = last;
        while begun.elapsed() < 60 * SECOND {
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
            LONGEST.store(u64::try_from(longest.as_micros()).unwrap(), Ordering::Relaxed);
        }
    });
    let label = "20261121-030654F".parse().unwrap();
    let stanza = "st".parse().unwrap();
    let count = program.manifest_count(&config(dir.path()), &stanza, &label, 60 * SECOND).await.unwrap();
    // Its next turn, whose wait ends here.
    tokio::time::sleep(Duration::from_millis(5)).await;
    other.abort();
    assert_eq!(count.with_content, u64::from(files));
    let longest = Duration::from_micros(LONGEST.load(Ordering::Relaxed));
    assert!(longest < alone / 2, "the other task waited {longest:?}; counting takes {alone:?}");
}
