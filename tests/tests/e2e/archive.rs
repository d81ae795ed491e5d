//! What the archive has, where PostgreSQL's own notes in `archive_status` say something else or nothing.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use cellar_tests::{Cluster, eventually, kill_hard, signal, wait_for};
use nix::sys::signal::Signal;

use crate::ledger::{self, archived, archives, begin_restore, check, plan, restore};

/// How long what a pooler does beside everything else may take.
const BACKGROUND_TIMEOUT: Duration = Duration::from_secs(150);

/// Gives the PostgreSQL of a cell an archive command of its own, or Cellar's again.
#[track_caller]
fn archive_with(cluster: &Cluster, cell: &str, command: Option<&str>) {
    let change = match command {
        Some(command) => format!("SET archive_command = '{command}'"),
        None => "RESET archive_command".to_owned(),
    };
    cluster.sql(cell, &format!("ALTER SYSTEM {change}"));
    cluster.sql(cell, "SELECT pg_reload_conf()");
    eventually("the archive command to be in force", || {
        let now = cluster.sql(cell, "SHOW archive_command");
        command.map_or(now.contains("pgbackrest"), |command| now == command)
    });
}

/// Commits a row, and ends the segment that has it. The segment's name.
#[track_caller]
fn segment_with_row(cluster: &Cluster, rows: &mut ledger::Rows, what: &str) -> String {
    rows.push(ledger::insert(cluster, what));
    let primary = cluster.primary();
    let segment = cluster.sql(
        &primary,
        "SELECT pg_walfile_name(pg_create_restore_point('ends')); SELECT pg_switch_wal() IS NULL",
    );
    segment.lines().next().expect("a name").to_owned()
}

fn wal(cluster: &Cluster, cell: &str) -> PathBuf {
    cluster.directory().join(cell).join("pg_data/pg_wal")
}

fn note(cluster: &Cluster, cell: &str, segment: &str, kind: &str) -> PathBuf {
    wal(cluster, cell).join("archive_status").join(format!("{segment}.{kind}"))
}

/// A ledger in a cluster of zone1 and zone2 whose primary zone1 archives nothing any more: the rows, which zone2 has, too,
/// and the two segments that have ended since.
#[track_caller]
fn with_two_unarchived(cluster: &Cluster) -> (ledger::Rows, Vec<String>) {
    ledger::create(cluster);
    let mut rows = vec![ledger::insert(cluster, "archived")];
    archives(cluster);
    archive_with(cluster, "zone1", Some("false"));
    let waiting = ["first", "second"].map(|what| segment_with_row(cluster, &mut rows, what)).to_vec();
    rows.push(ledger::insert(cluster, "in the next segment"));
    check(cluster, &["zone1", "zone2"], &rows);
    (rows, waiting)
}

/// A standby notes every segment that it has received as archived. Its primary is lost before it has archived two.
#[test]
fn wal_that_a_lost_primary_had_not_archived_is_archived_by_its_successor() {
    let cluster = Cluster::up("zone1,zone2");
    let (rows, waiting) = with_two_unarchived(&cluster);
    for segment in &waiting {
        eventually("the standby to note it as archived", || {
            note(&cluster, "zone2", segment, "done").exists()
        });
        assert_eq!(archived(&cluster, segment), None);
    }
    cluster.kill_cell("zone1");
    cluster.sql("zone2", "SELECT pg_promote()");
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    for segment in &waiting {
        wait_for(&format!("{segment} to be archived"), BACKGROUND_TIMEOUT, || archived(&cluster, segment));
    }
    eventually("zone1 to be seen down", || cluster.status("zone1").is_none());
    assert_eq!(plan(&cluster, &["--latest"])["timeline"], 2);
    let _ = restore(&cluster, &["--latest", "--onto", "zone2"]);
    check(&cluster, &["zone2"], &rows);
}

