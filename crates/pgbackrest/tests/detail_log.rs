//! Real logs of pgBackRest 2.45, thinned and with other paths, and logs nobody should trust.

use cellar_model::{CopyCount, Proof, prove};
use cellar_pgbackrest::{DetailLog, Ended, LogLevel, PrimarySource};
use proptest::prelude::*;

const FULL: &str = include_str!("fixtures/full-from-standby.log");
const INCR: &str = include_str!("fixtures/incr-from-standby.log");
const DELTA: &str = include_str!("fixtures/delta-from-standby.log");
const BUNDLED: &str = include_str!("fixtures/full-bundled.log");
const TERMINATED: &str = include_str!("fixtures/backup-terminated.log");
const NO_PRIMARY: &str = include_str!("fixtures/no-primary.log");
const RESTORE: &str = include_str!("fixtures/restore-standby.log");
const RESTORE_DELTA: &str = include_str!("fixtures/restore-delta.log");

fn empty() -> DetailLog {
    let primary =
        PrimarySource { host: Some("localhost".into()), data_directory: "/srv/demo/zone1/pg_data".into() };
    DetailLog::new("/srv/demo/zone2/pg_data", Some(primary))
}

fn read(text: &str) -> DetailLog {
    let mut log = empty();
    text.lines().for_each(|line| log.line(line));
    log
}

fn holds(copied: CopyCount, expected_files: Option<u64>) -> bool {
    prove(&Proof { copied, option_backup_standby: true, standby: true, expected_files }).is_ok()
}

#[test]
fn a_full_backup_from_the_standby() {
    let log = read(FULL);
    let copied = log.copied();
    assert_eq!(copied.from_primary_required, 8);
    assert_eq!(
        copied.local_inside,
        u64::try_from(FULL.matches("backup file /srv/demo/zone2/").count()).unwrap()
    );
    assert!(copied.local_inside > 20 && holds(copied, Some(copied.local_inside + 8)));
    assert!(!holds(copied, Some(copied.local_inside + 9)));
    assert_eq!(log.label().unwrap().as_str(), "20261121-030602F");
    let totals = log.totals().unwrap();
    assert_eq!((totals.bytes, totals.files), (35_232_153, 977));
    assert_eq!(log.ended(), Some(Ended::Completed));
    // Names that look like the end of a line, and a warning about page checksums.
    assert_eq!(log.messages().len(), 1);
    assert!(log.messages().iter().all(|message| message.level == LogLevel::Warn));
}

/// The log of the same backup, had pgBackRest run on another host than the standby: measured with 2.45, the lines differ in
/// the host before the path only.
fn at_repository(primary_is_there: bool) -> String {
    let there = FULL.replace("file /srv/demo/zone2/", "file db2:/srv/demo/zone2/");
    let primary = if primary_is_there { "file /srv/demo/zone1/" } else { "file db1:/srv/demo/zone1/" };
    there.replace("file localhost:/srv/demo/zone1/", primary)
}

#[test]
fn a_backup_of_a_standby_on_another_host() {
    let local = read(FULL).copied();
    for (primary_is_there, host) in [(false, Some("db1".to_owned())), (true, None)] {
        let text = at_repository(primary_is_there);
        let read = |source: &str, primary: Option<String>| {
            let primary = PrimarySource { host: primary, data_directory: "/srv/demo/zone1/pg_data".into() };
            let mut log = DetailLog::new("/srv/demo/zone2/pg_data", Some(primary)).of_host(source);
            text.lines().for_each(|line| log.line(line));
            log.copied()
        };
        assert!(text.contains("backup command begin "), "each attempt begins so, and is read anew");
        assert_eq!(read("db2", host.clone()), local);
        // The right directory of the wrong host proves nothing.
        let other = read("db3", host);
        assert_eq!(other.remote_data, local.local_inside);
        assert!(!holds(other, None));
        let wrong_primary = read("db2", Some("db3".to_owned()));
        assert_eq!(wrong_primary.from_primary_required, 0);
        assert!(!holds(wrong_primary, None));
    }
    // Nor does a file of the host that has the repository.
    let text = at_repository(false);
    let mut log = empty().of_host("db2");
    text.replace("db2:", "").lines().for_each(|line| log.line(line));
    assert_eq!(log.copied().local_outside, local.local_inside);
    assert!(!holds(log.copied(), None));
}

/// The log of a job has all commands that it ran, and the backup is that of the last.
#[test]
fn command_that_was_refused_and_run_again_counts_once() {
    assert!(read(NO_PRIMARY).copied().unable_to_check > 0);
    let log = read(&format!("{NO_PRIMARY}\n{FULL}"));
    assert_eq!((log.copied(), log.messages().len()), (read(FULL).copied(), 1));
    assert!(holds(log.copied(), Some(log.copied().local_inside + 8)));
    // What ended in the middle of copying does not add to the next one.
    assert_eq!(read(&format!("{FULL}\n{FULL}")).copied(), read(FULL).copied());
}

#[test]
fn other_kinds_of_backup() {
    let incr = read(INCR);
    assert_eq!((incr.copied().local_inside, incr.copied().from_primary_required), (18, 2));
    assert!(holds(incr.copied(), Some(20)));

    let delta = read(DELTA);
    assert_eq!((delta.copied().local_inside, delta.copied().from_primary_required), (0, 1));
    assert!(delta.matched() > 10 && holds(delta.copied(), Some(1)));

    let bundled = read(BUNDLED);
    assert_eq!(bundled.copied().from_primary_required, 8);
    assert!(bundled.stored_empty() > 0 && bundled.copied().local_inside > 5 && holds(bundled.copied(), None));
}

