//! A real etcd of three members on three hosts, and how members of a cluster's come and go.

use std::path::PathBuf;
use std::time::Duration;

use cellar_tests::{Finished, Hosts, HostsCluster, etcdctl, eventually, postgres_user, wait_for, wait_until};
use serde_json::Value;

const MEMBERS: [&str; 3] = ["db1", "db2", "db3"];

/// How long etcd may take to elect a leader, or a program to begin, on a busy machine.
const END_TIMEOUT: Duration = Duration::from_secs(60);

fn client_url(host: &str) -> String {
    format!("http://{host}.test:2379")
}

fn start(hosts: &Hosts, host: &str) {
    let peer = |host: &str| format!("http://{host}.test:2380");
    let members = MEMBERS.map(|member| format!("{member}={}", peer(member))).join(",");
    let address = hosts.address(host);
    let mut command = hosts.command_as(host, &postgres_user(), "etcd");
    command
        .args(["--name", host, "--data-dir", "etcd"])
        .args(["--listen-client-urls", &format!("http://{address}:2379")])
        .args(["--advertise-client-urls", &client_url(host)])
        .args(["--listen-peer-urls", &format!("http://{address}:2380")])
        .args(["--initial-advertise-peer-urls", &peer(host), "--initial-cluster", &members])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
    hosts.start(&mut command, "etcd.log");
}

/// `etcdctl`, run on a host, that asks these members.
#[track_caller]
fn ask(hosts: &Hosts, host: &str, members: &[&str], arguments: &[&str]) -> Finished {
    let endpoints: Vec<String> = members.iter().map(|member| client_url(member)).collect();
    let arguments = [&["--dial-timeout=1s", "--command-timeout=1s"], arguments].concat();
    etcdctl(hosts.command(host, "etcdctl"), &endpoints, None, &arguments)
}

