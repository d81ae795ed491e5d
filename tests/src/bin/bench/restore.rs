//! What Cellar adds to a restore by hand, and what a drill costs the instance beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, as_user, children_named, kill_hard, postgres_user, rss_kib, run, wait_for};

use crate::figure::{Limit, Report, in_turns, note, ratio};

const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

/// pgbench's scale of a database of 1 GiB.
const GIBIBYTE: u32 = 66;

/// Rounds of what takes some seconds and is much the same each time.
const ROUNDS: usize = 6;

/// Rounds of what swings with everything else on the machine.
const DRILL_ROUNDS: usize = 7;

/// Longest wait for anything here.
const TEST_TIMEOUT: Duration = Duration::from_secs(300);

/// A member of a cluster whose poolers are dead, worked on as a person with a shell would.
struct ByHand {
    sockets: String,
    port: u32,
    data: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl ByHand {
    fn new(cluster: &Cluster, cell: &str) -> Self {
        let instance = cluster.instance(cell);
        let directory = cluster.directory().join(cell);
        Self {
            sockets: instance.sockets,
            port: instance.port,
            data: PathBuf::from(instance.data),
            config: directory.join("pgbackrest.conf"),
            log: directory.join("log/by-hand.log"),
        }
    }

    fn shell(program: &str, arguments: &[&str]) {
        let mut command = as_user(&postgres_user(), program);
        command.args(arguments).current_dir("/").env("LC_ALL", "C").env("TZ", "UTC");
        let _ = run(&mut command).ok();
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        Self::pg_ctl_on(&self.data, arguments);
    }

    fn pg_ctl_on(data: &Path, arguments: &[&str]) {
        let data = data.display().to_string();
        let all = [arguments, &["-D", &data]].concat();
        Self::shell(&pg_ctl(), &all);
    }

    fn sql(&self, sql: &str) -> String {
        let mut command = as_user(&postgres_user(), "psql");
        command.args(["-h", &self.sockets, "-p", &self.port.to_string(), "-d", "postgres", "-XAtqc", sql]);
        run(&mut command).stdout.trim().to_owned()
    }

    /// Restores into an empty directory, with the settings of another one.
    fn restore(&self, into: &Path, settings: &Path, options: &[&str]) {
        let text = |path: &Path| path.display().to_string();
        Self::shell("mkdir", &["-m", "700", &text(into)]);
        self.pgbackrest(&[&[format!("--pg1-path={}", text(into)).as_str()], options].concat());
        for file in ["cellar.conf", "pg_hba.conf", "pg_ident.conf"] {
            Self::shell("cp", &[&text(&settings.join(file)), &text(&into.join(file))]);
        }
    }

    fn rename(from: &Path, to: &Path) {
        Self::shell("mv", &[&from.display().to_string(), &to.display().to_string()]);
    }

    fn pgbackrest(&self, options: &[&str]) {
        let config = format!("--config={}", self.config.display());
        let all = [&[config.as_str(), "--stanza=app"], options, &["restore"]].concat();
        Self::shell("pgbackrest", &all);
    }

    fn start(&self) {
        Self::pg_ctl_on(
            &self.data,
            &["start", "-w", "-s", "-t", "300", "-l", &self.log.display().to_string()],
        );
    }
}

/// PostgreSQL's own `pg_ctl`, which Debian keeps off the PATH.
fn pg_ctl() -> String {
    match cellar_postgres::Tools::find(None) {
        Ok(tools) => tools.bindir().join("pg_ctl").display().to_string(),
        Err(error) => panic!("{error}"),
    }
}

/// Kills the poolers, which would undo what is done by hand. PostgreSQL goes on.
fn by_hand(cluster: &Cluster) -> Vec<ByHand> {
    let members = CELLS.iter().map(|cell| ByHand::new(cluster, cell)).collect();
    for cell in CELLS {
        kill_hard(cluster.pid(&format!("{cell}/pid/multipooler.pid")));
    }
    members
}

fn since(begun: Instant, what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    wait_for(what, TEST_TIMEOUT, || condition().then(|| begun.elapsed()))
}

fn loaded(scale: u32) -> Cluster {
    let cluster = Cluster::bootstrapped("zone1,zone2,zone3");
    cluster.load(scale);
    let _ = cluster.backup("zone2", "full");
    cluster
}

/// A time after the backup, with commits after it.
fn moment(cluster: &Cluster) -> String {
    std::thread::sleep(Duration::from_millis(1500));
    let time = cluster.sql(
        "zone1",
        "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')",
    );
    let _ = run(&mut cluster.tool("pgbench", "zone1", &["-n", "-c", "1", "-t", "200"])).ok();
    time
}

const WRITABLE: &str = "CREATE TEMP TABLE t (); SELECT 'writable'";

/// Returns when two standbys stream. The primary waits by itself: beside a client that connects again and again a
/// restore took a third longer (measured on two processors).
const STREAMING: &str = "SET statement_timeout = '300s';
    DO $$ BEGIN
        WHILE (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming') < 2 LOOP
            PERFORM pg_sleep(0.02), pg_stat_clear_snapshot();
        END LOOP;
    END $$;
    SELECT 'all stream'";

/// Lets a round begin as every other does: what was written before it is on the disk, and the disk has been told of
/// what was deleted.
fn settle() {
    let _ = run(&mut Command::new("sync")).ok();
    let mut before = disk_sectors();
    wait_for("the disks to be quiet", TEST_TIMEOUT, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = disk_sectors();
        let quiet = now - before < 2048;
        before = now;
        quiet.then_some(())
    });
}

/// Sectors of 512 bytes that all disks have written and discarded (proc_diskstats(5): fields 10 and 18).
fn disk_sectors() -> u64 {
    let text = match std::fs::read_to_string("/proc/diskstats") {
        Ok(text) => text,
        Err(error) => panic!("/proc/diskstats: {error}"),
    };
    let of = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        [9, 17].iter().filter_map(|&at| fields.get(at)?.parse::<u64>().ok()).sum::<u64>()
    };
    text.lines().map(of).sum()
}