/// The successor has recycled what the lost primary had not archived, so only the data that a rebuild replaces has it.
/// What that primary wrote behind the point where its successor began must never come into the archive.
#[test]
fn rebuild_of_a_former_primary_archives_first_what_it_alone_has() {
    let cluster = Cluster::up("zone1,zone2");
    let cells = ["zone1", "zone2"];
    let (mut rows, waiting) = with_two_unarchived(&cluster);
    cluster.sql("zone2", "ALTER SYSTEM SET primary_conninfo = ''");
    cluster.sql("zone2", "SELECT pg_reload_conf()");
    eventually("nobody to receive", || {
        cluster.sql("zone1", "SELECT count(*) FROM pg_stat_replication") == "0"
    });
    let lost: Vec<String> =
        ["lost", "lost, too"].map(|what| segment_with_row(&cluster, &mut Vec::new(), what)).to_vec();
    cluster.kill_cell("zone1");
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    signal(pooler, Signal::SIGSTOP);
    cluster.sql("zone2", "SELECT pg_promote()");
    for segment in &waiting {
        // As a checkpoint does that finds it noted as archived.
        std::fs::remove_file(wal(&cluster, "zone2").join(segment)).expect("a segment");
        std::fs::remove_file(note(&cluster, "zone2", segment, "done")).expect("its note");
    }
    signal(pooler, Signal::SIGCONT);
    eventually("zone2 to be recorded as primary", || cluster.primary() == "zone2");
    rows.push(ledger::insert(&cluster, "by the new primary"));
    archives(&cluster);
    let _ = cluster.try_cellar(&["up", "--timeout", "15s"]);
    eventually("zone1 to say what is the matter", || {
        cluster.status("zone1").is_some_and(|status| status.message.contains("cellar rebuild zone1"))
    });
    assert!(waiting.iter().chain(&lost).all(|segment| archived(&cluster, segment).is_none()));
    cluster.cellar(&["rebuild", "zone1"]);
    check(&cluster, &cells, &rows);
    assert!(waiting.iter().all(|segment| archived(&cluster, segment).is_some()), "{waiting:?}");
    assert!(lost.iter().all(|segment| archived(&cluster, segment).is_none()), "{lost:?}");
    let _ = restore(&cluster, &["--latest"]);
    check(&cluster, &cells, &rows);
}

/// PostgreSQL writes the note that a segment is to be archived without a sync, so a crash may lose it. It is lost here
/// when the primary is fenced already: before that its pooler would see to the note.
#[test]
fn fence_archives_a_whole_segment_whose_note_was_lost() {
    let cluster = Cluster::up("zone1,zone2");
    let cells = ["zone1", "zone2"];
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "archived")];
    archives(&cluster);
    archive_with(&cluster, "zone1", Some("false"));
    let segments: Vec<String> =
        ["first", "second"].map(|what| segment_with_row(&cluster, &mut rows, what)).to_vec();
    rows.push(ledger::insert(&cluster, "in the next segment"));
    check(&cluster, &cells, &rows);
    // Until it is killed it cannot be stopped.
    let postmaster = cluster.postmaster("zone1");
    signal(postmaster, Signal::SIGSTOP);
    let id = begin_restore(&cluster, &["--latest", "--onto", "zone2"]);
    wait_for("the fence", BACKGROUND_TIMEOUT, || {
        cluster.etcd_get("/cellar/demo/incarnations/app").contains(&id).then_some(())
    });
    std::fs::remove_file(note(&cluster, "zone1", &segments[1], "ready")).expect("a note");
    kill_hard(postmaster);
    let job = cluster.ended(&id);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert!(job["result"]["restore"]["notFenced"].is_null(), "{job:#}");
    check(&cluster, &cells, &rows);
    assert!(segments.iter().all(|segment| archived(&cluster, segment).is_some()), "{segments:?}");
}

