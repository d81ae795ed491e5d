//! A repository that only one host has: the others reach it through pgBackRest's server there, and pgBackRest makes backups
//! there.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_api::v1::run_backup_request::Content;
use cellar_api::v1::run_backup_response::Content as Said;
use cellar_api::v1::{BackupOrder, RunBackupRequest, RunBackupResponse, WorkTime};
use cellar_tests::{Finished, HostsCluster, command_line, eventually, postgres_user, run, signal};
use cellar_tls::ClientTls;
use nix::sys::signal::Signal;
use tokio_stream::wrappers::ReceiverStream;

/// The multipooler's port in the third cell.
const POOLER_PORT: u16 = 15272;

/// That of pgBackRest's server there.
const SERVER_PORT: u16 = 8434;

/// What the OS user of PostgreSQL sees of the repository on a host: none when it may not even look.
fn seen(cluster: &HostsCluster, host: &str) -> Option<String> {
    let mut command = cluster.hosts.command_as(host, &postgres_user(), "ls");
    let listed = run(command.arg(cluster.repo()));
    (listed.code == 0).then_some(listed.stdout)
}

/// The main process of a pgBackRest that makes a backup on a host.
fn backing_up(cluster: &HostsCluster, host: &str) -> Option<i32> {
    let makes_backup = |pid: &i32| {
        let words = command_line(*pid);
        words.first().is_some_and(|program| program.ends_with("pgbackrest"))
            && words.iter().any(|word| word.starts_with("--annotation="))
            && words.last().is_some_and(|word| word == "backup")
    };
    cluster.hosts.processes(host).into_iter().find(makes_backup)
}

/// The processes on a host that hold the stanza's lock of a backup.
fn holders(cluster: &HostsCluster, host: &str) -> Vec<i32> {
    let holds = |pid: &i32| {
        let files = cellar_system::Process::find(*pid)
            .into_iter()
            .flat_map(|process| process.open_files().collect::<Vec<_>>());
        files.into_iter().any(|path| path.display().to_string().contains("/app-backup"))
    };
    cluster.hosts.processes(host).into_iter().filter(holds).collect()
}

/// The host before the path of each file that a backup copied, once each.
fn hosts_in_log(cluster: &HostsCluster, job: &str) -> Vec<String> {
    let log = cluster.cellar(&["jobs", "logs", job]).ok();
    let files = log.lines().filter_map(|line| line.split_once("backup file ").map(|(_, file)| file));
    let mut hosts: Vec<String> =
        files.map(|file| file.split_once('/').map_or("", |(host, _)| host).to_owned()).collect();
    hosts.sort();
    hosts.dedup();
    hosts
}

/// What the server of the repository on db3 answers to zone1, when it is asked for a file of a directory there.
fn read_from_home(cluster: &HostsCluster, directory: &Path, file: &str) -> Finished {
    let own = cluster.host_directory("db1").join("zone1/tls");
    let config = cluster.host_directory("db3").join("zone3/pgbackrest.conf");
    let mut command = cluster.hosts.command_as("db1", &postgres_user(), "pgbackrest");
    command
        .args(["--config=/dev/null", "--log-level-file=off", "--log-level-console=off", "--stanza=app"])
        .args(["--repo1-host=db3.test", "--repo1-host-type=tls", "--io-timeout=2"])
        .arg(format!("--repo1-host-port={SERVER_PORT}"))
        .arg(format!("--repo1-host-config={}", config.display()))
        .arg(format!("--repo1-path={}", directory.display()))
        .arg(format!("--repo1-host-ca-file={}", own.join("ca.crt").display()))
        .arg(format!("--repo1-host-cert-file={}", own.join("server.crt").display()))
        .arg(format!("--repo1-host-key-file={}", own.join("server.key").display()))
        .args(["repo-get", file]);
    run(&mut command)
}

