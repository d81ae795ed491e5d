//! The runbooks, walked through as they are written: every command of each way, in one shell, on a fresh cluster.

use std::process::Command;

use cellar_tests::{Cluster, Finished, bin_dir, eventually, run, signal};
use nix::sys::signal::Signal;

/// The blocks of a page that belong to a way, in the order in which they are run: what makes the bad day, then the rest.
fn blocks(page: &str, way: &str) -> Vec<String> {
    let path = format!("{}/../docs/runbooks/{page}.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let (mut practise, mut rest, mut open): (Vec<String>, Vec<String>, Option<(String, String)>) =
        (vec![], vec![], None);
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(fence)) => open = Some((fence.trim().to_owned(), String::new())),
            (Some((fence, block)), Some(_)) => {
                let name = fence.strip_prefix("sh").map(str::trim);
                let practises = ["practise".to_owned(), format!("practise-{way}")];
                match name {
                    Some(name) if practises.iter().any(|practise| practise == name) => {
                        practise.push(std::mem::take(block));
                    }
                    Some(name) if name.is_empty() || name == way => rest.push(std::mem::take(block)),
                    _ => {}
                }
                open = None;
            }
            (Some((_, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(!practise.is_empty() && rest.len() > 1, "{page} has no way {way}");
    practise.into_iter().chain(rest).collect()
}

/// Runs a script as a person would who works on the cluster.
fn shell(cluster: &Cluster, script: &str) -> Finished {
    let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash");
    shell
        .args(["-c", script])
        // What a page writes goes with the cluster.
        .current_dir(cluster.directory())
        .env("CELLAR_DIR", cluster.directory())
        .env("PATH", path)
        .env_remove("CELLAR_ADMIN");
    run(&mut shell)
}

/// Walks a way and returns the cluster as it leaves it.
fn walk(page: &str, way: &str) -> Cluster {
    let cluster = Cluster::up("zone1,zone2,zone3");
    let finished = shell(&cluster, &format!("set -e\n{}", blocks(page, way).join("\n")));
    assert_eq!(finished.code, 0, "{page}, {way}:\n{}\n{}", finished.stdout, finished.stderr);
    // A way may end with one cell fewer.
    let primary = cluster.primary();
    for pooler in cluster.poolers().into_iter().filter_map(|view| view.pooler) {
        if pooler.cell != primary {
            cluster.wait_streaming(&pooler.cell);
        }
    }
    cluster
}

#[test]
fn i_dropped_a_table_and_keep_the_restored_database() {
    let _ = walk("dropped-table", "keep");
}

#[test]
fn i_dropped_a_table_and_changed_my_mind() {
    let _ = walk("dropped-table", "undo");
}

#[test]
fn i_dropped_a_table_and_want_only_that_back() {
    let _ = walk("dropped-table", "only-the-table");
}

#[test]
fn i_lost_the_disk_of_a_standby() {
    let _ = walk("lost-disk", "standby");
}

#[test]
fn i_lost_the_disk_of_the_primary() {
    let _ = walk("lost-disk", "primary");
}

#[test]
fn i_lost_the_cell_of_a_standby() {
    let _ = walk("lost-cell", "standby");
}

#[test]
fn i_lost_the_cell_of_the_primary() {
    let _ = walk("lost-cell", "primary");
}

#[test]
fn i_lost_etcd_and_have_a_snapshot() {
    let _ = walk("lost-etcd", "snapshot");
}

#[test]
fn i_lost_etcd_and_have_none() {
    let _ = walk("lost-etcd", "none");
}

#[test]
fn etcd_was_put_back_to_before_a_restore() {
    let _ = walk("lost-etcd", "older-record");
}

/// A standby that was restarted after the loss says that it has received less than it has replayed.
#[test]
fn choice_of_a_standby_counts_what_a_restarted_one_has_replayed() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.sql("zone1", "CREATE TABLE written AS SELECT generate_series(1, 1000) AS n");
    for cell in ["zone2", "zone3"] {
        eventually("the rows to be replayed", || {
            cluster.try_sql(cell, "SELECT count(*) FROM written").stdout.trim() == "1000"
        });
    }
    cluster.kill_cell("zone1");
    let replayed = cluster.sql("zone2", "SELECT pg_last_wal_replay_lsn()");
    let before = cluster.postmaster("zone2");
    signal(before, Signal::SIGINT);
    let received = "SELECT pg_last_wal_receive_lsn()";
    eventually("zone2 to have been restarted and to look for the primary", || {
        let found = cluster.try_sql("zone2", received);
        found.code == 0 && !found.stdout.trim().is_empty() && cluster.postmaster("zone2") != before
    });
    let lower = format!("SELECT pg_last_wal_receive_lsn() < '{replayed}'");
    assert_eq!(cluster.sql("zone2", &lower), "t", "else this test shows nothing");
    // The functions of the page, and its loop over the standbys without the promotion after it.
    let page = blocks("lost-cell", "primary");
    let functions = page.iter().find(|block| block.contains("sql() {")).expect("the functions");
    let choice = page.iter().find(|block| block.contains("pg_promote()")).expect("the choice");
    let choice = choice.split("sql zone2").next().expect("the loop");
    let said = shell(&cluster, &format!("set -e\n{functions}\n{choice}")).ok();
    let zone2 = said.lines().find_map(|line| line.strip_prefix("zone2 ")).expect("a line for zone2");
    assert_eq!(
        cluster.sql("zone3", &format!("SELECT '{}'::pg_lsn >= '{replayed}'", zone2.trim())),
        "t",
        "{said}"
    );
}

#[test]
fn a_programs_key_was_stolen() {
    let _ = walk("stolen-key", "person");
}

#[test]
fn a_cells_key_was_stolen() {
    let _ = walk("stolen-key", "cell");
}
