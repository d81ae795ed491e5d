//! Who changed what: in the list, and complete in the log file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use serde_json::Value;

fn log_path(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("log/audit.log")
}

/// The lines of the log: each a JSON object.
fn lines(cluster: &Cluster) -> Vec<Value> {
    let text = std::fs::read_to_string(log_path(cluster)).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// What `cellar audit list` answers, newest first.
fn list(cluster: &Cluster, filter: &[&str]) -> Vec<Value> {
    let answer = cluster.json(&[&["audit", "list", "--limit", "1000"], filter].concat());
    answer["records"].as_array().cloned().unwrap_or_default()
}

fn is(record: &Value, rpc: &str, outcome: &str) -> bool {
    record["rpc"] == rpc && record["outcome"] == format!("AUDIT_OUTCOME_{outcome}").as_str()
}

/// Asks for a restore with the certificate in `directory`, and is refused.
fn restore_as(directory: &Path, endpoint: &str) -> tonic::Status {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        cellar_tls::install_ring_provider();
        let tls = cellar_tls::ClientTls::from_dir(directory).unwrap();
        let channel = tls.endpoint(endpoint, Some(Duration::from_secs(30))).unwrap().connect_lazy();
        let latest = v1::restore_target::Target::Latest(v1::LatestTarget {});
        let target = Some(v1::RestoreTarget { target: Some(latest) });
        let request = v1::RestoreDatabaseRequest { target, ..Default::default() };
        MultiAdminClient::new(channel).restore_database(request).await.unwrap_err()
    })
}

#[test]
fn every_change_and_every_refusal_is_on_record() {
    let cluster = Cluster::up("zone1,zone2");
    let before = lines(&cluster).len();
    let viewer = cluster.directory().join("given-bob");
    let out = viewer.display().to_string();
    cluster.cellar(&["certs", "issue", "--role", "viewer", "--name", "bob", "--out", &out]);
    let endpoint = std::fs::read_to_string(viewer.join("endpoint")).unwrap();
    let as_bob = |arguments: &[&str]| {
        cluster.try_cellar(&[arguments, &["--admin", endpoint.trim(), "--client-dir", &out]].concat())
    };

    // A backup, a restore that its caller may not ask for, a cell that is not there, and a job that is canceled.
    let backup = cluster.backup("zone2", "incr")["id"].as_str().unwrap().to_owned();
    // The command would ask for a plan first, and be refused that.
    let status = restore_as(&viewer, endpoint.trim());
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status}");
    let _ = cluster.try_cellar(&["backup", "--from", "zone9", "--request-id", "nightly-7"]).refused(2);
    let canceled = cluster.begin_backup("zone2", "full");
    // It may have ended by itself in the meantime, which is on record all the same.
    let cancel = cluster.try_cellar(&["jobs", "cancel", &canceled]);

    let ended = if cancel.code == 0 { "ALLOWED" } else { "FAILED" };
    let expected = [
        ("Backup", "ALLOWED"),
        ("RestoreDatabase", "REFUSED"),
        ("Backup", "FAILED"),
        ("Backup", "ALLOWED"),
        ("CancelJob", ended),
    ];
    // The file had each before its answer; what etcd has follows.
    let told: Vec<Value> = lines(&cluster).split_off(before);
    let ends: Vec<Value> =
        told.iter().filter(|line| line["outcome"] != "AUDIT_OUTCOME_BEGUN").cloned().collect();
    assert_eq!(ends.len(), expected.len(), "{ends:#?}");
    let listed = wait_for("etcd to have them all", Duration::from_secs(30), || {
        let mut found = list(&cluster, &[]);
        found.reverse();
        let at = found.len().checked_sub(ends.len())?;
        (found[at..] == ends[..]).then(|| found.split_off(at))
    });
    let me = ends[0]["identity"].as_str().unwrap().to_owned();
    assert!(me.starts_with("spiffe://demo/admin/"), "{me}");
    for (record, (rpc, outcome)) in listed.iter().zip(expected) {
        assert!(is(record, rpc, outcome), "{rpc} {outcome}: {record:#}");
        let bob = rpc == "RestoreDatabase";
        assert_eq!(record["identity"], if bob { "spiffe://demo/viewer/bob" } else { me.as_str() });
        let peer: std::net::SocketAddr = record["peer"].as_str().unwrap().parse().unwrap();
        assert!(peer.ip().is_loopback(), "{record:#}");
        assert!(record["time"].as_str() <= record["endTime"].as_str(), "{record:#}");
        // What was let in has a line of its beginning, before its end.
        let at = |wanted: &str| {
            told.iter().position(|line| line["id"] == record["id"] && line["outcome"] == wanted)
        };
        let begun = at("AUDIT_OUTCOME_BEGUN");
        assert_eq!(begun.is_none(), bob, "{told:#?}");
        assert!(begun < at(record["outcome"].as_str().unwrap()), "{told:#?}");
    }
    assert_eq!(listed[0]["job"], backup.as_str());
    assert_eq!(listed[0]["arguments"]["cell"], "zone2");
    assert_eq!(listed[1]["code"], "PERMISSION_DENIED");
    assert_eq!(listed[1]["arguments"], Value::Null, "nobody reads what somebody asks who may not");
    assert_eq!(listed[2]["code"], "UNKNOWN_CELL");
    assert_eq!(listed[2]["arguments"]["requestId"], "nightly-7");
    assert_eq!(listed[2]["job"], Value::Null);
    assert_eq!(listed[4]["arguments"]["id"], canceled.as_str());

    // Narrowed, and for people; a viewer may look.
    let of_job = list(&cluster, &["--job", &canceled]);
    assert_eq!(of_job.len(), 2, "{of_job:#?}");
    assert_eq!(list(&cluster, &["--outcome", "refused", "--since", "1h"]), [listed[1].clone()]);
    assert_eq!(
        list(&cluster, &["--identity", "viewer/bob", "--rpc", "restoredatabase"]),
        [listed[1].clone()]
    );
    let table = as_bob(&["audit", "list"]).ok();
    assert!(table.contains("failed: UNKNOWN_CELL") && table.contains("refused"), "{table}");
    assert!(table.contains("cell=zone2"), "{table}");

    // An etcd that ends and comes back changes nothing in the file.
    kill_hard(cluster.pid("pid/etcd.pid"));
    let _ = cluster.try_cellar(&["backup", "--from", "zone2", "--no-wait"]).refused(4);
    cluster.cellar(&["up"]);
    let now = lines(&cluster).split_off(before);
    assert_eq!(now[..told.len()], told[..]);
    assert!(now[told.len()..].iter().any(|line| is(line, "Backup", "FAILED")), "{now:#?}");
    eventually("the list to be back", || {
        let ids: Vec<Value> = list(&cluster, &[]).iter().map(|record| record["id"].clone()).collect();
        listed.iter().all(|record| ids.contains(&record["id"]))
    });
}

