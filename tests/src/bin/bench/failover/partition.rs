//! The primary's host is cut off from all others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Answer, HostsCluster, Place, Psql, TABLE, Writers, overlap, poll, run, wait_for};

use crate::failover::ours::HELD;
use crate::failover::tell;
use crate::figure::{Limit, Report, median, note, quantile};

const HOSTS: u8 = 3;

/// How often it is measured.
const ROUNDS: usize = 20;

/// From one write or read of a client to its next.
const PACE: Duration = Duration::from_millis(10);

/// How long anything of this may take, or something is wrong.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A reader that has had no answer for this long will have none.
const NO_MORE: Duration = Duration::from_secs(10);

/// What the clients of one round saw, from the cut on.
struct Seen {
    /// The first acknowledged write of the other side.
    written: Duration,
    /// The last answer of the old primary, as a primary.
    read: Duration,
}

/// Until when the host's PostgreSQL answers as a primary.
fn last_read(cluster: &HostsCluster, host: &str, is_over: &AtomicBool) -> Instant {
    let mut session: Option<Psql> = None;
    let mut last = Instant::now();
    while !is_over.load(Ordering::Relaxed) && last.elapsed() < NO_MORE {
        let used = session.get_or_insert_with(|| Psql::start(cluster.tool(host, "psql")));
        match used.ask("SELECT pg_is_in_recovery()", Duration::from_secs(1)) {
            Answer::Done(line) if line == "f" => last = Instant::now(),
            Answer::Done(_) | Answer::Refused => {}
            Answer::Lost => session = None,
        }
        sleep(PACE);
    }
    last
}

/// Waits until the next loss is a first one.
fn settle(cluster: &HostsCluster) {
    let _ = cluster.wait_streaming(TIMEOUT);
    wait_for("all three to be in the cohort", TIMEOUT, || {
        let view = cluster.json(&["durability"]);
        let rules = view["leader"]["leadership"]["rules"].as_array()?;
        (rules.len() == 1 && rules[0]["cohort"].as_object()?.len() == usize::from(HOSTS)).then_some(())
    });
    sleep(HELD);
}

fn round(cluster: &HostsCluster, hosts: &[String], writers: &Writers) -> Seen {
    let primary = cluster.wait_streaming(TIMEOUT);
    let Some(number) = hosts.iter().position(|host| *host == primary) else { panic!("{primary}?") };
    let before = writers.first(number, Instant::now(), |_| true, TIMEOUT);
    let Some(before) = before else { panic!("{primary} takes no writes") };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| last_read(cluster, &primary, &is_over));
        sleep(Duration::from_secs(1));
        cluster.hosts.isolate(&primary);
        let cut = Instant::now();
        let first = poll(TIMEOUT, || {
            let rows = writers.acknowledged();
            let others = rows.iter().filter(|row| row.begun > cut && row.server.port != before.server.port);
            others.map(|row| row.acknowledged).min()
        });
        is_over.store(first.is_none(), Ordering::Relaxed);
        let last = reader.join();
        let late = writers.acknowledged();
        let late = late.iter().filter(|row| row.server == before.server && row.begun > cut).count();
        cluster.hosts.heal_all();
        let (Some(first), Ok(last)) = (first, last) else { panic!("no write on the other side") };
        assert_eq!(late, 0, "the side that was cut off acknowledged rows");
        Seen { written: first - cut, read: last.saturating_duration_since(cut) }
    })
}

/// The primary's host is cut off: until the other side writes, and until the old side answers no reader as a primary.
pub(crate) fn rto_partition(report: &mut Report) {
    let Some(cluster) = HostsCluster::well(HOSTS) else { panic!("hosts take root") };
    let cluster = Arc::new(cluster);
    let primary = cluster.wait_streaming(TIMEOUT);
    let _ = cluster.cellar(&["durability", "quorum"]).ok();
    let _ = run(cluster.tool(&primary, "psql").args(["-XAtqw", "-c", TABLE])).ok();
    let hosts = cluster.database_hosts();
    let places = hosts.iter().cloned().map(|host| {
        let cluster = Arc::clone(&cluster);
        Place { psql: Box::new(move || cluster.tool(&host, "psql")), pace: PACE }
    });
    let writers = Writers::start(places.collect());
    let (mut written, mut read) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        settle(&cluster);
        let seen = round(&cluster, &hosts, &writers);
        note(&format!(
            "  partition: written after {:.2} s, read until {:.2} s",
            seen.written.as_secs_f64(),
            seen.read.as_secs_f64()
        ));
        written.push(seen.written);
        read.push(seen.read);
    }
    let rows = writers.end();
    note(&format!("  {} rows acknowledged; {:?}", rows.len(), overlap(&rows)));
    tell("cellar", "other side writes", &written);
    tell("cellar", "reads of the old side", &read);
    report.figure("rto_partition", median(&written).as_secs_f64(), "s", Limit::AtMost(5.0));
    report.figure("rto_partition_reads", quantile(&read, 1.0).as_secs_f64(), "s", Limit::AtMost(10.0));
}