#[test]
fn backups_that_failed() {
    let log = read(TERMINATED);
    assert_eq!((log.ended(), log.label()), (Some(Ended::Terminated), None));
    let log = read(NO_PRIMARY);
    assert_eq!(log.ended(), Some(Ended::Aborted(56)));
    assert_eq!((log.copied().unable_to_check, log.messages().len()), (1, 2));
    assert_eq!(log.messages()[0].code, Some(49));
    assert_eq!(read(&FULL[..FULL.len() / 2]).ended(), None);
}

#[test]
fn progress_only_grows_and_approaches_the_total() {
    let mut log = empty();
    let mut done = 0;
    for line in INCR.lines() {
        log.line(line);
        let now = log.progress();
        assert!(now.bytes_done >= done && now.bytes_done <= now.bytes_total, "{now:?}");
        done = now.bytes_done;
    }
    // pgBackRest says 2179359 bytes; the sizes in the log are rounded.
    assert!(done.abs_diff(2_179_359) < 40_000, "{done}");
    assert_eq!(log.progress().bytes_total, done);
}

#[test]
fn restores_show_progress_and_count_nothing() {
    for text in [RESTORE, RESTORE_DELTA] {
        let log = read(text);
        assert_eq!(log.copied(), CopyCount::default());
        assert_eq!(log.ended(), Some(Ended::Completed));
        assert!(log.progress().bytes_total > 0);
    }
}

/// Lines that a proof must not survive.
fn foreign() -> impl Strategy<Value = String> {
    let name = "[a-zA-Z0-9_ (),%.]{1,20}";
    let verb =
        prop::sample::select(vec!["backup file", "match file from prior backup", "checksum resumed file"]);
    let place = prop_oneof![
        // The primary's directory read without TLS, a neighbour whose name begins alike, a way out.
        Just("/srv/demo/zone1/pg_data/base/".to_owned()),
        Just("/srv/demo/zone2/pg_data2/".to_owned()),
        Just("/srv/demo/zone2/pg_data/../x/".to_owned()),
        // Data files of the primary, another member on the same host name, another host.
        Just("localhost:/srv/demo/zone1/pg_data/base/5/".to_owned()),
        Just("localhost:/srv/demo/zone3/pg_data/".to_owned()),
        Just("localhost:/srv/demo/zone2/pg_data/base/".to_owned()),
        "[a-z]{1,8}\\.example:/srv/demo/zone1/pg_data/".prop_map(|text| text),
        // No place at all.
        Just("base/5/".to_owned()),
    ];
    (verb, place, name, 0u32..10_000).prop_map(|(verb, place, name, percent)| {
        let percent = format!("{}.{:02}", percent / 100, percent % 100);
        format!(
            "2026-11-21 03:06:04.461 P01 DETAIL: {verb} {place}{name} (8KB, {percent}%) checksum 84dd12e1"
        )
    })
}

proptest! {
    #[test]
    fn one_foreign_file_makes_the_proof_fail(line in foreign(), at in 0usize..1000) {
        let mut lines: Vec<&str> = INCR.lines().collect();
        // The command's own first line begins the log.
        lines.insert(1 + at % (lines.len() - 1), &line);
        prop_assert!(!holds(read(&lines.join("\n")).copied(), None), "{}", line);
    }

    #[test]
    fn a_lost_line_of_a_copied_file_is_missed(at in 0usize..1000) {
        let lines: Vec<&str> = INCR.lines().collect();
        let copied: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains("backup file ")).collect();
        let gone = copied[at % copied.len()];
        let rest: Vec<&str> = lines.iter().enumerate().filter(|(at, _)| *at != gone).map(|(_, l)| *l).collect();
        prop_assert!(!holds(read(&rest.join("\n")).copied(), Some(20)));
    }

    #[test]
    fn any_line_can_be_read(lines in prop::collection::vec(any::<String>(), 0..20)) {
        let mut log = empty();
        lines.iter().for_each(|line| log.line(line));
        let _ = log.progress();
    }

    #[test]
    fn a_mangled_line_is_counted_or_refused(cut in 1usize..200, which in 0usize..1000) {
        let copied: Vec<&str> = FULL.lines().filter(|line| line.contains(" backup file ")).collect();
        let line = copied[which % copied.len()];
        let cut = cut % line.len();
        prop_assume!(line.is_char_boundary(cut));
        let mut log = empty();
        log.line(&line[..cut]);
        // The front of a line is never taken for a copied file elsewhere than where the whole is.
        let c = log.copied();
        prop_assert_eq!((c.local_outside, c.remote_data), (0, 0));
    }
}

/// The wording is that of 2.50 and later, as read in their source.
#[test]
fn file_truncated_meanwhile_counts_as_stored_empty() {
    let mut log = empty();
    log.line("P01 DETAIL: store truncated file /srv/zone2/pg_data/base/5/16384");
    log.line("P00 DETAIL: store zero-length file /srv/zone2/pg_data/base/5/16385");
    assert_eq!((log.stored_empty(), log.copied()), (2, CopyCount::default()));
}
