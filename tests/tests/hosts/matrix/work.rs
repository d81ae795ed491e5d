//! What is under way when the network fails, and what must be true of it afterwards.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use cellar_tests::{HostsCluster, Ledger, Moment, cell_of, has_ended, wait_until};
use serde_json::Value;

/// How long a job may take to end after the network is whole: its own deadlines, on a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(240);

/// How long a job may take to come to a step while the network is whole.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);

/// The steps of a restore, as the kinds of their jobs are named.
pub(super) const STEPS: [&str; 6] = ["PLAN", "FENCE", "RECOVER", "SWAP", "REBUILD", "BACKUP"];

/// The host that has no cell before one is added to it.
const SPARE: &str = "db4";

/// What is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    /// Rows are written, as in all others too.
    Nothing,
    /// A backup of this host's cell.
    Backup(&'static str),
    /// A restore onto this host, to a point that is named just before, when it has come to this step.
    Restore { onto: &'static str, step: &'static str },
    /// This host gets new keys.
    Rotation(&'static str),
    /// A fourth cell is added.
    Addition,
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "nothing"),
            Self::Backup(host) => write!(f, "a backup of {host}"),
            Self::Restore { onto, step } => write!(f, "the {step} of a restore onto {onto}"),
            Self::Rotation(host) => write!(f, "new keys for {host}"),
            Self::Addition => write!(f, "a cell being added"),
        }
    }
}

/// A restore that was begun.
pub(super) struct Restore {
    id: String,
    before: Moment,
    after: Moment,
    timeline: u32,
}

#[track_caller]
fn begun(cluster: &HostsCluster, arguments: &[&str]) -> String {
    let job = cluster.json(&[arguments, &["--no-wait"]].concat());
    job["id"].as_str().unwrap_or_else(|| panic!("no job: {job}")).to_owned()
}

/// The timeline that the primary on a host writes.
#[track_caller]
fn timeline(cluster: &HostsCluster, primary: &str) -> u32 {
    let shown =
        cluster.sql(primary, "SELECT substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)").ok();
    u32::from_str_radix(shown.trim(), 16).unwrap()
}

/// Begins a backup, and waits until it is at work.
#[track_caller]
pub(super) fn begin_backup(cluster: &HostsCluster, host: &str) -> String {
    let id = begun(cluster, &["backup", "--from", &cell_of(host), "--type", "full", "--allow-primary"]);
    wait_until("the backup to begin", STEP_TIMEOUT, || {
        let job = cluster.job(&id)?;
        if job["state"] == "JOB_STATE_PENDING" { Err(format!("{job:#}")) } else { Ok(()) }
    });
    id
}

/// A backup has ended, and is what its job says.
#[track_caller]
pub(super) fn check_backup(cluster: &HostsCluster, host: &str, id: &str) -> String {
    let job = cluster.ended(id, END_TIMEOUT);
    cluster.check_backup(host, &job);
    told(&job)
}

/// How a job ended, in a word or two.
fn told(job: &Value) -> String {
    let state = job["state"].as_str().unwrap_or_default().trim_start_matches("JOB_STATE_");
    format!("{state} {}", job["error"]["code"].as_str().unwrap_or_default()).trim().to_lowercase()
}

/// Begins a restore to a point that is named now, and waits until it is at a step or past it.
#[track_caller]
pub(super) fn begin_restore(
    cluster: &HostsCluster,
    ledger: &Ledger,
    primary: &str,
    onto: &str,
    step: &str,
) -> Restore {
    let before = ledger.moment();
    let timeline = timeline(cluster, primary);
    let point = format!("before-row-{}", before.last());
    let _ = cluster.sql(primary, &format!("SELECT pg_create_restore_point('{point}')")).ok();
    let after = ledger.moment();
    let id = begun(cluster, &["restore", "--to-name", &point, "--onto", &cell_of(onto), "--yes"]);
    let kind = format!("JOB_KIND_{step}");
    wait_until(&format!("the restore to come to {step}"), STEP_TIMEOUT, || {
        let job = cluster.job(&id)?;
        let steps = job["steps"].as_array().map_or(&[][..], Vec::as_slice);
        let is_there = steps.iter().any(|step| step["kind"] == kind && step["state"] != "JOB_STATE_PENDING");
        if is_there || has_ended(&job) { Ok(()) } else { Err(format!("{job:#}")) }
    });
    Restore { id, before, after, timeline }
}