#[test]
fn a_repository_on_one_host_serves_the_database_on_all() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 4) else { return };
    assert!(seen(&cluster, "db3").is_some_and(|files| files.contains("archive")));
    for host in ["db1", "db2", "db4", "operator"] {
        assert_eq!(seen(&cluster, host), None, "{host}");
    }
    let info = read_from_home(&cluster, cluster.repo().as_path(), "backup/app/backup.info").ok();
    assert!(info.contains("[backrest]"), "the control: {info}");
    let notes = cluster.status("zone3").expect("zone3")["versions"]["notes"].to_string();
    if !notes.contains("this kernel has no Landlock") {
        // What the host has beside its repository is nobody's business.
        let etcd = cluster.host_directory("db3").join("etcd/tls");
        assert!(etcd.join("ca.crt").exists(), "{}", etcd.display());
        let read = read_from_home(&cluster, &etcd, "ca.crt");
        assert!(read.code != 0 && read.stdout.is_empty(), "{read:?}");
    }
    let _ = cluster.sql("db1", "CREATE TABLE ledger (id int PRIMARY KEY)").ok();
    let _ = cluster.sql("db1", "INSERT INTO ledger SELECT generate_series(1, 100)").ok();
    // Of the host that has it, of another one, and of the primary.
    for (cell, copied_from) in [("zone3", vec!["", "db1.test:"]), ("zone2", vec!["db1.test:", "db2.test:"])] {
        let job = cluster.back_up(cell);
        assert_eq!(hosts_in_log(&cluster, job["id"].as_str().unwrap()), copied_from, "{job}");
    }
    let of_primary = cluster.json(&["backup", "--from", "zone1", "--allow-primary"]);
    assert_eq!(of_primary["result"]["backup"]["source"]["verified"], true, "{of_primary}");
    assert_eq!(hosts_in_log(&cluster, of_primary["id"].as_str().unwrap()), ["db1.test:"]);
    let _ = cluster.cellar(&["check"]).ok();
    for command in [&["verify"][..], &["expire", "--dry-run"]] {
        let job = cluster.json(command);
        assert_eq!(job["cell"], "zone3", "{command:?}: {job}");
    }
    let _ = cluster.cellar(&["drill", "--on", "zone2", "--check", "select count(*) = 100 from ledger"]).ok();
    let _ = cluster.cellar(&["rebuild", "zone2"]).ok();
    cluster.wait_for_rows("db2", 100);
    let directory = cluster.host_directory("db4").display().to_string();
    let add = ["cells", "add", "zone4", "--host", "db4.test", "--host-directory", &directory];
    let _ = cluster.cellar(&add).ok();
    let _ = cluster.install("db4").ok();
    let _ = cluster.on("db4", &["start"]).ok();
    let _ = cluster.wait().ok();
    cluster.wait_for_rows("db4", 100);
    cluster.back_up("zone4");
    let _ = cluster.cellar(&["cells", "remove", "zone4"]).ok();

    let _ = cluster.sql("db1", "SELECT pg_create_restore_point('before')").ok();
    let _ = cluster.sql("db1", "DELETE FROM ledger WHERE id > 10").ok();
    let _ = cluster.sql("db1", "SELECT pg_switch_wal()").ok();
    let _ = cluster.json(&["restore", "--to-name", "before", "--yes"]);
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 100);
    }
    let kept = cluster.cellar(&["cells", "remove", "zone3"]).refused(3);
    assert!(kept.contains("the repository of app is on the host of cell zone3"), "{kept}");
}

