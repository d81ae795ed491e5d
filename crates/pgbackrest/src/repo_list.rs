//! `pgbackrest repo-ls --output=json`: the files of a repository, with their times.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

use crate::error::Error;

/// A file or directory of the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoEntry {
    /// Its path, relative to the one that was listed.
    pub path: String,
    /// Whether it is a file.
    pub is_file: bool,
    /// Bytes; 0 when the answer does not say.
    pub size: u64,
    /// When it was written, if the answer says.
    pub time: Option<Timestamp>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    time: Option<i64>,
}

/// Reads an answer; entries come in the order of their paths.
///
/// # Errors
/// When it is not JSON of that shape.
pub fn parse_listing(json: &[u8]) -> Result<Vec<RepoEntry>, Error> {
    // A file of PostgreSQL's directory may have any name, and is called so in the repository.
    let entries: BTreeMap<String, Raw> =
        serde_json::from_str(&String::from_utf8_lossy(json)).map_err(|source| Error::Unreadable {
            what: "the answer of pgbackrest repo-ls".to_owned(),
            source,
        })?;
    Ok(entries
        .into_iter()
        .map(|(path, raw)| RepoEntry {
            path,
            is_file: raw.kind == "file",
            size: raw.size,
            time: raw.time.and_then(|seconds| Timestamp::from_second(seconds).ok()),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_answer_of_2_45_is_read() {
        let json = br#"{".":{"type":"path"},"15-1/00000002.history":{"type":"file","size":41,"time":1772360100},"15-1/0000000100000000":{"type":"path"}}"#;
        let entries = parse_listing(json).unwrap();
        assert_eq!(entries.len(), 3);
        let history = entries.iter().find(|entry| entry.is_file).unwrap();
        assert_eq!((history.path.as_str(), history.size), ("15-1/00000002.history", 41));
        assert_eq!(history.time.unwrap().as_second(), 1_772_360_100);
    }

    #[test]
    fn a_name_that_is_not_utf_8_hides_no_other() {
        let json = b"{\"caf\xe9.gz\":{\"type\":\"file\",\"size\":1},\"x\":{\"type\":\"file\",\"size\":2}}";
        assert_eq!(parse_listing(json).unwrap().len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_listing(&bytes);
        }
    }
}
