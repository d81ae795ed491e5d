//! What must hold of pgBackRest's output, whatever it says.

use cellar_pgbackrest::{
    DetailLog, Failure, LogLine, PrimarySource, archived_segment, count_manifest, parse_backup_record,
    parse_expiry, parse_info, parse_listing, parse_verification, tool_messages,
};

/// `info --output=json`: labels and positions are read or left out, and nothing is counted twice.
pub fn info(data: &[u8]) {
    let Ok(stanzas) = parse_info(data) else { return };
    for stanza in stanzas {
        for backup in &stanza.backups {
            let label = backup.label.to_string();
            assert_eq!(label.parse().as_ref(), Ok(&backup.label));
            assert!(stanza.backup(&backup.label).is_some());
        }
    }
}

/// The detail log of a backup or restore.
pub fn detail_log(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for primary in [None, Some(primary())] {
        let mut log = DetailLog::new("/srv/zone2/pg_data", primary);
        let mut counted = 0;
        for line in text.lines() {
            log.line(line);
            let copied = log.copied();
            let all = [
                copied.local_inside,
                copied.local_outside,
                copied.from_primary_required,
                copied.remote_data,
                copied.not_understood,
                copied.unable_to_check,
                log.matched(),
            ];
            let now: u64 = all.iter().sum();
            let begins_anew = now == 0 && line.contains("backup command begin ");
            let counts = now == counted || now == counted + 1;
            assert!(counts || begins_anew, "a line counts once at most: {line:?}");
            counted = now;
            let progress = log.progress();
            assert!(progress.bytes_done <= progress.bytes_total.max(progress.bytes_done));
        }
        assert!(log.messages().len() <= 200);
        let _ = (log.label(), log.totals(), log.ended(), log.skipped(), log.stored_empty());
    }
}

fn primary() -> PrimarySource {
    PrimarySource { host: Some("localhost".to_owned()), data_directory: "/srv/zone1/pg_data".to_owned() }
}

/// The file that a line names: every line about a copied file counts, for the source or against it.
pub fn copied_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // A line break would end the line.
    let text: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    for kind in ["backup file ", "match file from prior backup ", "checksum resumed file "] {
        let mut log = DetailLog::new("/srv/zone2/pg_data", Some(primary()));
        log.line(&format!("2026-03-01 10:15:00.123 P01 DETAIL: {kind}{text}"));
        let copied = log.copied();
        let counted = copied.local_inside
            + copied.local_outside
            + copied.from_primary_required
            + copied.remote_data
            + copied.not_understood
            + log.matched();
        assert_eq!(counted, 1, "{kind}{text}");
        // What is in favour of the source is below one of the two directories, as the text says itself.
        if copied.local_inside == 1 {
            assert!(text.starts_with("/srv/zone2/pg_data/"), "{text}");
        }
        if copied.from_primary_required == 1 {
            assert!(text.starts_with("localhost:/srv/zone1/pg_data/"), "{text}");
        }
    }
}

/// Warnings and errors, and what they mean together with an exit code.
pub fn tool_errors(data: &[u8]) {
    let Some((code, log)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(log);
    let messages = tool_messages(&text);
    assert!(messages.len() <= text.lines().count());
    for exit_code in [None, Some(*code), Some(56)] {
        let failure = Failure::of_exit(exit_code, &messages);
        assert_eq!(failure.exit_code, exit_code);
        assert!(exit_code.is_some() || failure.cause.is_none(), "a signal has no code");
    }
    for line in text.lines() {
        let _ = LogLine::parse(line);
    }
}

/// `repo-ls --output=json --recurse`.
pub fn repo_list(data: &[u8]) {
    let Ok(entries) = parse_listing(data) else { return };
    assert!(entries.windows(2).all(|pair| pair[0].path < pair[1].path), "in order, each path once");
}

/// The log of `expire`: nothing is named that does not stand in it, and nothing twice.
pub fn expiry(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for dry_run in [false, true] {
        let expiry = parse_expiry(&text, dry_run);
        assert!(expiry.backups.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(expiry.wal.windows(2).all(|pair| pair[0] < pair[1]));
        for label in &expiry.backups {
            assert!(text.contains(&format!("remove expired backup {label}")));
        }
    }
    assert!(archived_segment(&text).is_none_or(|segment| text.contains(segment)));
}

/// The output of `verify`: an error in it is never lost.
pub fn verification(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let report = parse_verification(&text);
    assert!(report.damaged.len() <= 100);
    assert!(report.backups.windows(2).all(|pair| pair[0].name < pair[1].name));
    if text.lines().any(|line| line == "status: error") {
        assert_eq!(report.ok, Some(false));
    }
}

/// `backup.info` and `backup.manifest`, fetched with `repo-get`.
pub fn repo_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let label = "20261121-030604F".parse().expect("a label");
    let _ = parse_backup_record(&text, &label);
    let count = count_manifest(&text);
    let _ = count.copied(u64::MAX);
}