/// Calls the pooler of zone3 as that of a host's cell does, for a backup of its cell by this job, and answers every mark. What
/// it refuses; none when the call ended otherwise.
fn call_for_backup(cluster: &HostsCluster, host: &str, job: &str, limit: Duration) -> Option<tonic::Code> {
    cellar_tls::install_ring_provider();
    let cell = host.replace("db", "zone");
    let own = cluster.host_directory(host).join(cell).join("tls");
    let (ca, certificate, key) = (own.join("ca.crt"), own.join("pooler.crt"), own.join("server.key"));
    let tls = ClientTls::from_files(&ca, &certificate, &key).unwrap().domain_name("db3.test");
    let address = format!("{}:{POOLER_PORT}", cluster.hosts.address("db3"));
    let primary = if host == "db1" { "" } else { "zone1" };
    let order = BackupOrder { job: job.to_owned(), primary: primary.to_owned(), r#type: "full".to_owned() };
    let ask = async || {
        let channel = tls.endpoint(&address, None).unwrap().connect().await.unwrap();
        let (asks, asked) = tokio::sync::mpsc::channel(4);
        let say = async |content| asks.send(RunBackupRequest { content: Some(content) }).await;
        say(Content::Order(order.clone())).await.unwrap();
        let answers = MultiPoolerClient::new(channel).run_backup(ReceiverStream::new(asked)).await;
        let mut answers = answers.unwrap().into_inner();
        loop {
            match answers.message().await {
                Ok(Some(RunBackupResponse { content: Some(Said::Mark(mark)) })) => {
                    let _ = say(Content::Time(WorkTime { mark, milliseconds: 7000 })).await;
                }
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    };
    // On this thread alone: others have the sockets of another host.
    cluster.hosts.within(host, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(limit, ask()).await.unwrap() })
    })
}

/// What the pooler of zone3 says to that of zone1 when it asks for a backup of its cell by this job; none when it makes it.
fn asked_by_zone1(cluster: &HostsCluster, job: &str) -> Option<tonic::Code> {
    call_for_backup(cluster, "db1", job, Duration::from_secs(30))
}

#[test]
fn a_call_for_a_backup_ends_with_its_job_whoever_goes_on_asking() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 3) else { return };
    // The job is recorded and has the lock, and nobody works on it but the call.
    let is_pooler =
        |pid: &i32| command_line(*pid).first().is_some_and(|program| program.ends_with("multipooler"));
    let pooler = cluster.hosts.processes("db2").into_iter().find(is_pooler).unwrap();
    signal(pooler, Signal::SIGSTOP);
    let job = cluster.json(&["backup", "--from", "zone2", "--type", "full", "--no-wait"]);
    let id = job["id"].as_str().unwrap();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| call_for_backup(&cluster, "db2", id, Duration::from_secs(120)));
        eventually("pgBackRest to work for the call", || backing_up(&cluster, "db3").is_some());
        // So that it does not end by itself.
        if let Some(pid) = backing_up(&cluster, "db3") {
            signal(pid, Signal::SIGSTOP);
        }
        let config = cluster.host_directory("db3").join("zone3/jobs").join(format!("{id}.conf"));
        assert!(config.exists());
        let second = call_for_backup(&cluster, "db2", id, Duration::from_secs(30));
        assert_eq!(second, Some(tonic::Code::Aborted), "two calls for one job");
        assert!(config.exists(), "that of the call that goes on");
        let _ = cluster.cellar(&["jobs", "cancel", id]).ok();
        let ended = call.join().unwrap();
        assert_eq!((ended, backing_up(&cluster, "db3")), (None, None), "pgBackRest goes on after its job");
    });
    signal(pooler, Signal::SIGCONT);
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
}

#[test]
fn a_call_for_a_backup_that_is_not_the_callers_is_refused() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 3) else { return };
    let denied = Some(tonic::Code::PermissionDenied);
    assert_eq!(asked_by_zone1(&cluster, "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00"), denied, "no such job");
    let job = cluster.json(&["backup", "--from", "zone2", "--no-wait"]);
    let id = job["id"].as_str().unwrap();
    eventually("the backup of zone2 to be made", || backing_up(&cluster, "db3").is_some());
    assert_eq!(asked_by_zone1(&cluster, id), denied, "another cell's");
    let _ = cluster.cellar(&["jobs", "watch", id]).ok();
    let own = cluster.json(&["backup", "--from", "zone1", "--allow-primary"]);
    // multiadmin takes the lock away from it a moment later.
    let has_ended = || asked_by_zone1(&cluster, own["id"].as_str().unwrap()) == denied;
    eventually("a job that has ended to be refused", has_ended);
}

