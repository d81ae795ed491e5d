//! A real etcd of three members on three hosts.

use std::time::Duration;

use cellar_tests::{Finished, Hosts, eventually, postgres_user, wait_for};
use serde_json::Value;

const MEMBERS: [&str; 3] = ["db1", "db2", "db3"];

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
fn etcdctl(hosts: &Hosts, host: &str, members: &[&str], arguments: &[&str]) -> Finished {
    let endpoints = members.iter().map(|member| client_url(member)).collect::<Vec<_>>().join(",");
    let words = ["etcdctl", "--endpoints", &endpoints, "--dial-timeout=1s", "--command-timeout=1s"];
    hosts.run(host, &[&words[..], arguments].concat())
}

/// The one that says of itself that it leads.
fn leader(hosts: &Hosts, members: &[&'static str]) -> Option<&'static str> {
    let leads = |member: &str| {
        let told = etcdctl(hosts, "operator", &[member], &["endpoint", "status", "--write-out=json"]);
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
    let _ = etcdctl(&hosts, "operator", &MEMBERS, &["put", "key", "before"]).ok();

    hosts.isolate(first);
    let others: Vec<&'static str> = MEMBERS.into_iter().filter(|member| *member != first).collect();
    let _ = wait_for_leader(&others);
    eventually("a write at the majority", || {
        etcdctl(&hosts, "operator", &others, &["put", "key", "after"]).code == 0
    });
    // On its own host it answers, but neither writes nor says what is true now.
    assert_ne!(etcdctl(&hosts, first, &[first], &["put", "key", "lost"]).code, 0);
    assert_ne!(etcdctl(&hosts, first, &[first], &["get", "key"]).code, 0);
    let get = ["get", "key", "--consistency=s", "--print-value-only"];
    assert_eq!(etcdctl(&hosts, first, &[first], &get).ok(), "before\n");

    hosts.heal_all();
    eventually("the member that was isolated to catch up", || {
        etcdctl(&hosts, "operator", &[first], &get).stdout == "after\n"
    });
    let _ = etcdctl(&hosts, "operator", &[first], &["put", "key", "healed"]).ok();
    assert_eq!(etcdctl(&hosts, "operator", &others, &["get", "key", "--print-value-only"]).ok(), "healed\n");
}
