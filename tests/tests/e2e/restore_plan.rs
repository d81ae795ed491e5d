//! A plan says what a restore would do and changes nothing; what cannot be reached is refused with what can.

use std::collections::BTreeSet;

use cellar_model::{parse_timestamp, timestamp_text};
use cellar_tests::{Cluster, wait_for};

use crate::ledger::{self, archived, beside, check, id, next_segment, plan, restore, result};

/// Where the segment after this one begins.
fn end_of(segment: &str) -> String {
    let number = u64::from_str_radix(&segment[16..], 16).expect("a segment's name");
    format!("0/{:X}", (number + 1) << 24)
}

fn number(segment: &str) -> u64 {
    u64::from_str_radix(&segment[16..], 16).expect("a segment's name")
}

/// What a plan must leave alone: the records without their volatile parts, the directories, the processes.
#[derive(Debug, PartialEq)]
struct Picture {
    keys: BTreeSet<String>,
    leader: String,
    lock: String,
    postmasters: Vec<i32>,
    directories: Vec<BTreeSet<String>>,
}

impl Picture {
    fn of(cluster: &Cluster) -> Self {
        let names = |path: std::path::PathBuf| {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            let names = entries.map(|entry| entry.file_name().display().to_string());
            // Where work is done in private; nothing stays in it.
            names.filter(|name| name != "tmp").collect()
        };
        let root = cluster.directory();
        let cells = ["zone1", "zone2"];
        Self {
            // That it was asked is on record.
            keys: cluster.etcd_keys().into_iter().filter(|key| !key.contains("/audit/")).collect(),
            leader: cluster.etcd_get("/cellar/demo/leaders/app"),
            lock: cluster.etcd_get("/cellar/demo/locks/app"),
            postmasters: cells.iter().map(|cell| cluster.postmaster(cell)).collect(),
            directories: cells
                .iter()
                .flat_map(|cell| {
                    [root.join(cell), root.join(cell).join("pg_data"), root.join(cell).join("pg_data/base")]
                })
                .map(names)
                .collect(),
        }
    }
}

