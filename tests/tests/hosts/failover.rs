//! Quorum commit over hosts: a primary whose host dies or is cut off is replaced, and no acknowledged row is lost.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cellar_tests::{HostsCluster, Ledger, cell_of, wait_for};

/// How long three hosts may take to be as they should.
const SETTLED: Duration = Duration::from_secs(120);

/// How long a failover may take here, with an election of etcd in it, on a busy machine.
const FAILOVER_TIMEOUT: Duration = Duration::from_secs(60);

/// A primary that sees neither etcd nor its quorum stops after 15 s; its multipooler hears of etcd every few seconds.
const FENCED_AFTER: Duration = Duration::from_secs(60);

/// Three hosts with quorum commit, a table of rows, and the host of the primary.
fn with_quorum() -> Option<(HostsCluster, Ledger, String)> {
    let cluster = HostsCluster::well(3)?;
    let primary = cluster.wait_streaming(SETTLED);
    let _ = cluster.cellar(&["durability", "quorum"]).ok();
    let ledger = Ledger::create(&cluster, &primary);
    Some((cluster, ledger, primary))
}

fn takes_writes(cluster: &HostsCluster, host: &str) -> bool {
    cluster.sql(host, "SELECT pg_is_in_recovery()").stdout.trim() == "f"
}

/// Waits until another host has the primary.
#[track_caller]
fn wait_for_successor(cluster: &HostsCluster, of: &str) -> String {
    let others: Vec<String> = cluster.database_hosts().into_iter().filter(|host| host != of).collect();
    wait_for("another host to have the primary", FAILOVER_TIMEOUT, || {
        others.iter().find(|host| takes_writes(cluster, host)).cloned()
    })
}

/// Waits until all stream from this host, and all three cells are in the cohort.
#[track_caller]
fn wait_until_whole(cluster: &HostsCluster, primary: &str) {
    assert_eq!(cluster.wait_streaming(SETTLED), primary);
    wait_for("all three to be in the cohort", SETTLED, || {
        let view = cluster.json(&["durability"]);
        let leadership = &view["leader"]["leadership"];
        let rules = leadership["rules"].as_array()?;
        (rules.len() == 1 && rules[0]["cohort"].as_object()?.len() == 3).then_some(())
    });
    assert_eq!(cluster.json(&["durability"])["leader"]["cell"], cell_of(primary).as_str());
}

#[test]
fn a_primary_that_is_cut_off_stops_and_another_one_leads() {
    let Some((cluster, ledger, primary)) = with_quorum() else { return };
    let (next, written) = ledger.while_writing(&cluster, || {
        std::thread::sleep(Duration::from_secs(2));
        let cut = Instant::now();
        cluster.hosts.isolate(&primary);
        let next = wait_for_successor(&cluster, &primary);
        println!("{next} leads {:?} after {primary} was cut off", cut.elapsed());
        wait_for("the primary that is cut off to stop", FENCED_AFTER, || {
            (!takes_writes(&cluster, &primary)).then_some(())
        });
        cluster.hosts.heal_all();
        wait_until_whole(&cluster, &next);
        next
    });
    assert_ne!(next, primary);
    println!("{} rows, the longest wait {:?}", written.count, written.longest);
    ledger.wait_for_all(&cluster, &BTreeSet::new(), SETTLED);
}

#[test]
fn a_primary_whose_host_dies_is_replaced_and_follows_when_it_is_back() {
    let Some((cluster, ledger, primary)) = with_quorum() else { return };
    let (_, written) = ledger.while_writing(&cluster, || {
        std::thread::sleep(Duration::from_secs(2));
        let killed = Instant::now();
        cluster.hosts.kill_all(&primary);
        let next = wait_for_successor(&cluster, &primary);
        println!("{next} leads {:?} after {primary} died", killed.elapsed());
        let _ = cluster.on(&primary, &["start"]).ok();
        wait_until_whole(&cluster, &next);
    });
    println!("{} rows, the longest wait {:?}", written.count, written.longest);
    ledger.wait_for_all(&cluster, &BTreeSet::new(), SETTLED);
}

#[test]
fn a_host_that_is_stopped_hands_its_primary_over_before() {
    let Some((cluster, ledger, primary)) = with_quorum() else { return };
    let (_, written) = ledger.while_writing(&cluster, || {
        std::thread::sleep(Duration::from_secs(2));
        let said = cluster.on(&primary, &["stop"]);
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert!(said.stderr.contains("another host has the primary"), "{}", said.stderr);
        // It was, before anything was stopped: no failover.
        let next = cluster.database_hosts().into_iter().find(|host| takes_writes(&cluster, host));
        let next = next.expect("another host that takes writes");
        assert_ne!(next, primary);
        let last = cluster.json(&["history"])["failovers"][0].clone();
        assert_eq!((&last["kind"], &last["term"]), (&"FAILOVER_KIND_PLANNED".into(), &2.into()), "{last}");
        // Without it the rest could not elect anybody: the primary stays, and says so, until it is stopped.
        let stays = cluster.on(&next, &["handover"]);
        assert_eq!(stays.code, 1, "{}", stays.stderr);
        assert!(stays.stderr.contains("no other member can lead now"), "{}", stays.stderr);
        assert!(takes_writes(&cluster, &next));
        let _ = cluster.on(&primary, &["start"]).ok();
        wait_until_whole(&cluster, &next);
    });
    println!("{} rows, the longest wait {:?}", written.count, written.longest);
    ledger.wait_for_all(&cluster, &BTreeSet::new(), SETTLED);
}

#[test]
fn hosts_that_are_stopped_one_after_the_other_start_in_another_order() {
    let Some((cluster, ledger, primary)) = with_quorum() else { return };
    let standbys: Vec<String> =
        cluster.database_hosts().into_iter().filter(|host| *host != primary).collect();
    let (_, written) = ledger.while_writing(&cluster, || {
        std::thread::sleep(Duration::from_secs(2));
        for host in standbys.iter().chain([&primary]) {
            let said = cluster.on(host, &["stop", "--now"]);
            assert_eq!(said.code, 0, "{}", said.stderr);
        }
        // The two that come first were stopped before the primary: the later one of them has all that was acknowledged.
        for host in &standbys {
            let _ = cluster.on(host, &["start"]).ok();
        }
        let next = wait_for_successor(&cluster, &primary);
        let _ = cluster.on(&primary, &["start"]).ok();
        wait_until_whole(&cluster, &next);
    });
    println!("{} rows, the longest wait {:?}", written.count, written.longest);
    ledger.wait_for_all(&cluster, &BTreeSet::new(), SETTLED);
}

#[test]
fn a_primary_whose_packets_go_one_way_only_is_replaced() {
    let Some((cluster, ledger, first)) = with_quorum() else { return };
    let (_, written) = ledger.while_writing(&cluster, || {
        let mut primary = first;
        for is_heard in [false, true] {
            std::thread::sleep(Duration::from_secs(2));
            for other in cluster.database_hosts().iter().filter(|host| **host != primary) {
                let (from, to) = if is_heard { (other, &primary) } else { (&primary, other) };
                cluster.hosts.cut_one_way(from, to);
            }
            let next = wait_for_successor(&cluster, &primary);
            wait_for("the primary that is cut off to stop", FENCED_AFTER, || {
                (!takes_writes(&cluster, &primary)).then_some(())
            });
            cluster.hosts.heal_all();
            wait_until_whole(&cluster, &next);
            primary = next;
        }
    });
    println!("{} rows, the longest wait {:?}", written.count, written.longest);
    ledger.wait_for_all(&cluster, &BTreeSet::new(), SETTLED);
}