#[test]
fn a_backup_at_the_repository_ends_with_its_job() {
    // That of the primary.
    let Some(cluster) = HostsCluster::well_with_repository_on("db1", 3, 3) else { return };
    let job = cluster.back_up("zone2");
    assert_eq!(hosts_in_log(&cluster, job["id"].as_str().unwrap()), ["", "db2.test:"], "{job}");
    let begin = || {
        let job = cluster.json(&["backup", "--from", "zone2", "--type", "full", "--no-wait"]);
        eventually("pgBackRest to work where the repository is", || backing_up(&cluster, "db1").is_some());
        (job["id"].as_str().unwrap().to_owned(), backing_up(&cluster, "db1"))
    };
    let ends_as = |id: &str, state: &str| {
        let has_ended = || cluster.json(&["jobs", "show", id])["state"] == state;
        eventually(&format!("the backup to be {state}"), has_ended);
        assert_eq!(backing_up(&cluster, "db1"), None, "pgBackRest goes on after its job");
    };
    let (id, _) = begin();
    let _ = cluster.cellar(&["jobs", "cancel", &id]).ok();
    ends_as(&id, "JOB_STATE_CANCELED");

    // Cut off from the cell whose backup it is: neither hears of the other, and it ends before its job does. It is stopped,
    // so that it does not end by itself.
    let (id, working) = begin();
    if let Some(pid) = working {
        signal(pid, Signal::SIGSTOP);
    }
    cluster.hosts.cut("db1", "db2");
    ends_as(&id, "JOB_STATE_FAILED");
    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
}

/// The host that runs pgBackRest falls silent: its sessions at the source and at the primary, which do not learn of it, keep
/// no lock for longer than the next backup waits.
#[test]
fn the_next_backup_succeeds_after_the_host_of_the_repository_was_cut_off_in_one() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 3) else { return };
    let job = cluster.json(&["backup", "--from", "zone2", "--type", "full", "--no-wait"]);
    let id = job["id"].as_str().unwrap();
    eventually("pgBackRest to work where the repository is", || backing_up(&cluster, "db3").is_some());
    let hold_locks = || ["db1", "db2"].iter().all(|host| !holders(&cluster, host).is_empty());
    eventually("its sessions at the primary and the source", hold_locks);
    if let Some(pid) = backing_up(&cluster, "db3") {
        signal(pid, Signal::SIGSTOP);
    }
    cluster.hosts.isolate("db3");
    let failed = cluster.ended(id, Duration::from_secs(90));
    assert_eq!(failed["state"], "JOB_STATE_FAILED", "{failed:#}");
    let message = failed["error"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("was lost while pgBackRest worked there"), "{failed:#}");
    eventually("the sessions at the primary and the source to end", || {
        ["db1", "db2"].iter().all(|host| holders(&cluster, host).is_empty())
    });
    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    cluster.back_up("zone2");
}

/// The main process of a host's PostgreSQL, as its data directory says.
fn postmaster(cluster: &HostsCluster, host: &str, cell: &str) -> Option<i32> {
    let pid_file = cluster.host_directory(host).join(cell).join("pg_data/postmaster.pid");
    std::fs::read_to_string(&pid_file).ok()?.lines().next()?.parse().ok()
}

/// Ends PostgreSQL of a host by a signal; its multipooler starts it again.
fn end_postgres(cluster: &HostsCluster, host: &str, cell: &str, how: Signal) {
    let before = postmaster(cluster, host, cell).unwrap();
    signal(before, how);
    let is_another = || postmaster(cluster, host, cell).is_some_and(|pid| pid != before);
    eventually("PostgreSQL to be started again", is_another);
}

/// How long it takes until a new multipooler of the primary says what its instance is, and how long until it has started
/// that again after it was killed.
fn time_to_recover(cluster: &HostsCluster) -> [Duration; 2] {
    let is_pooler =
        |pid: &i32| command_line(*pid).first().is_some_and(|program| program.ends_with("multipooler"));
    let pooler = || cluster.hosts.processes("db1").into_iter().find(is_pooler);
    let before = pooler().unwrap();
    signal(before, Signal::SIGKILL);
    eventually("the multipooler to be gone", || pooler() != Some(before));
    // While a host is down it says what is not well.
    let _ = cluster.on("db1", &["start"]);
    eventually("another multipooler", || pooler().is_some_and(|pid| pid != before));
    let begun = Instant::now();
    eventually("the status of the new multipooler", || {
        cluster.status("zone1").is_some_and(|now| now["pid"] != before && now["role"] == "ROLE_PRIMARY")
    });
    let reported = begun.elapsed();
    let begun = Instant::now();
    end_postgres(cluster, "db1", "zone1", Signal::SIGKILL);
    [reported, begun.elapsed()]
}