#[test]
fn a_plan_changes_nothing_and_a_refusal_names_what_can_be_reached() {
    let cluster = Cluster::up("zone1,zone2");
    let cells = ["zone1", "zone2"];
    ledger::create(&cluster);
    let mut rows = vec![ledger::insert(&cluster, "before the gap")];
    let before_gap = rows.clone();
    let time = ledger::now(&cluster);
    let position = cluster.sql("zone1", "SELECT pg_current_wal_insert_lsn()");
    // PostgreSQL sees that a time is over at the first commit behind it.
    rows.push(ledger::insert(&cluster, "after the time"));
    // The repo knows to the second when a segment came.
    wait_for("the next second", std::time::Duration::from_secs(5), || {
        (ledger::now(&cluster)[..19] > time[..19]).then_some(())
    });
    let first = next_segment(&cluster);
    rows.push(ledger::insert(&cluster, "in the gap"));
    let gap = next_segment(&cluster);
    rows.push(ledger::insert(&cluster, "after the gap"));
    let last = next_segment(&cluster);
    assert_eq!((number(&gap), number(&last)), (number(&first) + 1, number(&first) + 2));
    let listed = cluster.json(&["backups", "list"]);
    let backup = listed["backups"][0].clone();
    let backup_label = backup["label"].as_str().expect("a label").to_owned();

    let before = Picture::of(&cluster);
    let job = cluster.json(&["restore", "--plan", "--latest"]);
    let mut after = Picture::of(&cluster);
    let own: BTreeSet<String> = ["jobs/app/", "runs/app/zone1/"]
        .iter()
        .map(|place| format!("/cellar/demo/{place}{}", id(&job)))
        .collect();
    let added: BTreeSet<String> = after.keys.difference(&before.keys).cloned().collect();
    assert_eq!(added, own, "the plan's own records and no others");
    after.keys = after.keys.difference(&own).cloned().collect();
    assert_eq!(after, before);
    check(&cluster, &cells, &rows);

    let told = &job["result"]["plan"];
    assert_eq!(told["backup"], backup_label.as_str(), "{told:#}");
    assert_eq!(told["timeline"], 1, "{told:#}");
    assert_eq!(told["walStop"], last.as_str(), "{told:#}");
    let begin = told["walStart"].as_str().expect("a segment");
    assert!(number(begin) <= number(&first), "{told:#}");
    assert_eq!(told["walSegments"], (number(&last) - number(begin) + 1).to_string(), "{told:#}");
    let windows = told["windows"].as_array().expect("windows");
    assert_eq!(windows.len(), 1, "{told:#}");
    assert_eq!(windows[0]["backup"], backup_label.as_str(), "{told:#}");
    assert_eq!(windows[0]["toLsn"], end_of(&last).as_str(), "{told:#}");
    assert!(windows[0]["gap"].is_null(), "{told:#}");
    let earliest_lsn = windows[0]["fromLsn"].as_str().expect("a position").to_owned();
    let earliest = windows[0]["fromTime"].as_str().expect("a time").to_owned();
    let actions: Vec<(&str, &str)> = told["cells"]
        .as_array()
        .expect("cells")
        .iter()
        .map(|cell| (cell["cell"].as_str().expect("a name"), cell["action"].as_str().expect("an action")))
        .collect();
    let stopped = "is stopped, restored beside the old data, which is kept, and becomes the primary";
    assert_eq!(
        actions,
        [("zone1", stopped), ("zone2", "read-only until it is rebuilt; the old data is kept")]
    );
    let one = plan(&cluster, &["--to-lsn", &position]);
    assert_eq!(one["walStop"], first.as_str(), "{one:#}");

    // What cannot be reached.
    let written = cluster.sql("zone1", "SELECT pg_current_wal_lsn()");
    let beyond = cluster.sql("zone1", "SELECT pg_current_wal_insert_lsn() + 1000000");
    let nearest: [(&[&str], i32, &[&str]); 10] = [
        (&["--to-time", "2199-01-01T00:00:00Z"], 3, &["future", "--latest"]),
        (&["--to-time", "2020-01-01T00:00:00Z"], 3, &[&backup_label, &earliest_lsn]),
        (&["--to-lsn", &beyond], 3, &["0/", "--latest", &earliest_lsn]),
        (&["--to-lsn", "FF/0"], 3, &["--latest", &earliest_lsn]),
        (&["--to-lsn", "0/1000028"], 3, &[&earliest_lsn]),
        (&["--to-name", "nobody made it"], 3, &["nobody made it", &earliest_lsn]),
        (&["--to-xid", "4000000000"], 3, &["4000000000", &earliest_lsn]),
        (&["--to-backup", "20200101-000000F"], 2, &["20200101-000000F", &backup_label]),
        (&["--latest", "--timeline", "9"], 3, &["timeline 9", "known: 1"]),
        (&["--latest", "--onto", "zone9"], 2, &["zone9", "zone1"]),
    ];
    for (target, code, named) in nearest {
        let message = cluster.try_cellar(&[&["restore", "--plan"], target].concat()).refused(code);
        for what in named {
            assert!(message.contains(what), "{target:?}: {what} is not in {message}");
        }
        // The restore itself says the same, and says it before it does anything.
        let message = cluster.try_cellar(&[&["restore", "--yes"], target].concat()).refused(code);
        assert!(message.contains(named[0]), "{target:?}: {message}");
    }
    // The nearest that is named can be reached, and nothing before it.
    let named = |message: &str, words: &str| {
        let rest = message.split_once(words).expect("the nearest").1;
        rest.split(' ').next().expect("the nearest").to_owned()
    };
    let message = cluster.try_cellar(&["restore", "--plan", "--to-time", "2020-01-01T00:00:00Z"]).refused(3);
    let nearest = named(&message, "the earliest that can be reached is ");
    let seconds = |text: &str| parse_timestamp(text).expect("a time").as_second();
    assert!((0..=1).contains(&(seconds(&nearest) - seconds(&earliest))), "{nearest} against {earliest}");
    let _ = plan(&cluster, &["--to-time", &nearest]);
    let _ = plan(&cluster, &["--to-lsn", &earliest_lsn]);
    let sooner = cluster.sql("zone1", &format!("SELECT '{earliest_lsn}'::pg_lsn - 1"));
    let _ = cluster.try_cellar(&["restore", "--plan", "--to-lsn", &sooner]).refused(3);
    let message = cluster.try_cellar(&["restore", "--plan", "--to-lsn", &beyond]).refused(3);
    let end = named(&message, "the latest that can be reached is ");
    let reachable = cluster.sql(
        "zone1",
        &format!("SELECT '{end}'::pg_lsn >= '{written}' AND '{end}'::pg_lsn <= pg_current_wal_insert_lsn()"),
    );
    assert_eq!(reachable, "t", "{end} against {written}: {message}");
    // Without a terminal nobody can say yes.
    assert_ne!(cluster.try_cellar(&["restore", "--latest"]).code, 0);
    let mut refused = Picture::of(&cluster);
    refused.keys.clone_from(&before.keys);
    assert_eq!(refused, before);
    cells.iter().for_each(|cell| assert_eq!(beside(&cluster, cell), [""; 0], "in {cell}"));
    assert!(!cluster.etcd_keys().iter().any(|key| key.contains("/incarnations/")), "never fenced");

    // A segment gone from the middle.
    let file = archived(&cluster, &gap).expect("it is archived");
    std::fs::remove_file(file).expect("the repo is ours");
    for target in [["--latest", "--timeline=1"], ["--to-time", &ledger::now(&cluster)]] {
        let message = cluster.try_cellar(&[&["restore", "--plan"], &target[..]].concat()).refused(3);
        assert!(message.contains(&gap) && message.contains(&end_of(&first)), "{message}");
        let _ = cluster.try_cellar(&[&["restore", "--yes"], &target[..]].concat()).refused(3);
    }
    check(&cluster, &cells, &rows);
    cells.iter().for_each(|cell| assert_eq!(beside(&cluster, cell), [""; 0], "in {cell}"));
    let told = plan(&cluster, &["--to-time", &time]);
    assert_eq!(told["windows"][0]["gap"], gap.as_str(), "{told:#}");
    assert_eq!(told["windows"][0]["toLsn"], end_of(&first).as_str(), "{told:#}");
    let full = timestamp_text(parse_timestamp(&time).expect("a time"));
    assert_eq!(told["resolved"]["time"], full.as_str(), "{told:#}");
    let job = restore(&cluster, &["--to-time", &time]);
    assert_eq!(result(&job)["backup"], backup_label.as_str());
    check(&cluster, &cells, &before_gap);
}