/// A 1 GiB database restored to a time on three cells, against the same commands from a script: restored beside the
/// old data, recovered to the target and looked at, promoted, swapped, and the others restored from the same backup.
///
/// Both on the same cluster in turns, and each undone after its round: what is on which part of the disk, and what of
/// it is in memory, makes more of a difference than who types.
pub(crate) fn to_a_time(report: &mut Report) {
    let cluster = loaded(GIBIBYTE);
    let time = moment(&cluster);
    let set = newest_backup(&cluster);
    let (mut ours, mut theirs) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let cellar = || {
        settle();
        let (writable, streaming, job) = by_cellar(&cluster, &time);
        ours.0.push(writable);
        ours.1.push(streaming);
        let ended = cluster.ended(&job);
        assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
        let _ = cluster.cellar(&["restore", "rollback", &job, "--yes"]);
    };
    let script = || {
        let members = by_hand(&cluster);
        settle();
        let (writable, streaming) = by_script(&members, &time, &set);
        theirs.0.push(writable);
        theirs.1.push(streaming);
        restore_archive(&members, &cluster.archive());
        let _ = cluster.cellar(&["up"]);
        CELLS[1..].iter().for_each(|cell| cluster.wait_streaming(cell));
    };
    in_turns(ROUNDS, cellar, script);
    let writable = ratio(("cellar restore until writable", &ours.0), ("script until writable", &theirs.0));
    report.figure("pitr_rto", writable, "ratio", Limit::AtMost(1.10));
    let all = ratio(("cellar restore until all stream", &ours.1), ("script until all stream", &theirs.1));
    report.figure("pitr_all_streaming", all, "ratio", Limit::AtMost(1.10));
}

fn newest_backup(cluster: &Cluster) -> String {
    let listed = cluster.json(&["backups", "list"]);
    let labels =
        listed["backups"].as_array().into_iter().flatten().filter_map(|backup| backup["label"].as_str());
    match labels.max() {
        Some(label) => label.to_owned(),
        None => panic!("no backups: {listed}"),
    }
}

fn by_cellar(cluster: &Cluster, time: &str) -> (Duration, Duration, String) {
    let postmaster = cluster.postmaster("zone1");
    let begun = Instant::now();
    let job = cluster.json(&["restore", "--to-time", time, "--onto", "zone1", "--yes", "--no-wait"]);
    let Some(id) = job["id"].as_str().map(str::to_owned) else { panic!("no job: {job}") };
    // The old primary answers until it is fenced: another process must.
    let replaced = || {
        let path = cluster.directory().join("zone1/pg_data/postmaster.pid");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().next().and_then(|pid| pid.parse::<i32>().ok()).is_some_and(|pid| pid != postmaster)
    };
    let writable = since(begun, "the restored primary to be writable", || {
        replaced() && cluster.try_sql("zone1", WRITABLE).stdout.contains("writable")
    });
    let streaming = since(begun, "the standbys to stream", || {
        cluster.try_sql("zone1", STREAMING).stdout.contains("all stream")
    });
    (writable, streaming, id)
}