/// The one that says of itself that it leads.
fn leader(hosts: &Hosts, members: &[&'static str]) -> Option<&'static str> {
    let leads = |member: &str| {
        let told = ask(hosts, "operator", &[member], &["endpoint", "status", "--write-out=json"]);
        let status: Value = serde_json::from_str(&told.stdout).unwrap_or_default();
        let status = &status[0]["Status"];
        status["leader"].is_u64() && status["leader"] == status["header"]["member_id"]
    };
    members.iter().copied().find(|member| leads(member))
}

#[test]
fn a_majority_goes_on_without_its_isolated_leader_which_refuses_and_catches_up() {
    let Some(hosts) = Hosts::new(3) else { return };
    MEMBERS.iter().for_each(|host| start(&hosts, host));
    let wait_for_leader = |members: &[&'static str]| {
        wait_for("a leader of etcd", Duration::from_secs(30), || leader(&hosts, members))
    };
    let first = wait_for_leader(&MEMBERS);
    let _ = ask(&hosts, "operator", &MEMBERS, &["put", "key", "before"]).ok();

    hosts.isolate(first);
    let others: Vec<&'static str> = MEMBERS.into_iter().filter(|member| *member != first).collect();
    let _ = wait_for_leader(&others);
    eventually("a write at the majority", || {
        ask(&hosts, "operator", &others, &["put", "key", "after"]).code == 0
    });
    // On its own host it answers, but neither writes nor says what is true now.
    assert_ne!(ask(&hosts, first, &[first], &["put", "key", "lost"]).code, 0);
    assert_ne!(ask(&hosts, first, &[first], &["get", "key"]).code, 0);
    let get = ["get", "key", "--consistency=s", "--print-value-only"];
    assert_eq!(ask(&hosts, first, &[first], &get).ok(), "before\n");

    hosts.heal_all();
    eventually("the member that was isolated to catch up", || {
        ask(&hosts, "operator", &[first], &get).stdout == "after\n"
    });
    let _ = ask(&hosts, "operator", &[first], &["put", "key", "healed"]).ok();
    assert_eq!(ask(&hosts, "operator", &others, &["get", "key", "--print-value-only"]).ok(), "healed\n");
}

/// What a host looks like to whoever puts it in the place of the one that burnt: nothing of the cluster is there.
#[track_caller]
fn lose(cluster: &HostsCluster, host: &str) {
    cluster.hosts.kill_all(host);
    std::fs::remove_dir_all(cluster.host_directory(host)).unwrap();
}

/// Replaces the etcd member of a host that has lost all, installs its new bundle there, and waits for its cell's rows.
#[track_caller]
fn replace(cluster: &HostsCluster, host: &str, cell: &str, rows: usize) {
    // The others may have lost their leader with it.
    wait_for_state(cluster, "degraded");
    let _ = cluster.cellar(&["etcd", "replace", cell]).ok();
    let _ = cluster.install(host).ok();
    let _ = cluster.on(host, &["start"]).ok();
    let _ = cluster.wait().ok();
    cluster.wait_for_rows(host, rows);
}

/// The members of etcd that answer, by their hosts; the ids too.
#[track_caller]
fn members(cluster: &HostsCluster) -> Vec<(String, String)> {
    let answer = cluster.cellar(&["etcd", "status", "--output", "json"]);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let member = |one: &Value| {
        let host =
            one["endpoint"].as_str().unwrap().trim_start_matches("https://").split('.').next().unwrap();
        Some((host.to_owned(), one["memberId"].as_str()?.to_owned()))
    };
    answer["members"].as_array().unwrap().iter().filter_map(member).collect()
}

/// Waits until etcd as a whole is as `cellar etcd status` calls it; multiadmin may answer for a while with what it knows.
#[track_caller]
fn wait_for_state(cluster: &HostsCluster, state: &str) {
    eventually(&format!("etcd to be {state}"), || {
        let answer = cluster.cellar(&["etcd", "status", "--output", "json"]).stdout;
        serde_json::from_str::<Value>(&answer).is_ok_and(|answer| answer["state"] == state)
    });
}

/// The bundle of db3 as it is now, kept on that host.
#[track_caller]
fn copy_of_bundle(cluster: &HostsCluster, name: &str) -> PathBuf {
    let copy = cluster.hosts.directory("db3").join(name);
    std::fs::copy(cluster.bundle("db3"), &copy).unwrap();
    copy
}

#[test]
fn host_that_has_lost_its_disk_is_replaced_and_its_cell_is_rebuilt() {
    let Some(cluster) = HostsCluster::specified(3) else { return };
    let _ = cluster.init().ok();
    // A bundle from before the member ran, and one from after that.
    let first = copy_of_bundle(&cluster, "first");
    cluster.start_all();
    cluster.create_rows(100);
    let later = copy_of_bundle(&cluster, "later");
    let before = members(&cluster);
    let answers = cluster.cellar(&["etcd", "replace", "zone3"]).refused(3);
    assert!(answers.contains("--although-it-answers"), "{answers}");
    let none = cluster.cellar(&["etcd", "replace", "zone9"]).refused(2);
    assert!(none.contains("no cell of that name"), "{none}");

    lose(&cluster, "db3");
    let doctor = cluster.cellar(&["doctor"]);
    assert_eq!(doctor.code, 1);
    for told in ["the etcd member of cell zone3", "the multiadmin of cell zone3", "cellar etcd replace zone3"]
    {
        assert!(doctor.stdout.contains(told), "{told} is not in {doctor:?}");
    }
    let waited = cluster.cellar(&["cluster", "wait", "--timeout", "15s"]).refused(4);
    assert!(waited.contains("the etcd member of cell zone3"), "{waited}");
    // Of the other two one more is away: then it would lose its majority.
    cluster.hosts.kill_all("db2");
    let alone = cluster.cellar(&["etcd", "replace", "zone3"]).refused(3);
    assert!(alone.contains("no majority") && alone.contains("cellar host start"), "{alone}");
    let _ = cluster.on("db2", &["start"]).ok();
    wait_for_state(&cluster, "degraded");

    // With an old bundle nothing begins that has forgotten what it was, neither now nor when another takes its place.
    let none_begins = || {
        for old in [&first, &later] {
            let refused = cluster.install_from("db3", old).refused(3);
            assert!(refused.contains("cellar etcd replace"), "{}: {refused}", old.display());
            assert!(!cluster.host_directory("db3").exists(), "nothing was written");
        }
    };
    none_begins();
    let old = std::fs::read(cluster.bundle("db3")).unwrap();
    // Repeated, it leaves one new member.
    let _ = cluster.cellar(&["etcd", "replace", "zone3"]).ok();
    let said = cluster.cellar(&["etcd", "replace", "zone3"]);
    assert!(said.stderr.contains("cellar host install zone3.bundle"), "{said:?}");
    assert_ne!(std::fs::read(cluster.bundle("db3")).unwrap(), old);
    none_begins();
    let _ = cluster.install("db3").ok();
    let _ = cluster.on("db3", &["start"]).ok();
    let _ = cluster.wait().ok();
    let after = members(&cluster);
    assert_eq!(after.len(), 3, "{after:?}");
    assert_eq!(after[..2], before[..2], "the other members");
    assert_ne!(after[2].1, before[2].1, "a new one");
    cluster.wait_for_rows("db3", 100);
    cluster.back_up("zone3");
    // It counts for the majority.
    cluster.hosts.kill_all("db2");
    wait_for_state(&cluster, "degraded");
    let _ = cluster.on("db2", &["start"]).ok();
    let _ = cluster.wait().ok();

    // Only the data of its member is lost: the rest of the host works with the other members.
    cluster.hosts.kill_all("db3");
    eventually("zone3 not to report", || cluster.status("zone3").is_none());
    std::fs::remove_dir_all(cluster.host_directory("db3").join("etcd/data")).unwrap();
    let partly = cluster.on("db3", &["start"]);
    assert_eq!(partly.code, 1, "{partly:?}");
    assert!(
        partly.stderr.contains("etcd is not started") && partly.stderr.contains("cellar etcd replace"),
        "{partly:?}"
    );
    eventually("zone3 to stream again", || {
        cluster.status("zone3").is_some_and(|status| status["streamsFrom"] == "zone1")
    });

    // Its disk is lost once more: its own bundle does not make a member begin anew that has promised something.
    lose(&cluster, "db3");
    let lost = cluster.install("db3").refused(3);
    assert!(lost.contains("cellar etcd replace"), "{lost}");
    replace(&cluster, "db3", "zone3", 100);
}

#[test]
fn member_that_works_is_replaced_when_that_is_said_and_its_old_data_is_set_aside() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    cluster.create_rows(100);
    let before = members(&cluster);
    let _ = cluster.cellar(&["etcd", "replace", "zone2", "--although-it-answers"]).ok();
    let postgres = |cluster: &HostsCluster| cluster.sql("db2", "SELECT pg_postmaster_start_time()").ok();
    let since = postgres(&cluster);
    // It ends by itself, and its cell goes on.
    eventually("the old member to end", || {
        cluster
            .on("db2", &["status"])
            .stdout
            .lines()
            .any(|line| line.starts_with("etcd") && line.contains("not run"))
    });
    let installed = cluster.install("db2");
    assert!(installed.stderr.contains("is of another member"), "{installed:?}");
    let _ = cluster.on("db2", &["start"]).ok();
    let _ = cluster.wait().ok();
    let after = members(&cluster);
    assert!(after.len() == 3 && after[1].1 != before[1].1, "{before:?} {after:?}");
    assert_eq!(postgres(&cluster), since, "PostgreSQL was not restarted");
    let kept = std::fs::read_dir(cluster.host_directory("db2").join("etcd")).unwrap().flatten();
    assert_eq!(kept.filter(|entry| entry.file_name().to_str().unwrap().starts_with("before-")).count(), 1);
    cluster.back_up("zone2");
}

#[test]
fn cell_with_an_etcd_member_is_removed_and_its_multiadmin_is_locked_out() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    cluster.create_rows(100);
    let client = cluster.directory().join("client").display().to_string();
    let ask = |host: &str| {
        let address = format!("{host}.test:15070");
        cluster
            .hosts
            .run("operator", &["cellar", "--admin", &address, "--client-dir", &client, "cells", "list"])
    };
    let _ = ask("db3").ok();
    let primary = cluster.cellar(&["cells", "remove", "zone1"]).refused(3);
    assert!(primary.contains("primary"), "{primary}");
    assert_eq!(members(&cluster).len(), 3, "nothing was changed");
    // With another one away too few would be healthy.
    cluster.hosts.kill_all("db2");
    wait_until("the one that is left to answer, with a leader", END_TIMEOUT, || {
        let few = cluster.cellar(&["cells", "remove", "zone3"]).refused(3);
        assert!(few.contains("cellar host start"), "{few}");
        if few.contains("of the others 1 answer, and 2 must") { Ok(()) } else { Err(few) }
    });
    let _ = cluster.on("db2", &["start"]).ok();
    let _ = cluster.wait().ok();

    let removed = cluster.cellar(&["cells", "remove", "zone3"]);
    assert_eq!(removed.code, 0, "{removed:?}");
    for told in ["etcd has 2 members", "zone1.bundle", "zone2.bundle", "cellar host remove"] {
        assert!(removed.stderr.contains(told), "{told} is not in {removed:?}");
    }
    let _ = cluster.cellar(&["cells", "remove", "zone3"]).refused(2);
    // Multipoolers, multiadmins and the members of etcd ask no etcd who may call them.
    for certificate in
        ["multiadmin/multiadmin.crt", "etcd/tls/peer.crt", "etcd/tls/server.crt", "zone3/tls/server.crt"]
    {
        let file = cluster.host_directory("db3").join(certificate);
        let serial = cellar_tls::CertificateInfo::from_file(&file).expect(certificate).serial;
        let again = cluster.cellar(&["certs", "revoke", &serial]);
        assert!(again.code == 0 && again.stderr.contains("revoked already"), "{certificate}: {again:?}");
    }
    // Its host runs all it ran, and can change nothing any more.
    let address = ["--admin", "db3.test:15070", "--client-dir", &client];
    let change = [&["cellar"], &address[..], &["backup", "--from", "zone2"]].concat();
    let denied = cluster.hosts.run("operator", &change);
    assert!(denied.code != 0 && denied.stderr.contains("permission denied"), "{denied:?}");
    let _ = cluster.on("db3", &["stop"]).ok();
    // Its member of etcd, which was removed, ends by itself: on a busy machine that is seen and told.
    let started = cluster.on("db3", &["start"]);
    assert!(
        started.code == 0 || started.stderr.contains("etcd ended right after it was started"),
        "{started:?}"
    );
    // Nor does it read when it begins anew: it is no user of etcd's any more, and once the list of revoked certificates has reached
    // a member the handshake ends. It serves nobody.
    let files = ["ca.crt", "multiadmin.crt", "multiadmin.key"];
    let files = files.map(|name| cluster.host_directory("db3").join("multiadmin").join(name));
    let denied = cluster.etcdctl_as(files, &["db1"], &["get", "--prefix", "/cellar/demo/cells/"]).refused(1);
    let is_shut_out = ["permission denied", "TransientFailure"].iter().any(|why| denied.contains(why));
    assert!(is_shut_out, "{denied}");
    wait_until("the multiadmin of db3 to say that it has no etcd", END_TIMEOUT, || {
        let answer = ask("db3");
        let is_said = answer.code == 4 && answer.stderr.contains("multiadmin cannot reach etcd");
        if is_said { Ok(()) } else { Err(format!("{answer:?}")) }
    });
    assert_eq!(etcd_pid(&cluster, "db3"), None, "a member that was removed runs");
    let _ = ask("db2").ok();
    assert_eq!(members(&cluster).len(), 2);
    // The others go on with the old bundles, and with the new ones.
    cluster.back_up("zone2");
    for host in ["db1", "db2"] {
        let _ = cluster.install(host).ok();
        let _ = cluster.on(host, &["stop"]).ok();
        let _ = cluster.on(host, &["start"]).ok();
    }
    let _ = cluster.wait().ok();
    assert!(
        !cluster
            .hosts
            .processes("db2")
            .iter()
            .any(|pid| { cellar_tests::command_line(*pid).iter().any(|word| word.contains("db3.test")) }),
        "a program of db2 still knows db3"
    );
    cluster.back_up("zone2");
    let _ = cluster.on("db3", &["remove", "--delete-data"]).ok();

    // A cell that comes later has no member until it is given one.
    let directory = cluster.host_directory("db3").display().to_string();
    let add = ["cells", "add", "zone3", "--host", "db3.test", "--host-directory", &directory];
    let _ = cluster.cellar(&add).ok();
    let _ = cluster.install("db3").ok();
    let _ = cluster.on("db3", &["start"]).ok();
    let _ = cluster.wait().ok();
    assert_eq!(members(&cluster).len(), 2);
    let has = cluster.cellar(&["etcd", "add", "zone2"]).refused(2);
    assert!(has.contains("its host has an etcd member"), "{has}");
    let _ = cluster.cellar(&["etcd", "add", "zone3"]).ok();
    let again = cluster.cellar(&["etcd", "add", "zone3"]);
    assert!(again.stderr.contains("while 2 of 3 work"), "{again:?}");
    let _ = cluster.install("db3").ok();
    let _ = cluster.on("db3", &["start"]).ok();
    let _ = cluster.wait().ok();
    assert_eq!(members(&cluster).len(), 3);
    cluster.hosts.kill_all("db2");
    wait_for_state(&cluster, "degraded");
    let _ = ask("db3").ok();
}

