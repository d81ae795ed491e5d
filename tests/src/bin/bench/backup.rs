//! What Cellar adds to pgBackRest, and what a dead cell costs.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_model::{BackupType, Database, Pooler};
use cellar_pgbackrest::{Invocation, render_job};
use cellar_tests::{Cluster, as_user, postgres_user, run, wait_for};

use crate::figure::{Limit, Report, in_turns, ratio};

const ROUNDS: usize = 7;

/// Size of the database: pgbench's scale, 16 MB each.
const SCALE: u32 = 10;

fn took(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn record<R: serde::de::DeserializeOwned>(cluster: &Cluster, key: &str) -> R {
    let text = cluster.etcd_get(&format!("/cellar/demo/{key}"));
    match serde_json::from_str(&text) {
        Ok(record) => record,
        Err(error) => panic!("{key}: {error}: {text}"),
    }
}

/// The same little work before every backup, so that each has something to copy.
fn change(cluster: &Cluster) {
    let _ = run(&mut cluster.tool("pgbench", "zone1", &["-n", "-c", "1", "-t", "100"])).ok();
}

/// A cluster with data, and a first incremental backup of `cell` that copies what the load wrote.
fn loaded(cell: &str) -> Cluster {
    let cluster = Cluster::bootstrapped("zone1,zone2,zone3");
    cluster.load(SCALE);
    let _ = cluster.backup(cell, "incr");
    cluster
}

/// pgBackRest as a person would run it, with what a job would give it.
struct ByHand {
    arguments: Vec<String>,
    directory: PathBuf,
}

impl ByHand {
    fn new(cluster: &Cluster) -> Self {
        let database: Database = record(cluster, "databases/app");
        let local: Pooler = record(cluster, "poolers/app/zone2");
        let primary: Pooler = record(cluster, "poolers/app/zone1");
        let directory = cluster.directory().join("zone2/jobs");
        let config = directory.join("by-hand.conf");
        let user = postgres_user();
        let written = render_job(&database, &local, Some(&primary), None)
            .map_err(std::io::Error::other)
            .and_then(|text| std::fs::write(&config, text))
            .and_then(|()| std::os::unix::fs::chown(&config, Some(user.uid), Some(user.gid)));
        if let Err(error) = written {
            panic!("{}: {error}", config.display());
        }
        let annotations =
            [("cellar-cell", "zone2"), ("cellar-job", "by-hand")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let invocation = Invocation::backup(&config, &database.stanza, BackupType::Incr, &annotations);
        Self { arguments: invocation.argv(), directory }
    }

    fn run(&self) {
        let log = self.directory.join("by-hand.log");
        let mut open = File::options();
        open.append(true).create(true).mode(0o600);
        let (Ok(out), Ok(err)) = (open.open(&log), open.open(&log)) else { panic!("{}", log.display()) };
        let mut command = as_user(&postgres_user(), "pgbackrest");
        command.args(&self.arguments).current_dir(&self.directory).env("LC_ALL", "C").env("TZ", "UTC");
        let ended = command.stdin(std::process::Stdio::null()).stdout(out).stderr(err).status();
        assert!(
            ended.as_ref().is_ok_and(std::process::ExitStatus::success),
            "{ended:?}: see {}",
            log.display()
        );
    }
}

/// `cellar backup` against `pgbackrest backup` with the same config, arguments and instance.
pub(crate) fn overhead(report: &mut Report) {
    let cluster = loaded("zone2");
    let hand = ByHand::new(&cluster);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let by_cellar = || {
        change(&cluster);
        ours.push(took(|| drop(cluster.cellar(&["backup", "--from", "zone2", "--type", "incr"]))));
    };
    let by_hand = || {
        change(&cluster);
        theirs.push(took(|| hand.run()));
    };
    in_turns(ROUNDS, by_cellar, by_hand);
    let ratio = ratio(("cellar backup", &ours), ("pgbackrest by hand", &theirs));
    report.figure("backup_overhead", ratio, "ratio", Limit::AtMost(1.10));
}

/// A backup of zone3 in a cluster whose zone2 is dead, against the same with all cells alive.
pub(crate) fn dead_cell(report: &mut Report) {
    let (whole, maimed) = (loaded("zone3"), loaded("zone3"));
    maimed.kill_cell("zone2");
    let backup = |cluster: &Cluster| {
        change(cluster);
        took(|| drop(cluster.cellar(&["backup", "--from", "zone3", "--type", "incr"])))
    };
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    in_turns(ROUNDS, || alive.push(backup(&whole)), || dead.push(backup(&maimed)));
    let ratio = ratio(("zone2 dead", &dead), ("all alive", &alive));
    report.figure("dead_cell", ratio, "ratio", Limit::AtMost(1.15));
}

/// Seconds from the moment at which a cell dies in the middle of its backup until the backup of another cell begins.
pub(crate) fn dead_cell_blocking(report: &mut Report) {
    let cluster = Cluster::bootstrapped("zone1,zone2,zone3");
    cluster.load(SCALE);
    let lost = cluster.begin_backup("zone2", "full");
    wait_for("the backup to copy", Duration::from_secs(60), || {
        cluster.log_of("zone2", &lost).contains("DETAIL: backup file").then_some(())
    });
    let begun = Instant::now();
    cluster.kill_cell("zone2");
    let next = cluster.json(&["backup", "--from", "zone3", "--queue", "--no-wait"]);
    let next = next["id"].as_str().unwrap_or_else(|| panic!("no job: {next}"));
    wait_for("the backup of zone3 to begin", Duration::from_secs(300), || {
        (cluster.job(next)["state"] != "JOB_STATE_PENDING").then_some(())
    });
    let waited = begun.elapsed().as_secs_f64();
    let _ = cluster.ended(next);
    let limit = f64::from(cellar_model::CLAIM_LEASE_SECONDS) + 15.0;
    report.figure("dead_cell_blocking", waited, "s", Limit::AtMost(limit));
}