#[test]
fn without_the_host_of_the_repository_the_primary_is_watched_as_ever() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 3) else { return };
    let usual = time_to_recover(&cluster);
    let _ = cluster.wait().ok();
    cluster.hosts.isolate("db3");
    eventually("zone3 to be missed", || {
        cluster.status("zone3").is_none() && cluster.status("zone1").is_some()
    });
    let alone = time_to_recover(&cluster);
    for (usual, alone) in usual.into_iter().zip(alone) {
        // pgBackRest waits 20 s for its server, or longer.
        assert!(alone < usual + Duration::from_secs(12), "{alone:?}, and {usual:?} with that host");
    }
    eventually("the status to say why the stanza was not looked for", || {
        let message = cluster.status("zone1").map(|status| status["message"].to_string());
        message.is_some_and(|message| message.contains("pgBackRest's server in cell zone3 does not answer"))
    });
    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    eventually("the primary to be prepared", || {
        cluster.status("zone1").is_some_and(|status| status["message"] == "" || status["message"].is_null())
    });
    cluster.back_up("zone2");
}

#[test]
fn without_the_host_of_the_repository_wal_waits_and_what_needs_it_says_so() {
    let Some(cluster) = HostsCluster::well_with_repository_on("db3", 3, 3) else { return };
    let _ = cluster.sql("db1", "CREATE TABLE ledger (id int PRIMARY KEY)").ok();
    cluster.hosts.isolate("db3");
    eventually("zone3 to be missed", || {
        cluster.status("zone3").is_none() && cluster.status("zone1").is_some()
    });
    let _ = cluster.sql("db1", "INSERT INTO ledger SELECT generate_series(1, 100)").ok();
    let segment = cluster.sql("db1", "SELECT pg_walfile_name(pg_switch_wal())").ok().trim().to_owned();

    let refused = cluster.cellar(&["backup", "--from", "zone2"]).refused(3);
    assert!(refused.contains("cell zone3 is down") && refused.contains("cellar host start"), "{refused}");
    let refused = cluster.cellar(&["verify"]).refused(3);
    assert!(refused.contains("cell zone3 is down") && !refused.contains("another cell"), "{refused}");
    let unread = cluster.cellar(&["backups", "list"]);
    assert!(unread.code != 0 && unread.stderr.contains("on the host of cell zone3"), "{unread:?}");
    let drill = cluster.cellar(&["drill", "--on", "zone2"]);
    assert!(drill.code != 0 && drill.stderr.contains("on the host of cell zone3"), "{drill:?}");
    eventually("the status to say it", || {
        let status = cluster.cellar(&["status"]).stdout;
        status.contains("the repository is on the host of zone3") && status.contains("archiving fails since")
    });
    // The archive is not waited for: that took 80 s.
    end_postgres(&cluster, "db2", "zone2", Signal::SIGINT);
    let _ = cluster.sql("db1", "INSERT INTO ledger VALUES (101)").ok();
    cluster.wait_for_rows("db2", 101);
    // PostgreSQL has it still.
    let kept = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{segment}'");
    assert_eq!(cluster.sql("db1", &kept).ok().trim(), "1");

    cluster.hosts.heal_all();
    let _ = cluster.wait().ok();
    let _ = cluster.cellar(&["check"]).ok();
    let archived = "SELECT last_archived_wal >= '";
    eventually("the WAL to arrive", || {
        cluster.sql("db1", &format!("{archived}{segment}' FROM pg_stat_archiver")).stdout.trim() == "t"
    });
    cluster.back_up("zone2");
    let _ = cluster.cellar(&["verify"]).ok();
}
