//! Logical slots that outlive a change of the primary, which PostgreSQL 17 and later can have.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{
    Cluster, as_user, eventually, postgres_programs, postgres_user, signal, wait_for, wait_until,
};
use nix::sys::signal::Signal;

use crate::logical_slots::decode;
use crate::quorum::{CELLS, FAILOVER_TIMEOUT, others, wait_for_cohort, with_quorum};

/// How long a standby may be kept out that its primary takes for connected: its own notice that the connection is dead, which is
/// three seconds, and some for giving up its slot, on a busy machine.
const KEPT_OUT: Duration = Duration::from_secs(12);

/// What the primary's own notice of a dead connection would take.
const WAL_SENDER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a standby that is frozen is waited for: until its primary takes its connection for dead, and a look at the slots.
const AWAY: Duration = Duration::from_secs(60);

/// How long PostgreSQL may keep a copy of a slot that is gone: it naps for up to 30 s.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// A table, and what a subscriber has got of it.
struct Subscriber<'a> {
    cluster: &'a Cluster,
    written: u32,
    got: BTreeSet<u32>,
}

impl<'a> Subscriber<'a> {
    /// With a slot that is to be kept.
    #[track_caller]
    fn begin(cluster: &'a Cluster, primary: &str) -> Self {
        cluster.sql(primary, "CREATE TABLE t (i int PRIMARY KEY)");
        let sql = "SELECT pg_create_logical_replication_slot('sub', 'test_decoding', failover => true)";
        cluster.sql(primary, sql);
        Self { cluster, written: 0, got: BTreeSet::new() }
    }

    #[track_caller]
    fn write(&mut self, primary: &str) {
        self.written += 1;
        self.cluster.sql(primary, &format!("INSERT INTO t VALUES ({})", self.written));
    }

    /// Gets what is there. PostgreSQL answers once the standbys have it that it waits for.
    fn get(&mut self, primary: &str) -> bool {
        let sql = "SET statement_timeout = '15s'; \
                   SELECT data FROM pg_logical_slot_get_changes('sub', NULL, NULL) WHERE data LIKE 'table public.t: INSERT%'";
        let told = self.cluster.try_sql(primary, sql);
        let rows =
            told.stdout.lines().filter_map(|line| line.rsplit_once("i[integer]:")?.1.parse::<u32>().ok());
        self.got.extend(rows);
        told.code == 0
    }

    /// Writes and gets until that is so.
    #[track_caller]
    fn go_on_until(&mut self, primary: &str, what: &str, mut is_so: impl FnMut(&Cluster) -> bool) {
        wait_for(what, Duration::from_secs(120), || {
            self.write(primary);
            self.get(primary);
            is_so(self.cluster).then_some(())
        });
    }

    /// Everything that was written has come, so that nothing was lost on the way.
    #[track_caller]
    fn check(&mut self, primary: &str) {
        wait_for("all rows to come", FAILOVER_TIMEOUT, || {
            self.get(primary);
            (self.got.len() == self.written as usize).then_some(())
        });
    }
}

/// A subscriber over one connection, which the primary's settings reach while it is open.
struct Streamed {
    child: Child,
    output: PathBuf,
}

impl Streamed {
    #[track_caller]
    fn begin(cluster: &Cluster, primary: &str) -> Self {
        let programs = postgres_programs().expect("PostgreSQL: install postgresql");
        let instance = cluster.instance(primary);
        let output = cluster.directory().join("decoded");
        let file = File::create(&output).expect("a file");
        let child = as_user(&postgres_user(), programs.join("pg_recvlogical"))
            .args(["-h", &instance.sockets, "-p", &instance.port.to_string(), "-d", "postgres"])
            .args(["--slot", "sub", "--start", "--no-loop", "--status-interval", "1", "--file", "-"])
            .stdout(Stdio::from(file))
            .spawn()
            .expect("pg_recvlogical");
        Self { child, output }
    }