/// The archive was last written to before that.
fn date_back(cluster: &Cluster, age: Duration) {
    let folder = cluster.archive().join("0000000100000000");
    for entry in std::fs::read_dir(folder).expect("an archive").flatten() {
        let file = std::fs::File::options().write(true).open(entry.path()).expect("a file");
        file.set_modified(SystemTime::now() - age).expect("a time");
    }
}

#[test]
fn verify_finds_that_nothing_has_been_archived_for_hours() {
    let cluster = Cluster::up("zone1,zone2");
    ledger::create(&cluster);
    archives(&cluster);
    archive_with(&cluster, "zone1", Some("false"));
    let mut rows = Vec::new();
    let waiting: Vec<String> =
        ["first", "second", "third"].map(|what| segment_with_row(&cluster, &mut rows, what)).to_vec();
    date_back(&cluster, Duration::from_secs(7200));
    for cell in ["zone1", "zone2"] {
        let finished = cluster.try_cellar(&["verify", "--on", cell]);
        let told = format!("{}{}", finished.stdout, finished.stderr);
        assert!(finished.code == 1 && told.contains(&waiting[0]), "{told}");
        assert!(
            told.contains("the primary has ended 3 WAL segments that the archive does not have"),
            "{told}"
        );
        assert!(told.contains(&format!("the first is {}", waiting[0])), "{told}");
    }
    archive_with(&cluster, "zone1", None);
    archives(&cluster);
    let job = cluster.json(&["verify"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert!(job["result"]["verify"]["warnings"].as_array().is_none_or(Vec::is_empty), "{job:#}");

    // Without a primary that answers it is not known where the present is.
    cluster.kill_cell("zone1");
    eventually("zone1 to be seen down", || cluster.status("zone1").is_none());
    let job = cluster.json(&["verify", "--on", "zone2"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    assert!(job["result"]["verify"]["warnings"].to_string().contains("does not answer"), "{job:#}");
}

/// The new standby would replay up to the gap and wait there for ever.
#[test]
fn standby_is_not_replaced_by_what_cannot_reach_the_present() {
    let cluster = Cluster::up("zone1,zone2");
    let cells = ["zone1", "zone2"];
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the gap")];
    archives(&cluster);
    rows.push(ledger::insert(&cluster, "in the gap"));
    let gap = archives(&cluster);
    rows.push(ledger::insert(&cluster, "behind the gap"));
    archives(&cluster);
    std::fs::remove_file(archived(&cluster, &gap).expect("a file")).expect("root may");
    // The primary still has the segment, and a standby receives it from there.
    cluster.cellar(&["rebuild", "zone2"]);
    check(&cluster, &cells, &rows);

    cluster.sql("zone1", "ALTER SYSTEM SET wal_keep_size = 0");
    cluster.sql("zone1", "SELECT pg_reload_conf()");
    let segment = wal(&cluster, "zone1").join(&gap);
    wait_for("the primary to recycle the segment", BACKGROUND_TIMEOUT, || {
        rows.push(ledger::insert(&cluster, "more"));
        archives(&cluster);
        cluster.sql("zone1", "CHECKPOINT");
        (!segment.exists()).then_some(())
    });
    check(&cluster, &cells, &rows);
    let postmaster = cluster.postmaster("zone2");
    let job = cluster.json(&["rebuild", "zone2", "--no-wait"]);
    let job = cluster.ended(ledger::id(&job));
    assert_eq!(job["error"]["code"], "UNKNOWN_BACKUP", "{job:#}");
    let told = job["error"].to_string();
    assert!(told.contains(&gap) && told.contains("cellar backup"), "{told}");
    assert_eq!(cluster.postmaster("zone2"), postmaster, "it was not stopped");
    check(&cluster, &cells, &rows);

    // From a backup behind the gap it can be made.
    let full = ledger::label(&cluster.backup("zone2", "full"));
    let job = cluster.json(&["rebuild", "zone2"]);
    assert_eq!(job["result"]["rebuild"]["backup"], full.as_str(), "{job:#}");
    check(&cluster, &cells, &rows);
}
