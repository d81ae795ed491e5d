//! Hostile texts against every type that is parsed at the edge: refused, or kept as they are and harmless where the type is
//! used as a file name, an argument or a key.

use std::fmt::Display;
use std::str::FromStr;

use cellar_model::{
    BackupLabel, BackupType, CellName, ClusterName, DatabaseName, JobId, Lsn, OperatorRole, RequestId,
    RestorePointName, StanzaName, SystemIdentifier, parse_timestamp, path_fault, value_fault,
};
use proptest::prelude::*;

const HOSTILE: &[&str] = include!("../../../fuzz/hostile.rs");

/// Texts like the hostile ones: one of them, two of them together, a good one with one of them behind it, or anything.
fn hostile() -> impl Strategy<Value = String> {
    let one = || prop::sample::select(HOSTILE).prop_map(str::to_owned);
    let good = ["zone1", "20260301-101500F", "0/3000148", "7", "018f0000-0000-7000-8000-000000000000"];
    prop_oneof![
        one(),
        (one(), one()).prop_map(|(a, b)| a + &b),
        (prop::sample::select(good.to_vec()), one()).prop_map(|(a, b)| a.to_owned() + &b),
        "(?s).{0,80}",
        Just("a".repeat(70_000)),
    ]
}

/// What a type that accepts the text shows of it.
fn spelling<T: FromStr + Display>(text: &str) -> Option<String> {
    text.parse::<T>().ok().map(|value| value.to_string())
}

/// Fit for a file name, an argument and a segment of a key.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && !text.starts_with(['-', '.'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn holds(text: &str) -> Result<(), TestCaseError> {
    for name in [
        spelling::<ClusterName>(text),
        spelling::<CellName>(text),
        spelling::<DatabaseName>(text),
        spelling::<StanzaName>(text),
        spelling::<BackupLabel>(text),
        spelling::<JobId>(text),
        spelling::<BackupType>(text),
    ]
    .into_iter()
    .flatten()
    {
        prop_assert_eq!(&name, text);
        prop_assert!(is_plain(&name), "{name:?}");
    }
    if let Some(lsn) = spelling::<Lsn>(text) {
        prop_assert!(lsn.bytes().all(|b| b.is_ascii_hexdigit() || b == b'/') && lsn.len() <= 17, "{lsn:?}");
        prop_assert_eq!(spelling::<Lsn>(&lsn), Some(lsn));
    }
    if let Some(number) = spelling::<SystemIdentifier>(text) {
        prop_assert!(number.bytes().all(|b| b.is_ascii_digit()), "{number:?}");
    }
    if let Ok(name) = text.parse::<RestorePointName>() {
        prop_assert_eq!(name.as_str(), text);
        prop_assert!(text.len() <= 63 && !text.contains(['\0', '\n', '\r']));
    }
    if let Ok(id) = text.parse::<RequestId>() {
        prop_assert_eq!(String::from(id), text);
        prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= 128);
    }
    let _ = (text.parse::<OperatorRole>(), parse_timestamp(text));
    if value_fault(text).is_none() {
        prop_assert!(!text.contains(['\0', '\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']), "{text:?}");
        prop_assert_eq!(text.trim(), text);
    }
    if path_fault(text).is_none() {
        let parts = text.split('/').skip(1);
        prop_assert!(
            text.starts_with('/') && parts.clone().all(|part| !["", ".", ".."].contains(&part)),
            "{text:?}"
        );
        prop_assert!(!text.contains(|c: char| "'\"\\`$;&|<>*?#%~!".contains(c)), "{text:?}");
    }
    Ok(())
}

#[test]
fn every_hostile_text_is_refused_or_harmless() {
    for text in HOSTILE {
        holds(text).unwrap();
    }
}

/// Whether it comes in as a record's JSON, which is what etcd holds.
fn through_json<T: serde::de::DeserializeOwned>(text: &str) -> bool {
    serde_json::from_value::<T>(serde_json::Value::String(text.to_owned())).is_ok()
}

proptest! {
    #[test]
    fn texts_like_them_too(text in hostile()) {
        holds(&text)?;
    }

    #[test]
    fn json_opens_no_other_way(text in hostile()) {
        prop_assert_eq!(through_json::<CellName>(&text), text.parse::<CellName>().is_ok());
        prop_assert_eq!(through_json::<DatabaseName>(&text), text.parse::<DatabaseName>().is_ok());
        prop_assert_eq!(through_json::<StanzaName>(&text), text.parse::<StanzaName>().is_ok());
        prop_assert_eq!(through_json::<BackupLabel>(&text), text.parse::<BackupLabel>().is_ok());
        prop_assert_eq!(through_json::<JobId>(&text), text.parse::<JobId>().is_ok());
        prop_assert_eq!(through_json::<RestorePointName>(&text), text.parse::<RestorePointName>().is_ok());
    }
}
