//! Two files of a repository: `backup.info`, which says how each backup was made, and a backup's
//! `backup.manifest`, which lists its files.
//!
//! `info` shows neither whether a backup was taken from a standby nor how many files were copied. Both
//! files are read with `repo-get`, which works on every kind of repository.

use std::collections::BTreeMap;

use cellar_model::{BackupLabel, BackupType};
use serde_json::Value;

/// What `backup.info` records of one backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupRecord {
    /// Its label.
    pub label: BackupLabel,
    /// Full, diff or incr.
    pub backup_type: Option<BackupType>,
    /// The backup it builds on.
    pub prior: Option<BackupLabel>,
    /// Whether its files came from a standby.
    pub option_backup_standby: bool,
    /// Whether PostgreSQL ran, rather than its files being copied cold.
    pub option_online: bool,
    /// Whether page checksums were wrong in some file.
    pub error: Option<bool>,
    /// What was noted with `--annotation`: claims, not proof.
    pub annotations: BTreeMap<String, String>,
}

/// How many files a manifest says a backup itself holds, leaving out `backup_label` and `tablespace_map`,
/// which PostgreSQL returns and no host supplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ManifestCount {
    /// Files with content.
    pub with_content: u64,
    /// Empty files; a bundled backup notes them without copying.
    pub empty: u64,
    /// Files that an earlier backup holds.
    pub referenced: u64,
}

impl ManifestCount {
    /// Files that were copied, when the log named `stored_empty` empty ones as noted without copying.
    #[must_use]
    pub fn copied(&self, stored_empty: u64) -> u64 {
        self.with_content + self.empty.saturating_sub(stored_empty)
    }
}

/// The `key={json}` lines of one section. A key may hold `=` and braces, so the value is the first suffix that is JSON.
fn objects<'a>(file: &'a str, section: &'a str) -> impl Iterator<Item = (&'a str, Value)> {
    let mut inside = false;
    file.lines().filter_map(move |line| {
        // A key never starts with '[': manifest names begin with their target.
        if line.starts_with('[') && line.ends_with(']') && !line.contains("={") {
            inside = line[1..line.len() - 1] == *section;
            return None;
        }
        if !inside {
            return None;
        }
        line.match_indices("={").find_map(|(at, _)| {
            let value = serde_json::from_str::<Value>(&line[at + 1..]).ok()?;
            Some((&line[..at], value))
        })
    })
}

/// Reads the record of one backup from `backup.info`; `None` when it is not there.
#[must_use]
pub fn parse_backup_record(backup_info: &str, label: &BackupLabel) -> Option<BackupRecord> {
    let (_, value) = objects(backup_info, "backup:current").find(|(key, _)| *key == label.as_str())?;
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let text = |key: &str| value.get(key).and_then(Value::as_str);
    let annotations = value.get("backup-annotation").and_then(Value::as_object);
    Some(BackupRecord {
        label: label.clone(),
        backup_type: text("backup-type").and_then(|t| t.parse().ok()),
        prior: text("backup-prior").and_then(|t| t.parse().ok()),
        option_backup_standby: flag("option-backup-standby").unwrap_or(false),
        option_online: flag("option-online").unwrap_or(false),
        error: flag("backup-error"),
        annotations: annotations
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect(),
    })
}

/// Counts the files of a `backup.manifest`. Measured with 2.45 for full, incr, delta and bundled backups:
/// files without a reference, less the two that PostgreSQL returns, are exactly those that the log names.
#[must_use]
pub fn count_manifest(manifest: &str) -> ManifestCount {
    let mut count = ManifestCount::default();
    for (name, value) in objects(manifest, "target:file") {
        if matches!(name, "pg_data/backup_label" | "pg_data/tablespace_map") {
            continue;
        }
        if value.get("reference").is_some() {
            count.referenced += 1;
        } else if value.get("size").and_then(Value::as_u64) == Some(0) {
            count.empty += 1;
        } else {
            count.with_content += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKUP_INFO: &str = include_str!("../tests/fixtures/backup.info");
    const MANIFEST: &str = include_str!("../tests/fixtures/backup.manifest");

    #[test]
    fn a_real_backup_info() {
        let label: BackupLabel = "20261121-030654F".parse().unwrap();
        let record = parse_backup_record(BACKUP_INFO, &label).unwrap();
        assert!(record.option_backup_standby && record.option_online);
        assert_eq!(record.backup_type, Some(BackupType::Full));
        assert_eq!(record.error, Some(true));
        assert!(record.annotations.is_empty());
        let other = "20200101-000000F".parse().unwrap();
        assert_eq!(parse_backup_record(BACKUP_INFO, &other), None);
        let annotated = BACKUP_INFO.lines().find(|line| line.contains("backup-annotation")).unwrap();
        let label = annotated.split_once('=').unwrap().0.parse().unwrap();
        let record = parse_backup_record(BACKUP_INFO, &label).unwrap();
        assert_eq!(record.annotations["cellar-cell"], "zone2");
        assert!(record.prior.is_some());
    }

    #[test]
    fn a_backup_without_standby_says_so() {
        let primary =
            BACKUP_INFO.replace("\"option-backup-standby\":true", "\"option-backup-standby\":false");
        let label = "20261121-030654F".parse().unwrap();
        assert!(!parse_backup_record(&primary, &label).unwrap().option_backup_standby);
    }

    #[test]
    fn a_real_manifest() {
        let count = count_manifest(MANIFEST);
        assert_eq!((count.with_content, count.empty), (4, 0));
        assert!(count.referenced > 10);
    }

    #[test]
    fn names_may_hold_anything() {
        let manifest = "[target:file]\npg_data/a={b}={\"size\":0}\npg_data/[x]={\"size\":3}\n[target:link]\nx={\"size\":1}\n";
        let count = count_manifest(manifest);
        assert_eq!(count, ManifestCount { with_content: 1, empty: 1, referenced: 0 });
        assert_eq!((count.copied(0), count.copied(1), count.copied(9)), (2, 1, 1));
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in any::<String>()) {
            let _ = count_manifest(&format!("[target:file]\n{text}"));
            let _ = parse_backup_record(&format!("[backup:current]\n{text}"), &"20261121-030654F".parse().unwrap());
        }
    }
}