/// The process of etcd on a host, if it runs.
#[track_caller]
fn etcd_pid(cluster: &HostsCluster, host: &str) -> Option<String> {
    let status = cluster.on(host, &["status"]).stdout;
    let line = status.lines().find(|line| line.starts_with("etcd"))?;
    let pid = line.split_whitespace().last()?;
    pid.parse::<u32>().is_ok().then(|| pid.to_owned())
}

#[track_caller]
fn install_with(cluster: &HostsCluster, host: &str, snapshot: &str) -> Finished {
    let bundle = cluster.bundle(host).display().to_string();
    cluster.hosts.run(host, &["cellar", "host", "install", &bundle, "--etcd-snapshot", snapshot])
}

#[test]
fn majority_that_is_lost_is_put_back_from_the_member_that_is_left() {
    let Some(cluster) = HostsCluster::well(3) else { return };
    cluster.create_rows(100);
    cluster.back_up("zone2");
    let file = cluster.hosts.directory("operator").join("etcd.db").display().to_string();
    let _ = cluster.cellar(&["etcd", "snapshot", &file]).ok();
    let works = cluster.cellar(&["etcd", "restore", "--yes", &file]).refused(3);
    assert!(works.contains("a majority that works"), "{works}");

    // One that is prepared and not installed, because the members come back, is taken back.
    for host in ["db2", "db3"] {
        cluster.hosts.kill_all(host);
    }
    wait_for_state(&cluster, "lost");
    let told = cluster.cellar(&["etcd", "restore", "--yes", &file]);
    for said in ["systemctl stop cellar-etcd@demo", "--etcd-snapshot etcd.db && rm zone1.bundle etcd.db"] {
        assert!(told.stderr.contains(said), "{said} is not in {told:?}");
    }
    let _ = told.ok();
    let unsettled = cluster.cellar(&["cluster", "bundle", "zone2"]).refused(3);
    assert!(unsettled.contains("cellar cluster wait"), "{unsettled}");
    for host in ["db2", "db3"] {
        let _ = cluster.on(host, &["start"]).ok();
    }
    let waited = cluster.cellar(&["cluster", "wait"]);
    assert!(waited.stderr.contains("that is taken back"), "{waited:?}");
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
    }
    let _ = cluster.wait().ok();

    lose(&cluster, "db2");
    // This one has its disk still.
    cluster.hosts.kill_all("db3");
    wait_for_state(&cluster, "lost");
    let _ = cluster.sql("db1", "INSERT INTO ledger SELECT generate_series(101, 200)").ok();
    let since = cluster.sql("db1", "SELECT pg_postmaster_start_time()").ok();
    let told = cluster.cellar(&["doctor"]).stdout;
    assert!(told.contains("lost-etcd.md") && !told.contains("cellar etcd replace"), "{told}");
    let none = cluster.cellar(&["etcd", "replace", "zone3"]).refused(3);
    assert!(none.contains("lost-etcd.md"), "{none}");

    let _ = cluster.cellar(&["etcd", "snapshot", "--from", "zone1", &file]).ok();
    let prepared = cluster.json(&["etcd", "restore", "--yes", &file]);
    let snapshot = prepared["snapshot"].as_str().unwrap();
    let without = cluster.install("db1").refused(3);
    assert!(without.contains("--etcd-snapshot"), "{without}");
    let other = install_with(&cluster, "db1", &file).refused(3);
    assert!(other.contains("is not the snapshot that the bundle was issued with"), "{other}");
    let runs = install_with(&cluster, "db1", snapshot).refused(3);
    assert!(runs.contains("etcd runs here"), "{runs}");
    let _ = cluster.hosts.run("db1", &["kill", &etcd_pid(&cluster, "db1").unwrap()]).ok();
    eventually("etcd on db1 to end", || etcd_pid(&cluster, "db1").is_none());
    for host in cluster.database_hosts() {
        if host == "db3" {
            // A majority works without it. With its old data the member has none, and its cell works with the others'.
            let _ = cluster.on("db3", &["start"]).ok();
            eventually("zone3 to stream again", || {
                cluster.status("zone3").is_some_and(|status| status["streamsFrom"] == "zone1")
            });
            wait_for_state(&cluster, "degraded");
            assert_eq!(members(&cluster).len(), 2, "the old member answers");
            let pid = wait_for("the old member", END_TIMEOUT, || etcd_pid(&cluster, "db3"));
            let _ = cluster.hosts.run("db3", &["kill", &pid]).ok();
            eventually("etcd on db3 to end", || etcd_pid(&cluster, "db3").is_none());
        }
        let _ = install_with(&cluster, &host, snapshot).ok();
        // Repeated, it changes nothing.
        let again = install_with(&cluster, &host, snapshot);
        assert!(again.stderr.contains("already"), "{again:?}");
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.wait().ok();
    assert_eq!(
        cluster.sql("db1", "SELECT pg_postmaster_start_time()").ok(),
        since,
        "PostgreSQL was not restarted"
    );
    for host in cluster.database_hosts() {
        cluster.wait_for_rows(&host, 200);
    }
    cluster.back_up("zone3");
    let jobs = cluster.json(&["jobs", "list"]);
    assert!(jobs.to_string().contains("JOB_KIND_BACKUP"), "what was in the snapshot is there: {jobs}");
    // A disk that is lost after that is no restore.
    lose(&cluster, "db2");
    let lost = install_with(&cluster, "db2", snapshot).refused(3);
    assert!(lost.contains("cellar etcd replace"), "{lost}");
    replace(&cluster, "db2", "zone2", 200);
}
