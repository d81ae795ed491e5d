//! `pgbackrest info --output=json`.
//!
//! Every field may be missing: versions differ, and the command answers with
//! exit code 0 also when there is no stanza or no backup.

use std::collections::BTreeMap;

use cellar_model::{BackupLabel, BackupType, Lsn};
use serde::Deserialize;
use serde_json::Value;

use crate::error::Error;

/// What the repository has of a stanza.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StanzaStatus {
    /// 0: at least one backup.
    Ok,
    /// 1: the stanza was never created.
    MissingStanzaPath,
    /// 2: no backup yet.
    NoBackup,
    /// 3: the stanza's files are gone.
    MissingStanzaData,
    /// 4: the repositories differ.
    Mixed,
    /// 5: the repositories are of different instances of PostgreSQL.
    PostgresMismatch,
    /// 6: the backup asked for is not there.
    BackupMissing,
    /// 99, or any code that is not known.
    Other(i64),
}

impl StanzaStatus {
    fn of(code: i64) -> Self {
        match code {
            0 => Self::Ok,
            1 => Self::MissingStanzaPath,
            2 => Self::NoBackup,
            3 => Self::MissingStanzaData,
            4 => Self::Mixed,
            5 => Self::PostgresMismatch,
            6 => Self::BackupMissing,
            other => Self::Other(other),
        }
    }
}

/// A stanza as the repository has it.
#[derive(Debug, Clone, PartialEq)]
pub struct StanzaInfo {
    /// Its name.
    pub name: String,
    /// Its state.
    pub status: StanzaStatus,
    /// pgBackRest's words for the state, those of the repository where it has its own.
    pub message: String,
    /// Whether a backup or expire holds the lock on the host where `info` ran.
    pub backup_lock_held: bool,
    /// Its backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Entries of `backups` that have no readable label or type.
    pub unreadable_backups: usize,
    /// The instances of PostgreSQL it was for, oldest first.
    pub databases: Vec<DatabaseInfo>,
    /// The archived WAL, one entry for each instance and repository.
    pub archives: Vec<ArchiveInfo>,
}

impl StanzaInfo {
    /// The backup of that label.
    #[must_use]
    pub fn backup(&self, label: &BackupLabel) -> Option<&BackupInfo> {
        self.backups.iter().find(|backup| backup.label == *label)
    }
}

/// One backup.
#[derive(Debug, Clone, PartialEq)]
pub struct BackupInfo {
    /// Its label.
    pub label: BackupLabel,
    /// Full, diff or incr.
    pub backup_type: BackupType,
    /// The backup it builds on.
    pub prior: Option<BackupLabel>,
    /// Every backup it needs.
    pub references: Vec<BackupLabel>,
    /// First WAL segment needed.
    pub archive_start: Option<String>,
    /// Last WAL segment needed.
    pub archive_stop: Option<String>,
    /// First position needed.
    pub lsn_start: Option<Lsn>,
    /// Position at which it is consistent.
    pub lsn_stop: Option<Lsn>,
    /// Seconds since 1970 when it began.
    pub started: Option<i64>,
    /// Seconds since 1970 when it ended.
    pub stopped: Option<i64>,
    /// Bytes of the database.
    pub size: Option<u64>,
    /// Bytes copied from the database.
    pub size_delta: Option<u64>,
    /// Bytes in the repository of this backup and all that it needs; absent with block incremental.
    pub repo_size: Option<u64>,
    /// Bytes this backup added to the repository.
    pub repo_size_delta: Option<u64>,
    /// Whether page checksums were wrong in some file.
    pub error: Option<bool>,
    /// What was noted with `--annotation`: claims, not proof.
    pub annotations: BTreeMap<String, String>,
    /// The entry of `databases` it is of.
    pub database_id: Option<u64>,
    /// The repository's number.
    pub repo_key: Option<u64>,
    /// Version of pgBackRest that made it.
    pub pgbackrest_version: Option<String>,
}

/// One instance of PostgreSQL a stanza was for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseInfo {
    /// Its number in the stanza's history.
    pub id: u64,
    /// The repository's number.
    pub repo_key: Option<u64>,
    /// PostgreSQL's system identifier.
    pub system_identifier: Option<u64>,
    /// PostgreSQL's version, such as `15`.
    pub version: Option<String>,
}

/// Archived WAL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveInfo {
    /// Its directory, such as `15-1`.
    pub id: String,
    /// The entry of `databases` it is of.
    pub database_id: Option<u64>,
    /// Oldest segment.
    pub min: Option<String>,
    /// Newest segment.
    pub max: Option<String>,
}

fn text(value: &Value, path: &str) -> Option<String> {
    value.pointer(path).and_then(Value::as_str).map(str::to_owned)
}

fn number(value: &Value, path: &str) -> Option<u64> {
    value.pointer(path).and_then(Value::as_u64)
}

fn parsed<T: std::str::FromStr>(value: &Value, path: &str) -> Option<T> {
    value.pointer(path).and_then(Value::as_str).and_then(|text| text.parse().ok())
}

