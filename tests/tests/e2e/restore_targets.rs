//! A restore brings back the rows up to its target and no others, whatever kind of target it is, and a rollback
//! brings back the rest.

use cellar_model::{parse_timestamp, timestamp_text};
use cellar_tests::Cluster;

use crate::ledger::{
    self, Rows, archives, beside, check, hold_backup, id, label, plan, release, restore, result, rollback,
};

/// All rows that were committed, in their order.
struct Book<'a> {
    cluster: &'a Cluster,
    rows: Rows,
}

impl Book<'_> {
    /// Commits one more row; all of them.
    #[track_caller]
    fn add(&mut self, what: &str) -> Rows {
        self.rows.push(ledger::insert(self.cluster, what));
        self.rows.clone()
    }

    /// The same, in a transaction that also says where its commit's record is.
    #[track_caller]
    fn add_at_position(&mut self, what: &str) -> (Rows, String) {
        for _ in 0..5 {
            let primary = self.cluster.primary();
            let told = self.cluster.sql(
                &primary,
                &format!(
                    "BEGIN; INSERT INTO ledger (what) VALUES ('{what}') RETURNING id || ' ' || what; \
                     SELECT pg_current_wal_insert_lsn(); COMMIT; SELECT pg_current_wal_insert_lsn()"
                ),
            );
            let [row, begin, end] = told.lines().collect::<Vec<_>>()[..] else { panic!("{told}") };
            self.rows.push(row.to_owned());
            let length = self.cluster.sql(&primary, &format!("SELECT '{end}'::pg_lsn - '{begin}'::pg_lsn"));
            // Another record may have come in between.
            if length.parse::<u32>().expect("a number") < 100 {
                return (self.rows.clone(), begin.to_owned());
            }
        }
        panic!("the commit's record is never alone");
    }

    /// The same, with the transaction's number.
    #[track_caller]
    fn add_in_transaction(&mut self, what: &str) -> (Rows, String) {
        let told = self.cluster.sql(
            &self.cluster.primary(),
            &format!(
                "BEGIN; INSERT INTO ledger (what) VALUES ('{what}') RETURNING id || ' ' || what; \
                 SELECT pg_current_xact_id(); COMMIT"
            ),
        );
        let (row, xid) = told.split_once('\n').expect("two lines");
        self.rows.push(row.to_owned());
        (self.rows.clone(), xid.to_owned())
    }
}

/// Makes a restore point whose record begins in one segment of WAL and ends in the next one, which is filled up to then.
const MARK_AT_THE_EDGE: &str = "DO $$
    DECLARE
        begins pg_lsn;
        rest bigint;
    BEGIN
        LOOP
            begins := pg_current_wal_insert_lsn();
            rest := 16777216 - (begins - '0/0'::pg_lsn) % 16777216;
            EXIT WHEN rest BETWEEN 32 AND 96;
            PERFORM pg_logical_emit_message(false, '', repeat('x', greatest(least(rest - 16384, 1000000), 0)::int));
        END LOOP;
        IF pg_create_restore_point('the mark') - begins <= rest THEN
            RAISE 'the record does not reach into the next segment';
        END IF;
    END $$";