fn aside(member: &ByHand) -> PathBuf {
    member.data.with_extension("aside")
}

/// Stops everybody and puts the old data back, as a rollback by hand would. What the restored primary archived goes, or
/// the old standbys would follow its timeline.
fn restore_archive(members: &[ByHand], archive: &Path) {
    let [primary, ..] = members else { panic!("no members") };
    let timeline =
        primary.sql("SELECT upper(lpad(to_hex(timeline_id), 8, '0')) FROM pg_control_checkpoint()");
    for member in members {
        member.pg_ctl(&["stop", "-m", "fast", "-w", "-s"]);
        ByHand::shell("rm", &["-rf", &member.data.display().to_string()]);
        ByHand::rename(&aside(member), &member.data);
    }
    for name in [format!("{timeline}.history"), format!("{timeline}00000000")] {
        ByHand::shell("rm", &["-r", &archive.join(name).display().to_string()]);
    }
}

fn by_script(members: &[ByHand], time: &str, set: &str) -> (Duration, Duration) {
    let [primary, standbys @ ..] = members else { panic!("no members") };
    let begun = Instant::now();
    primary.pg_ctl(&["stop", "-m", "fast", "-w", "-s"]);
    // Before there is a new timeline, which they would follow and then be of no use to whoever changes his mind.
    std::thread::scope(|scope| {
        for standby in standbys {
            scope.spawn(|| standby.pg_ctl(&["stop", "-m", "fast", "-w", "-s"]));
        }
    });
    let target = format!("--target={}", time.replace('T', " ").replace('Z', "+00"));
    let set = format!("--set={set}");
    let options = [&set, "--type=time", &target, "--target-action=pause", "--target-timeline=current"];
    let restored = primary.data.with_extension("restored");
    primary.restore(&restored, &primary.data, &options);
    let log = primary.log.display().to_string();
    // Without a command the archiver leaves what there is for later, and does not try it again and again.
    let private = "-c listen_addresses='' -c archive_command=''";
    ByHand::pg_ctl_on(&restored, &["start", "-w", "-s", "-t", "300", "-l", &log, "-o", private]);
    let _ = since(begun, "the target to be reached", || {
        primary.sql("SELECT pg_get_wal_replay_pause_state()") == "paused"
    });
    let _ = primary.sql("SELECT pg_wal_replay_resume()");
    let _ = since(begun, "the recovery to end", || primary.sql("SELECT pg_is_in_recovery()") == "f");
    ByHand::pg_ctl_on(&restored, &["stop", "-m", "fast", "-w", "-s"]);
    ByHand::rename(&primary.data, &aside(primary));
    ByHand::rename(&restored, &primary.data);
    primary.start();
    let writable =
        since(begun, "the restored primary to be writable", || primary.sql(WRITABLE).contains("writable"));
    // A standby that is restored before the first segment of the new timeline is in the archive replays the rest of
    // the old one's and never streams: whoever types this by hand looks first.
    let _ = primary.sql("SELECT pg_switch_wal()");
    let _ = since(begun, "the new timeline to be archived", || {
        primary.sql("SELECT last_archived_wal !~ 'history' FROM pg_stat_archiver") == "t"
    });
    std::thread::scope(|scope| {
        for standby in standbys {
            let set = &set;
            scope.spawn(move || {
                ByHand::rename(&standby.data, &aside(standby));
                standby.restore(&standby.data, &aside(standby), &[set, "--type=standby"]);
                standby.start();
            });
        }
    });
    let streaming = since(begun, "the standbys to stream", || primary.sql(STREAMING).contains("all stream"));
    (writable, streaming)
}

