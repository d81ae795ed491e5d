//! Invariant 1: asked for cell X, a backup copies X's files or fails.

use std::time::{Duration, Instant};

use cellar_tests::{Cluster, eventually, signal};
use nix::sys::signal::Signal;

fn backup_count(cluster: &Cluster) -> usize {
    cluster.json(&["backups", "list"])["backups"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_source_that_is_down_is_refused_and_nothing_is_copied() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let before = backup_count(&cluster);
    // PostgreSQL alone: its pooler lives and would raise it again, so the pooler goes first.
    cluster.kill_cell("zone2");
    eventually("zone2 to be seen down", || cluster.status("zone2").is_none());
    let message = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(3);
    assert!(message.contains("zone2") && message.contains("down"), "{message}");
    assert_eq!(backup_count(&cluster), before);
    // A dead cell costs the others nothing: pgBackRest would wait two minutes for it.
    let begun = Instant::now();
    let job = cluster.backup("zone3", "incr");
    assert_eq!(job["result"]["backup"]["source"]["cell"], "zone3");
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
}

#[test]
fn a_frozen_standby_is_not_a_standby() {
    let cluster = Cluster::up("zone1,zone2");
    let before = backup_count(&cluster);
    let postmaster = cluster.postmaster("zone2");
    // The postmaster and everything it has forked: connections are accepted by the kernel and never answered.
    let frozen = cellar_tests::processes_with("postgres", "").into_iter().filter(|pid| {
        std::fs::read_link(format!("/proc/{pid}/cwd"))
            .is_ok_and(|cwd| cwd == std::path::Path::new(&cluster.instance("zone2").data))
    });
    let frozen: Vec<i32> = frozen.collect();
    assert!(frozen.contains(&postmaster));
    for pid in &frozen {
        signal(*pid, Signal::SIGSTOP);
    }
    let finished = cluster.try_cellar(&["backup", "--from", "zone2"]);
    for pid in &frozen {
        signal(*pid, Signal::SIGCONT);
    }
    assert!(matches!(finished.code, 1 | 3), "{finished:?}");
    assert_eq!(backup_count(&cluster), before);
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn a_primary_is_refused_unless_allowed() {
    let cluster = Cluster::up("zone1,zone2");
    let message = cluster.try_cellar(&["backup", "--from", "zone1"]).refused(3);
    assert!(message.contains("primary") && message.contains("--allow-primary"), "{message}");
    let job = cluster.json(&["backup", "--from", "zone1", "--type", "incr", "--allow-primary"]);
    let source = &job["result"]["backup"]["source"];
    assert_eq!(source["cell"], "zone1", "{job:#}");
    assert_eq!(source["verified"], true);
    assert!(source["filesFromPrimary"].as_str().is_none_or(|count| count == "0"), "{source:#}");
}

/// The trap that pgBackRest does not see: a config whose pg1-path is another directory on the right port.
#[test]
fn a_path_that_is_not_the_instances_is_refused() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let before = backup_count(&cluster);
    // zone3's data directory by another name: the topology says one, the instance another.
    let data = cluster.instance("zone3").data;
    let elsewhere = cluster.instance("zone2").data;
    let settings =
        || std::fs::read_to_string(format!("{elsewhere}/cellar.conf")).expect("zone2 has settings");
    let untouched = settings();
    let message = lie_about_the_data_directory(&cluster, "zone3", &elsewhere);
    assert!(message.contains(&data), "{message}");
    assert_eq!(backup_count(&cluster), before);
    assert_eq!(settings(), untouched, "zone3's pooler must not touch zone2's files");
    // The lie is withdrawn, and all goes on.
    cluster.wait_streaming("zone3");
    let _ = cluster.backup("zone3", "incr");
}

/// Writes a pooler record with another data directory into etcd, as a hostile or mistaken operator
/// might, asks for a backup, and returns what the job or the refusal says.
fn lie_about_the_data_directory(cluster: &Cluster, cell: &str, elsewhere: &str) -> String {
    let key = format!("/cellar/{}/poolers/{}/{cell}", cluster_name(cluster), database(cluster));
    let record = cluster.etcd_get(&key);
    let mut value: serde_json::Value = serde_json::from_str(&record).expect("a record");
    value["dataDirectory"] = elsewhere.into();
    cluster.etcd_put(&key, &value.to_string());
    eventually("the pooler to see the lie", || {
        cluster.status(cell).is_some_and(|status| status.message.contains(elsewhere))
    });
    let finished = cluster.try_cellar(&["backup", "--from", cell]);
    cluster.etcd_put(&key, &record);
    assert!(matches!(finished.code, 1 | 3), "{finished:?}");
    finished.stderr
}

fn cluster_name(cluster: &Cluster) -> String {
    cluster.etcd_keys().first().and_then(|key| key.split('/').nth(2)).expect("a cluster").to_owned()
}

fn database(cluster: &Cluster) -> String {
    cluster.poolers()[0].pooler.as_ref().expect("a card").database.clone()
}

#[test]
fn backup_is_refused_when_the_standby_streams_from_another_primary() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let before = backup_count(&cluster);
    // zone3 is made to stream from zone2, a cascade that Cellar did not set up.
    let (zone1, zone2) = (cluster.instance("zone1").port, cluster.instance("zone2").port);
    let conninfo = cluster.sql("zone3", "SHOW primary_conninfo");
    let cascaded = conninfo.replace(&zone1.to_string(), &zone2.to_string());
    assert_ne!(conninfo, cascaded);
    let quoted = cascaded.replace('\'', "''");
    cluster.sql("zone3", &format!("ALTER SYSTEM SET primary_conninfo = '{quoted}'"));
    cluster.sql("zone3", "SELECT pg_reload_conf()");
    eventually("zone3 to be seen streaming from zone2", || {
        cluster.status("zone3").is_some_and(|status| status.streams_from.as_deref() == Some("zone2"))
    });
    let message = cluster.try_cellar(&["backup", "--from", "zone3"]).refused(3);
    assert!(message.contains("zone2") && message.contains("zone1"), "{message}");
    assert_eq!(backup_count(&cluster), before);
}

#[test]
fn a_standby_that_lags_is_refused() {
    let cluster = Cluster::up("zone1,zone2");
    cluster.sql("zone2", "SELECT pg_wal_replay_pause()");
    cluster.load(3);
    let finished = cluster.try_cellar(&["backup", "--from", "zone2", "--max-lag", "1MiB"]);
    cluster.sql("zone2", "SELECT pg_wal_replay_resume()");
    assert!(matches!(finished.code, 1 | 3), "{finished:?}");
    assert!(finished.stderr.contains("behind"), "{}", finished.stderr);
}
