//! A former primary with WAL that its successor lacks: it is rewound, and made again where that does not end well.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, children_named, is_alive, processes_with, signal, wait_for};
use nix::sys::signal::Signal;

use crate::quorum::{CELLS, Ledger, is_acknowledged, leadership, others, wait_for_cohort, with_quorum};

/// Ends with a primary that is killed and has written what nobody else has, and with its successor.
struct Former {
    cell: &'static str,
    next: &'static str,
    /// The number of its copy while it led.
    copy: serde_json::Value,
}

fn copy_of(cluster: &Cluster, cell: &str) -> serde_json::Value {
    leadership(cluster)["rules"][0]["cohort"][cell].clone()
}

/// `finally` is run by the primary when nobody gets anything from it any more.
#[track_caller]
fn replace_primary(cluster: &Cluster, ledger: &Ledger, finally: &str) -> Former {
    let cell = ledger.wait_for_write(&CELLS);
    let copy = copy_of(cluster, cell);
    let standbys: Vec<i32> = others(cell)
        .into_iter()
        .map(|cell| cluster.postmaster(cell))
        .flat_map(|postmaster| children_named(postmaster, "postgres").into_iter().chain([postmaster]))
        .collect();
    standbys.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    // More than the kernel keeps for them on the way.
    let rows = "INSERT INTO ledger SELECT generate_series(1, 500000)";
    assert!(!is_acknowledged(cluster, cell, rows), "by whom?");
    if !finally.is_empty() {
        cluster.sql(cell, finally);
    }
    cluster.kill_cell(cell);
    standbys.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let next = ledger.wait_for_write(&others(cell));
    Former { cell, next, copy }
}

fn log_of(cluster: &Cluster, cell: &str) -> String {
    std::fs::read_to_string(cluster.directory().join(format!("{cell}/log/multipooler.log"))).expect("a log")
}

/// The log of a restore that no job asked for.
fn seed_log(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.directory().join(format!("{cell}/jobs/seed.log"))
}

fn forget_first_restore(cluster: &Cluster) {
    for cell in CELLS {
        let _ = std::fs::remove_file(seed_log(cluster, cell));
    }
}

/// It is in the cohort, with another copy than before, and has nothing that nobody acknowledged.
#[track_caller]
fn check_member(cluster: &Cluster, former: &Former) {
    wait_for_cohort(cluster);
    cluster.wait_streaming(former.cell);
    assert_ne!(copy_of(cluster, former.cell), former.copy, "it left the cohort, and another copy joined it");
    assert_eq!(cluster.primary(), former.next);
    let phantom = cluster.sql(former.cell, "SELECT count(*) FROM ledger WHERE id BETWEEN 1 AND 500000");
    assert_eq!(phantom, "0", "rows that nobody acknowledged");
    let marker = cluster.directory().join(former.cell).join("state/seeding");
    assert!(!marker.exists(), "nothing is unfinished");
}

#[test]
fn a_former_primary_is_rewound_and_joins_the_cohort_as_another_copy() {
    let cluster = with_quorum();
    cluster.load(10);
    forget_first_restore(&cluster);
    let ledger = Ledger::begin(&cluster);
    let former = replace_primary(&cluster, &ledger, "");
    let begun = Instant::now();
    cluster.cellar(&["up"]);
    check_member(&cluster, &former);
    let log = log_of(&cluster, former.cell);
    println!("{} was in the cohort again after {:?}", former.cell, begun.elapsed());
    log.lines()
        .filter(|line| line.contains("pg_rewind: ") || line.contains("rewound"))
        .for_each(|line| println!("{line}"));
    assert!(log.contains("this member's data was rewound"), "{log}");
    assert!(log.contains("the data that was rewound streams"), "{log}");
    assert!(!seed_log(&cluster, former.cell).exists(), "nothing was restored from the repository");
    let slots = cluster.sql(former.cell, "SELECT count(*) FROM pg_replication_slots");
    assert_eq!(slots, "0", "those that it had as the primary");
    // Its own settings, and not the leader's.
    let name = cluster.sql(former.cell, "SHOW cluster_name");
    assert!(name.ends_with(former.cell), "{name}");
    ledger.check(&cluster);
}

#[test]
fn a_rewind_that_is_killed_halfway_ends_in_a_member_that_is_made_again() {
    let cluster = with_quorum();
    cluster.load(10);
    forget_first_restore(&cluster);
    let ledger = Ledger::begin(&cluster);
    let former = replace_primary(&cluster, &ledger, "");
    // It would wait until the member is well again.
    let mut up =
        cluster.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started");
    let data = cluster.directory().join(former.cell).join("pg_data");
    // One that finds that the leader has written no checkpoint yet ends at once, and is tried again.
    let rewind = wait_for("a pg_rewind that stands still", Duration::from_secs(90), || {
        let found = processes_with("pg_rewind", &data.to_string_lossy()).first().copied()?;
        signal(found, Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(20));
        cellar_system::Process::find(found).is_some_and(|process| process.is_stopped()).then_some(found)
    });
    // It lives on when who began it does not.
    let pooler = cluster.pid(&format!("{}/pid/multipooler.pid", former.cell));
    signal(pooler, Signal::SIGKILL);
    wait_for("the multipooler to end", Duration::from_secs(10), || (!is_alive(pooler)).then_some(()));
    assert!(is_alive(rewind));
    let _ = up.kill();
    let _ = up.wait();
    assert!(cluster.directory().join(former.cell).join("state/seeding").exists(), "nobody may start it");
    cluster.cellar(&["up"]);
    check_member(&cluster, &former);
    assert!(!is_alive(rewind), "it would write into the new data");
    assert!(seed_log(&cluster, former.cell).exists(), "it was restored");
    let log = log_of(&cluster, former.cell);
    assert!(!log.contains("this member's data was rewound"), "{log}");
    ledger.check(&cluster);
}

#[test]
fn a_former_primary_whose_wal_cannot_be_read_is_made_again() {
    let cluster = with_quorum();
    forget_first_restore(&cluster);
    let ledger = Ledger::begin(&cluster);
    // So that its data cannot follow in place.
    let former = replace_primary(&cluster, &ledger, "CHECKPOINT");
    let wal = cluster.directory().join(former.cell).join("pg_data/pg_wal");
    for entry in std::fs::read_dir(&wal).expect("its WAL").flatten() {
        if entry.file_name().len() == 24 {
            let size = entry.metadata().expect("a file").len();
            std::fs::write(entry.path(), vec![0; usize::try_from(size).expect("a size")]).expect("written");
        }
    }
    cluster.cellar(&["up"]);
    check_member(&cluster, &former);
    let log = log_of(&cluster, former.cell);
    assert!(log.contains("the data could not be rewound: it is made again"), "{log}");
    assert!(seed_log(&cluster, former.cell).exists(), "it was restored");
    ledger.check(&cluster);
}