/// A restore has ended, and did what its job says. Gives how it ended, and the rows that must be gone.
#[track_caller]
pub(super) fn check_restore(
    cluster: &HostsCluster,
    ledger: &Ledger,
    (was, onto): (&str, &str),
    restore: &Restore,
) -> (String, BTreeSet<u64>) {
    let job = cluster.ended(&restore.id, END_TIMEOUT);
    let primary = cluster.wait_streaming(END_TIMEOUT);
    let now = timeline(cluster, &primary);
    if job["state"] == "JOB_STATE_SUCCEEDED" {
        let result = &job["result"]["restore"];
        assert_eq!(result["cell"], cell_of(onto), "{job:#}");
        assert_eq!(primary, onto, "{job:#}");
        assert_eq!(result["recovery"]["timeline"], now, "{job:#}");
        let gone = ledger.restored(&restore.before, &restore.after, now);
        let _ = cluster.cellar(&["restore", "confirm", &restore.id, "--yes"]).ok();
        return ("succeeded".to_owned(), gone);
    }
    let message = job["error"]["message"].as_str().unwrap_or_default();
    if message.contains("as it was before") {
        assert_eq!((primary.as_str(), now), (was, restore.timeline), "{job:#}");
        return (told(&job), BTreeSet::new());
    }
    // The restore is done, and only what follows it is not, such as its first backup.
    assert!(message.contains("restored"), "{job:#}");
    assert!(now > restore.timeline && primary == onto, "{primary} has timeline {now}: {job:#}");
    (told(&job), ledger.restored(&restore.before, &restore.after, now))
}

/// Issues and installs new keys of a host; whether that was done.
pub(super) fn rotate(cluster: &HostsCluster, host: &str) -> Result<(), String> {
    let issued = cluster.cellar(&["cluster", "bundle", &cell_of(host), "--new-keys"]);
    if issued.code != 0 {
        return Err(issued.stderr);
    }
    let key = cluster.host_directory(host).join(cell_of(host)).join("tls/server.key");
    let read = || std::fs::read_to_string(&key).unwrap();
    let old = read();
    let installed = cluster.install(host);
    if installed.code != 0 {
        return Err(installed.stderr);
    }
    assert_ne!(read(), old, "the key of {host} is the old one: {installed:?}");
    Ok(())
}

/// Adds a fourth cell with its host; whether that was done.
pub(super) fn add(cluster: &HostsCluster) -> Result<(), String> {
    let (cell, directory) = (cell_of(SPARE), cluster.host_directory(SPARE).display().to_string());
    let (name, host) = (cell.as_str(), format!("{SPARE}.test"));
    let commands: [&dyn Fn() -> cellar_tests::Finished; 3] = [
        &|| cluster.cellar(&["cells", "add", name, "--host", &host, "--host-directory", &directory]),
        &|| cluster.install(SPARE),
        &|| cluster.on(SPARE, &["start"]),
    ];
    for command in commands {
        let finished = command();
        if finished.code != 0 {
            return Err(finished.stderr);
        }
    }
    Ok(())
}

/// The fourth cell is as good as the others; and is removed again.
#[track_caller]
pub(super) fn check_added(cluster: &HostsCluster) {
    let _ = cluster.wait().ok();
    let cell = cell_of(SPARE);
    let _ = cluster.back_up(&cell);
    let _ = cluster.cellar(&["cells", "remove", &cell]).ok();
    let _ = cluster.on(SPARE, &["remove", "--delete-data"]).ok();
}