/// `cellar rebuild` against `pgbackrest restore --delta` and a start by hand.
pub(crate) fn rebuild(report: &mut Report) {
    const SCALE: u32 = 20;
    let (cluster, other) = (loaded(SCALE), loaded(SCALE));
    let members = by_hand(&other);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let cellar = || {
        let begun = Instant::now();
        let _ = cluster.cellar(&["rebuild", "zone2"]);
        ours.push(begun.elapsed());
    };
    let script = || {
        let [primary, standby, ..] = members.as_slice() else { panic!("no members") };
        let begun = Instant::now();
        standby.pg_ctl(&["stop", "-m", "fast", "-w", "-s"]);
        let conf = std::fs::read(standby.data.join("cellar.conf"));
        standby.pgbackrest(&["--delta", "--type=standby"]);
        if let Ok(conf) = conf
            && let Err(error) = std::fs::write(standby.data.join("cellar.conf"), conf)
        {
            panic!("{error}");
        }
        standby.start();
        let names =
            "SELECT string_agg(application_name, ',') FROM pg_stat_replication WHERE state = 'streaming'";
        theirs.push(since(begun, "the standby to stream", || primary.sql(names).contains("zone2")));
    };
    in_turns(ROUNDS + 1, cellar, script);
    for member in &members {
        member.pg_ctl(&["stop", "-m", "immediate", "-s"]);
    }
    let ratio = ratio(("cellar rebuild", &ours), ("by hand", &theirs));
    report.figure("rebuild_overhead", ratio, "ratio", Limit::AtMost(1.15));
}

/// Transactions per second that pgbench reports.
fn throughput(command: &mut Command) -> f64 {
    let output = run(command).ok();
    let line = output.lines().find_map(|line| line.strip_prefix("tps = "));
    match line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()) {
        Some(tps) => tps,
        None => panic!("no tps in {output}"),
    }
}

/// pgbench on a primary while drills run beside it one after the other, against pgbench alone.
pub(crate) fn drill_cost(report: &mut Report) {
    const SECONDS: &str = "12";
    let cluster = loaded(20);
    let bench =
        || throughput(&mut cluster.tool("pgbench", "zone1", &["-n", "-c", "4", "-j", "2", "-T", SECONDS]));
    let _ = bench();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..DRILL_ROUNDS {
        alone.push(bench());
        let done = AtomicBool::new(false);
        beside.push(std::thread::scope(|scope| {
            let drills = scope.spawn(|| {
                let mut count = 0;
                while !done.load(Ordering::Relaxed) {
                    let _ = cluster.cellar(&["drill", "--on", "zone1"]);
                    count += 1;
                }
                count
            });
            let tps = bench();
            done.store(true, Ordering::Relaxed);
            let count = drills.join().unwrap_or(0);
            assert!(count > 0, "no drill ran");
            tps
        }));
    }
    let median = |samples: &[f64]| {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    note(&format!("  tps alone {alone:.0?}, beside drills {beside:.0?}"));
    report.figure("drill_cost", median(&beside) / median(&alone), "ratio", Limit::AtLeast(0.85));
}

/// Memory of a drill's PostgreSQL whose database has 3 GiB of shared buffers, while it runs a check. Pages that its
/// processes share count once for each.
pub(crate) fn drill_memory(report: &mut Report) {
    const CHECK: &str = "SELECT true FROM pg_sleep(600)";
    let cluster = loaded(20);
    cluster.sql("zone1", "ALTER SYSTEM SET shared_buffers = '3GB'");
    let _ = cluster.backup("zone1", "full");
    let job = cluster.json(&[
        "drill",
        "--on",
        "zone1",
        "--max-rate",
        "0",
        "--no-wait",
        "--skip-amcheck",
        "--check",
        CHECK,
    ]);
    let id = job["id"].as_str().unwrap_or_default().to_owned();
    let running = || cluster.job(&id)["progress"]["phase"] == "running check 1 of 1";
    wait_for("the drill to run its check", Duration::from_secs(120), || running().then_some(()));
    let file = cluster.directory().join("zone1/drills").join(&id).join("data/postmaster.pid");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let Some(postmaster) = text.lines().next().and_then(|line| line.trim().parse().ok()) else {
        panic!("the drill has no PostgreSQL")
    };
    let rss = |pid: i32| f64::from(rss_kib(pid)) / 1024.0;
    let all = children_named(postmaster, "postgres").into_iter().map(rss).sum::<f64>() + rss(postmaster);
    report.figure("drill_memory", all, "MiB", Limit::AtMost(300.0));
    cluster.cellar(&["jobs", "cancel", &id]);
    let _ = cluster.ended(&id);
}