fn items<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    value.pointer(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn annotations(value: &Value) -> BTreeMap<String, String> {
    let object = value.get("annotation").and_then(Value::as_object);
    object.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

impl BackupInfo {
    fn of(value: &Value) -> Option<Self> {
        Some(Self {
            label: parsed(value, "/label")?,
            backup_type: parsed(value, "/type")?,
            prior: parsed(value, "/prior"),
            references: items(value, "/reference")
                .iter()
                .filter_map(|label| label.as_str()?.parse().ok())
                .collect(),
            archive_start: text(value, "/archive/start"),
            archive_stop: text(value, "/archive/stop"),
            lsn_start: parsed(value, "/lsn/start"),
            lsn_stop: parsed(value, "/lsn/stop"),
            started: value.pointer("/timestamp/start").and_then(Value::as_i64),
            stopped: value.pointer("/timestamp/stop").and_then(Value::as_i64),
            size: number(value, "/info/size"),
            size_delta: number(value, "/info/delta"),
            repo_size: number(value, "/info/repository/size"),
            repo_size_delta: number(value, "/info/repository/delta"),
            error: value.get("error").and_then(Value::as_bool),
            annotations: annotations(value),
            database_id: number(value, "/database/id"),
            repo_key: number(value, "/database/repo-key"),
            pgbackrest_version: text(value, "/backrest/version"),
        })
    }
}

/// pgBackRest's words for the state. Of a repository that it could not read, the stanza's own are `other`, and only the
/// repository's say why.
fn message(value: &Value) -> String {
    let of_stanza = text(value, "/status/message").unwrap_or_default();
    let code = number(value, "/status/code");
    let of_repo = items(value, "/repo").iter().find(|repo| number(repo, "/status/code") == code);
    of_repo.and_then(|repo| text(repo, "/status/message")).unwrap_or(of_stanza)
}

impl StanzaInfo {
    fn of(value: &Value) -> Option<Self> {
        let all = items(value, "/backup");
        let backups: Vec<BackupInfo> = all.iter().filter_map(BackupInfo::of).collect();
        Some(Self {
            name: text(value, "/name")?,
            status: StanzaStatus::of(value.pointer("/status/code").and_then(Value::as_i64).unwrap_or(99)),
            message: message(value),
            backup_lock_held: value
                .pointer("/status/lock/backup/held")
                .and_then(Value::as_bool)
                .unwrap_or_default(),
            unreadable_backups: all.len() - backups.len(),
            backups,
            databases: items(value, "/db")
                .iter()
                .filter_map(|db| {
                    Some(DatabaseInfo {
                        id: number(db, "/id")?,
                        repo_key: number(db, "/repo-key"),
                        system_identifier: number(db, "/system-id"),
                        version: text(db, "/version"),
                    })
                })
                .collect(),
            archives: items(value, "/archive")
                .iter()
                .filter_map(|archive| {
                    Some(ArchiveInfo {
                        id: text(archive, "/id")?,
                        database_id: number(archive, "/database/id"),
                        min: text(archive, "/min"),
                        max: text(archive, "/max"),
                    })
                })
                .collect(),
        })
    }
}

/// Reads the answer of `info --output=json`: every stanza in it that has a name.
///
/// # Errors
/// When it is not a JSON array.
pub fn parse_info(json: &[u8]) -> Result<Vec<StanzaInfo>, Error> {
    // With a set, it lists the databases, in bytes that are not UTF-8 when a name was written in another encoding.
    let json = String::from_utf8_lossy(json);
    let stanzas = Vec::<Value>::deserialize(&mut serde_json::Deserializer::from_str(&json))
        .map_err(|source| Error::Unreadable { what: "the answer of pgbackrest info".to_owned(), source })?;
    Ok(stanzas.iter().filter_map(StanzaInfo::of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REAL: &str = include_str!("../tests/fixtures/info-2.45.json");

    #[test]
    fn a_name_that_is_not_utf_8_hides_nothing_else() {
        let mut json = REAL.as_bytes().to_vec();
        let at = REAL.find("\"backup\":[{").unwrap() + "\"backup\":[{".len();
        json.splice(at..at, b"\"database-ref\":[{\"name\":\"caf\xe9\",\"oid\":16384}],".iter().copied());
        assert_eq!(parse_info(&json).unwrap(), parse_info(REAL.as_bytes()).unwrap());
    }

    #[test]
    fn a_real_answer_is_read_whole() {
        let stanzas = parse_info(REAL.as_bytes()).unwrap();
        let stanza = &stanzas[0];
        assert_eq!((stanza.name.as_str(), stanza.status), ("st", StanzaStatus::Ok));
        assert_eq!(stanza.unreadable_backups, 0);
        assert_eq!(stanza.databases[0].system_identifier, Some(7_710_455_029_935_115_472));
        assert_eq!(stanza.archives[0].id, "15-1");
        let last = stanza.backups.last().unwrap();
        assert_eq!(last.backup_type, BackupType::Incr);
        assert_eq!(last.prior.as_ref(), last.references.last());
        assert_eq!(last.annotations["cellar-cell"], "zone2");
        assert!(last.lsn_stop > last.lsn_start && last.stopped >= last.started);
        assert!(last.repo_size.is_some() && last.size > last.size_delta);
        assert_eq!(stanza.backup(&last.label), Some(last));
    }

    #[test]
    fn a_stanza_that_is_not_there() {
        let stanzas = parse_info(
            br#"[{"archive":[],"backup":[],"cipher":"none","db":[],"name":"nope","status":{"code":1,"lock":{"backup":{"held":true}},"message":"missing stanza path"}}]"#,
        )
        .unwrap();
        assert_eq!(stanzas[0].status, StanzaStatus::MissingStanzaPath);
        assert!(stanzas[0].backup_lock_held);
        assert!(parse_info(b"").is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let keys = prop::sample::select(vec![
            "name",
            "status",
            "code",
            "backup",
            "label",
            "type",
            "lsn",
            "info",
            "annotation",
            "database",
            "id",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keys.clone().prop_map(str::to_owned), inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_can_be_read(value in any_json()) {
            let _ = parse_info(Value::from(vec![value]).to_string().as_bytes());
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_info(&bytes);
        }

        #[test]
        fn a_truncated_answer_can_be_read(cut in 0..REAL.len()) {
            let _ = parse_info(&REAL.as_bytes()[..cut]);
        }
    }
}