    /// Whether a row of the table has come.
    fn has(&self, row: u32) -> bool {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        text.lines().any(|line| line.ends_with(&format!("i[integer]:{row}")))
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether status says that the slot is kept whichever of the others leads.
fn is_kept(cluster: &Cluster, primary: &str) -> bool {
    let others = others(primary).join(" or ");
    let note = format!("logical slot sub of \"postgres\" is kept when {others} leads");
    cluster.cellar(&["status"]).lines().any(|line| line.trim_end().ends_with(&note))
}

/// Whether a standby streams, with its own slot or without.
fn streams(cluster: &Cluster, cell: &str, with_slot: bool) -> bool {
    let sql = format!(
        "SELECT count(*) = 1 FROM pg_stat_wal_receiver WHERE status = 'streaming' AND (slot_name IS NOT NULL) = {with_slot}"
    );
    cluster.try_sql(cell, &sql).stdout.trim() == "t"
}

#[track_caller]
fn wait_until_all_have_it(cluster: &Cluster, subscriber: &mut Subscriber<'_>, primary: &str) {
    subscriber.go_on_until(primary, "both standbys to have the slot", |cluster| is_kept(cluster, primary));
    for cell in others(primary) {
        eventually("it to stream with its slot", || streams(cluster, cell, true));
    }
}

#[test]
fn a_failover_slot_goes_on_in_whoever_leads_and_a_subscriber_loses_nothing() {
    let cluster = with_quorum();
    decode(&cluster, &CELLS);
    wait_for_cohort(&cluster);
    let mut primary = cluster.primary();
    let version: u32 = cluster.sql(&primary, "SHOW server_version_num").parse().expect("a number");
    if version < 170_000 {
        // The word is all that there is.
        cluster.sql(&primary, "SELECT pg_create_logical_replication_slot('sub', 'test_decoding')");
        let note = format!("PostgreSQL {} keeps none, 17 can", version / 10_000);
        eventually("status to say that it is lost", || cluster.cellar(&["status"]).contains(&note));
        return;
    }
    let mut subscriber = Subscriber::begin(&cluster, &primary);
    wait_until_all_have_it(&cluster, &mut subscriber, &primary);
    assert!(cluster.cellar(&["explain"]).contains("is kept when"));

    // A switchover: what the old primary has of the slot would hinder its copy there.
    for round in 0..2 {
        subscriber.write(&primary);
        let next = others(&primary)[round % 2].to_owned();
        let moved = cluster.try_cellar(&["switchover", "--to", &next]);
        assert!(moved.code == 0 && moved.stderr.contains("is kept when"), "{moved:?}");
        primary = next;
        subscriber.check(&primary);
        wait_until_all_have_it(&cluster, &mut subscriber, &primary);
    }

    // A failover.
    wait_for_cohort(&cluster);
    subscriber.write(&primary);
    cluster.kill_cell(&primary);
    let killed = Instant::now();
    let lost = primary.clone();
    primary = wait_for("another member to lead", FAILOVER_TIMEOUT, || {
        let leads = |cell: &&&str| cluster.try_sql(cell, "SELECT pg_is_in_recovery()").stdout.trim() == "f";
        others(&lost).iter().find(leads).map(|cell| (*cell).to_owned())
    });
    println!("{primary} led after {:?}", killed.elapsed());
    subscriber.write(&primary);
    subscriber.check(&primary);
    // One standby is enough for subscribers, as for commits.
    subscriber.write(&primary);
    subscriber.check(&primary);
    cluster.cellar(&["up"]);
    wait_for_cohort(&cluster);
    wait_until_all_have_it(&cluster, &mut subscriber, &primary);
    subscriber.check(&primary);
}

#[test]
fn a_standby_with_a_slot_is_not_kept_out_by_its_old_connection() {
    let cluster = with_quorum();
    let primary = cluster.primary();
    if cluster.sql(&primary, "SELECT current_setting('server_version_num')::int < 170000") == "t" {
        for cell in others(&primary) {
            assert!(streams(&cluster, cell, false), "before 17 standbys stream without slots");
        }
        return;
    }
    decode(&cluster, &CELLS);
    wait_for_cohort(&cluster);
    let primary = cluster.primary();
    let mut subscriber = Subscriber::begin(&cluster, &primary);
    wait_until_all_have_it(&cluster, &mut subscriber, &primary);
    let cell = others(&primary)[0];
    let sender = format!("SELECT pid FROM pg_stat_replication WHERE application_name LIKE '{cell}:%'");
    let sender: i32 = cluster.sql(&primary, &sender).parse().expect("a process");
    // As a connection that was cut and of which the primary has not heard.
    signal(sender, Signal::SIGSTOP);
    let begun = Instant::now();
    wait_for("it to stream without its slot", WAL_SENDER_TIMEOUT, || {
        streams(&cluster, cell, false).then_some(())
    });
    let took = begun.elapsed();
    println!("{cell} streamed again after {took:?}");
    // The other one is enough meanwhile.
    subscriber.write(&primary);
    subscriber.check(&primary);
    signal(sender, Signal::SIGCONT);
    assert!(took < KEPT_OUT, "{took:?}");
    wait_until_all_have_it(&cluster, &mut subscriber, &primary);
    assert_eq!(cluster.primary(), primary, "it was no reason for a failover");
}

#[test]
fn a_subscriber_waits_for_a_standby_and_a_copy_goes_with_its_slot() {
    let cluster = with_quorum();
    let primary = cluster.primary();
    let slots =
        "SELECT string_agg(slot_name, ',') FROM pg_replication_slots WHERE slot_name = 'cellar__nobody'";
    if cluster.sql(&primary, "SELECT current_setting('server_version_num')::int < 170000") == "t" {
        for cell in CELLS {
            assert_eq!(cluster.sql(cell, slots), "", "before 17 it is of no use");
        }
        return;
    }
    for cell in CELLS {
        eventually("the slot that is named while nobody has anything", || {
            cluster.sql(cell, slots) == "cellar__nobody"
        });
        // Each process that takes the setting looks the slot up, before 17.7.
        let sql = "SET debug_parallel_query = on; SELECT count(*) > 0 FROM pg_class";
        assert_eq!(cluster.sql(cell, sql), "t", "{cell}");
    }
    decode(&cluster, &CELLS);
    wait_for_cohort(&cluster);
    let primary = cluster.primary();
    let mut subscriber = Subscriber::begin(&cluster, &primary);
    wait_until_all_have_it(&cluster, &mut subscriber, &primary);

    let streamed = Streamed::begin(&cluster, &primary);
    let write = |row: u32| {
        let sql = format!("SET synchronous_commit = local; INSERT INTO t VALUES ({row})");
        cluster.sql(&primary, &sql);
    };
    write(100_001);
    eventually("a row", || streamed.has(100_001));
    let receivers: Vec<i32> = others(&primary)
        .into_iter()
        .map(|cell| cluster.sql(cell, "SELECT pid FROM pg_stat_wal_receiver").parse().expect("a process"))
        .collect();
    for receiver in &receivers {
        signal(*receiver, Signal::SIGSTOP);
    }
    write(100_002);
    // What must not happen.
    sleep(Duration::from_secs(4));
    let has_come = streamed.has(100_002);
    signal(receivers[0], Signal::SIGCONT);
    assert!(!has_come, "no standby has it");
    wait_for("it to come once one has it, and the other one is taken for gone", AWAY, || {
        streamed.has(100_002).then_some(())
    });
    signal(receivers[1], Signal::SIGCONT);
    wait_for_cohort(&cluster);
    drop(streamed);

    // A standby that is away while its primary's last slot is dropped.
    let (away, there) = (others(&primary)[0], others(&primary)[1]);
    cluster.kill_cell(away);
    wait_until("the slot to be dropped", Duration::from_secs(30), || {
        let dropped = cluster.try_sql(&primary, "SELECT pg_drop_replication_slot('sub')");
        (dropped.code == 0).then_some(()).ok_or(dropped.stderr)
    });
    let copies = |cell: &str| {
        let sql = "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'";
        cluster.try_sql(cell, sql).stdout.trim().to_owned()
    };
    wait_for("the other one's copy to go", COPY_TIMEOUT, || (copies(there) == "0").then_some(()));
    cluster.cellar(&["up"]);
    wait_for("its copy to go once it is back", COPY_TIMEOUT, || (copies(away) == "0").then_some(()));
}