#[test]
fn every_kind_of_target_is_reached_exactly() {
    let cells = ["zone1", "zone2", "zone3"];
    let cluster = Cluster::up("zone1,zone2,zone3");
    ledger::create(&cluster);
    let mut book = Book { cluster: &cluster, rows: Rows::new() };
    let primary_says = |sql: &str| cluster.sql(&cluster.primary(), sql);

    let at_time = book.add("before the time");
    let time = ledger::now(&cluster);
    let at_position = book.add("before the position");
    let position = primary_says("SELECT pg_current_wal_insert_lsn()");
    let (at_commit, commit) = book.add_at_position("committed at the position");
    let at_backup = book.add("before the backup");
    let backup = label(&cluster.backup("zone3", "incr"));
    book.add("before the first mark");
    primary_says("SELECT pg_create_restore_point('the mark') IS NULL");
    let at_mark = book.add("before the second mark");
    assert_eq!(primary_says(MARK_AT_THE_EDGE), "");
    let (at_transaction, xid) = book.add_in_transaction("the transaction");
    let all = book.add("the last");
    let end = ledger::now(&cluster);

    // A transaction, and back.
    let job = restore(&cluster, &["--to-xid", &xid]);
    check(&cluster, &cells, &at_transaction);
    let told = result(&job);
    assert_eq!((&told["cell"], &told["incarnation"]), (&"zone1".into(), &2.into()), "{told:#}");
    assert_eq!(told["recovery"]["timeline"], 2, "{told:#}");
    assert_eq!(told["recovery"]["fromTimeline"], 1, "{told:#}");
    assert_eq!(told["backup"], backup.as_str(), "the newest before it: {told:#}");
    assert_eq!(told["kept"], true, "{told:#}");
    assert!(told["leftOut"].is_null(), "{told:#}");
    assert!(told["firstBackup"].as_str().is_some_and(|label| label.starts_with(&backup[..16])), "{told:#}");
    let kept = [format!("pg_data.before-{}", id(&job))];
    cells.iter().for_each(|cell| assert_eq!(beside(&cluster, cell), kept, "in {cell}"));
    ledger::insert(&cluster, "lost by the rollback");
    let back = rollback(&cluster, &job);
    assert_eq!(result(&back)["incarnation"], 3, "{back:#}");
    check(&cluster, &cells, &all);
    cells.iter().for_each(|cell| assert_eq!(beside(&cluster, cell), [""; 0], "in {cell}"));
    archives(&cluster);
    let _ = cluster.backup("zone2", "incr");

    // A name, the newer of two, and the primary moves.
    let job = restore(&cluster, &["--to-name", "the mark", "--onto", "zone2"]);
    assert_eq!(cluster.primary(), "zone2");
    check(&cluster, &cells, &at_mark);
    assert_eq!(result(&job)["cell"], "zone2");
    book.rows = at_mark;
    book.add("after the mark");

    // A backup, without a word about the restore before.
    let job = restore(&cluster, &["--to-backup", &backup]);
    check(&cluster, &cells, &at_backup);
    assert_eq!((cluster.primary().as_str(), &result(&job)["backup"]), ("zone2", &backup.as_str().into()));
    assert_eq!(beside(&cluster, "zone2").len(), 2, "the data before either restore");

    // The very record of a commit is included.
    let _ = restore(&cluster, &["--to-lsn", &commit]);
    check(&cluster, &cells, &at_commit);

    // And one before it is not.
    let before = restore(&cluster, &["--to-lsn", &position]);
    check(&cluster, &cells, &at_position);
    book.rows = at_position;
    let kept = book.add("after the position");

    // A time, and back: to what was there a moment before, not to what was there at first.
    let job = restore(&cluster, &["--to-time", &time]);
    check(&cluster, &cells, &at_time);
    let reached = &result(&job)["recovery"];
    let commit = reached["lastCommit"].as_str().and_then(|text| parse_timestamp(text).ok());
    assert!(commit.is_some_and(|commit| Some(commit) <= parse_timestamp(&time).ok()), "{reached:#}");
    let message = cluster.try_cellar(&["restore", "rollback", id(&before), "--yes"]).refused(3);
    assert!(message.contains(id(&job)), "the later one is named: {message}");
    rollback(&cluster, &job);
    check(&cluster, &cells, &kept);
    archives(&cluster);

    // What was left behind on the first timeline is still there.
    let told = plan(&cluster, &["--to-time", &end]);
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("reached with --timeline 1\""), "{told:#}");
    let job = restore(&cluster, &["--to-time", &end, "--timeline", "1"]);
    assert_eq!(result(&job)["recovery"]["fromTimeline"], 1, "{job:#}");
    check(&cluster, &cells, &all);
    archives(&cluster);
    let _ = cluster.backup("zone1", "incr");
}

#[test]
fn a_moment_ago_a_backup_under_way_and_a_microsecond() {
    let cells = ["zone1", "zone2"];
    let cluster = Cluster::up("zone1,zone2");
    cluster.load(5);
    ledger::create(&cluster);
    let mut book = Book { cluster: &cluster, rows: Rows::new() };

    // None of this is archived when the restore is asked for.
    (1..20).for_each(|n| drop(book.add(&format!("quick {n}"))));
    let all = book.add("a moment ago");
    let job = restore(&cluster, &["--latest", "--onto", "zone2"]);
    check(&cluster, &cells, &all);
    assert_eq!(cluster.primary(), "zone2");
    let earlier =
        ["backup", "firstBackup"].map(|field| result(&job)[field].as_str().expect("a label").to_owned());

    // The time is after the beginning of the backup and before its end: an earlier one leads there. Which of the two that
    // there are depends on how long ago each ended.
    let (held_id, held) = hold_backup(&cluster, "zone1", "full");
    let inside = book.add("while the backup copies");
    let time = ledger::now(&cluster);
    book.add("later, and still it copies");
    release(&held);
    let held_job = cluster.ended(&held_id);
    assert_eq!(held_job["state"], "JOB_STATE_SUCCEEDED", "{held_job:#}");
    book.add("after the backup");
    let job = restore(&cluster, &["--to-time", &time]);
    let begun_from = result(&job)["backup"].as_str().expect("a label");
    assert!(earlier.iter().any(|label| label == begun_from), "{begun_from} had not ended, {earlier:?} had");
    check(&cluster, &cells, &inside);

    // Nothing was committed after the last row, and the time comes without a zone.
    book.rows = inside.clone();
    let with_last = book.add("the last before the silence");
    let time = ledger::now(&cluster);
    let bare = time.replace('T', " ").replace('Z', "");
    let finished = cluster.try_cellar(&["restore", "--to-time", &bare, "--yes", "--output", "json"]);
    let full = timestamp_text(parse_timestamp(&time).expect("a time"));
    assert!(finished.stderr.contains(&format!("target: {full} (UTC")), "{}", finished.stderr);
    let job: serde_json::Value = serde_json::from_str(&finished.ok()).expect("one document of JSON");
    assert_eq!(job["restore"]["target"]["time"], full.as_str(), "{job:#}");
    check(&cluster, &cells, &with_last);

    // The commit's own microsecond is included, the one before it is not.
    let commit = result(&job)["recovery"]["lastCommit"].as_str().expect("a time").to_owned();
    let _ = restore(&cluster, &["--to-time", &commit]);
    check(&cluster, &cells, &with_last);
    let before = cluster.sql(
        "zone2",
        &format!(
            "SELECT to_char(('{commit}'::timestamptz - interval '1 microsecond') AT TIME ZONE 'UTC', \
             'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        ),
    );
    let _ = restore(&cluster, &["--to-time", &before]);
    check(&cluster, &cells, &inside);
}
