//! What must hold of the texts that become names, positions and records.

use cellar_model::{
    Archive, BackupLabel, Calendar, CellName, ClusterName, History, Incarnation, JobId, JobRecord, Keyspace,
    Leader, Lineage, Lock, Lsn, Pooler, PoolerStatus, Principal, RestorePointName, Run, Schedule,
    SegmentSize, StanzaName, Target, Timeline, parse_timestamp, path_fault, timestamp_text,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A timeline's history file, and the way to a position that follows from it.
pub fn history(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(history) = text.parse::<History>() else { return };
    let rising = history.0.windows(2).all(|pair| pair[0].timeline < pair[1].timeline);
    assert!(rising, "ancestors are older than their children");
    let archive = Archive::default();
    for timeline in [1, 2, u32::MAX] {
        let lineage = Lineage::new(Timeline::new(timeline), &history);
        assert_eq!(lineage.timeline(), Timeline::new(timeline));
        assert!(lineage.contains(lineage.timeline(), lineage.begins_at()));
        for number in [0, 1, archive.size.number_of(lineage.begins_at()), u64::MAX / archive.size.bytes()] {
            for segment in lineage.files(number, archive.size) {
                let name = archive.size.file_name(segment);
                assert_eq!(name.len(), 24, "{name}");
                assert_eq!(archive.size.parse_file_name(&name), Some(segment));
            }
        }
        assert_eq!((lineage.newest(&archive), lineage.last_without_gap(0, &archive)), (None, None));
        assert!(lineage.missing(3, 5, &archive).count <= 3);
    }
}

fn same<T: std::str::FromStr + std::fmt::Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

/// Names, labels, ids, positions, keys and times.
pub fn texts(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    same::<CellName>(text);
    same::<StanzaName>(text);
    same::<BackupLabel>(text);
    same::<JobId>(text);
    same::<RestorePointName>(text);
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    for bytes in [1 << 20, 16 << 20, 1 << 30] {
        let size = SegmentSize::new(bytes).expect("a size");
        if let Some(segment) = size.parse_file_name(text) {
            assert_eq!(size.file_name(segment), text);
        }
    }
    if let Ok(time) = parse_timestamp(text) {
        let shown = timestamp_text(time);
        let again = parse_timestamp(&shown).map(timestamp_text);
        assert_eq!(again.ok().as_ref(), Some(&shown), "{text}");
    }
    let cluster: ClusterName = "demo".parse().expect("a name");
    let keys = Keyspace::new(&cluster);
    if let Some(key) = keys.parse(text) {
        assert_eq!(keys.path(&key), text);
    }
    if Principal::parse(text, &cluster).is_some() {
        assert!(text.starts_with("spiffe://demo/"));
    }
    let _ = path_fault(text);
    calendar(text);
}

/// Five fields and a zone: their times lie in the future and rise.
fn calendar(text: &str) {
    let (cron, zone) = text.rsplit_once(' ').unwrap_or((text, ""));
    for calendar in [Calendar::new(text, ""), Calendar::new(cron, zone)].into_iter().flatten() {
        let again = Calendar::new(calendar.cron(), calendar.time_zone());
        assert_eq!(again.as_ref(), Ok(&calendar));
        let mut after = parse_timestamp("2026-03-28T22:59:59Z").expect("a time");
        for _ in 0..5 {
            let Some(next) = calendar.next(after) else { break };
            assert!(next > after, "{calendar}: {next} is not after {after}");
            after = next;
        }
    }
}

/// What is read from etcd is written back as it is understood.
fn record<T: DeserializeOwned + Serialize>(data: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(data) else { return };
    let text = serde_json::to_string(&value).expect("every record can be written");
    // The texts, for times are cut to microseconds when they are written.
    let again = serde_json::from_str::<T>(&text).map(|value| serde_json::to_string(&value).ok());
    assert_eq!(again.ok().flatten().as_ref(), Some(&text));
}

/// The values of etcd's keys.
pub fn records(data: &[u8]) {
    record::<JobRecord>(data);
    record::<Run>(data);
    record::<Pooler>(data);
    record::<PoolerStatus>(data);
    record::<Leader>(data);
    record::<Lock>(data);
    record::<Incarnation>(data);
    record::<Schedule>(data);
    record::<Target>(data);
}