#[test]
fn the_log_may_be_rotated_and_must_be_writable() {
    let cluster = Cluster::up("zone1,zone2");
    let path = log_path(&cluster);
    let mode = |path: &PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    let unknown = || cluster.try_cellar(&["backup", "--from", "zone9"]);
    let _ = unknown().refused(2);
    let rotated = path.with_extension("log.1");
    std::fs::rename(&path, &rotated).unwrap();
    let old = std::fs::read(&rotated).unwrap();
    let _ = unknown().refused(2);
    assert_eq!(lines(&cluster).len(), 2, "its beginning and its end");
    assert_eq!((mode(&path), std::fs::read(&rotated).unwrap()), (0o600, old));

    // Something else in its place: nothing is changed any more, and reading goes on.
    std::fs::remove_file(&path).unwrap();
    let elsewhere = cluster.directory().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
    let message = cluster.try_cellar(&["backup", "--from", "zone2", "--no-wait"]).refused(4);
    assert!(message.contains("audit.log") && message.contains("nothing was changed"), "{message}");
    let jobs = cluster.json(&["jobs", "list"]);
    let asked = jobs["jobs"].as_array().map_or(0, Vec::len);
    assert!(!elsewhere.exists());
    std::fs::remove_file(&path).unwrap();
    let _ = cluster.backup("zone2", "incr");
    let jobs = cluster.json(&["jobs", "list"]);
    assert_eq!(jobs["jobs"].as_array().map_or(0, Vec::len), asked + 1, "only the last was done");
    assert!(is(&lines(&cluster)[1], "Backup", "ALLOWED"));
}
