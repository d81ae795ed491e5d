//! What differs between versions of pgBackRest, in one table.
//!
//! Whatever depends on the version asks [`Version::has`]. A version that is newer than the table is taken to behave as
//! the newest one in it.

use std::fmt;
use std::str::FromStr;

/// A version of pgBackRest, such as 2.45 or 2.55.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: Option<u32>,
}

/// The text is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version of pgBackRest")]
pub struct VersionError(String);

const fn version(major: u32, minor: u32) -> Version {
    // Without a patch: at or before every release of that minor version.
    Version { major, minor, patch: None }
}

/// The newest version that Cellar was tested with.
pub const NEWEST_TESTED: Version = Version { major: 2, minor: 60, patch: Some(0) };

/// A behaviour that not every version has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// `expire` logs the WAL of every timeline that it deletes.
    ExpireLogsEveryTimeline,
    /// Repositories can be reached over SFTP.
    Sftp,
    /// An Azure store may ask the machine for its identity (`repo-azure-key-type=auto`).
    AzureIdentities,
    /// `restore` and `expire` end at a backup with page errors, unless `--no-checksum-page-error` is given.
    PageErrorsEndRestoreAndExpire,
}

/// One difference between versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The first version that behaves so.
    pub since: Version,
    /// What Cellar does differently then; none where one way fits all versions.
    pub behaviour: Option<Behaviour>,
    /// What the version does, and what older ones do.
    pub what: &'static str,
    /// Where this is known from.
    pub source: &'static str,
}

/// Every difference that Cellar depends on, oldest first.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        since: version(2, 41),
        behaviour: None,
        what: "backups can be annotated, which the mark of a proof needs",
        source: "release notes; measured with 2.45",
    },
    Difference {
        since: version(2, 46),
        behaviour: Some(Behaviour::Sftp),
        what: "a repository may be reached over SFTP; older versions refuse `repo-type=sftp` (32), so Cellar does before anything is started",
        source: "release notes; the refusal measured with 2.45",
    },
    Difference {
        since: version(2, 50),
        behaviour: None,
        what: "a bundled backup logs `store truncated file` for a file that lost its content meanwhile",
        source: "src/command/backup/backup.c of release/2.50, read",
    },
    Difference {
        since: version(2, 55),
        behaviour: Some(Behaviour::ExpireLogsEveryTimeline),
        what: "expire logs the WAL of every timeline; 2.45 logs that of the newest only",
        source: "measured with 2.45 and 2.55.1",
    },
    Difference {
        since: version(2, 55),
        behaviour: None,
        what: "restore checks that the backup leads to the target timeline, which is the newest one unless `--target-timeline=current` is given: 58 otherwise. All versions accept the option, so it is always given",
        source: "measured with 2.45, 2.55.1 and 2.60.0",
    },
    Difference {
        since: version(2, 58),
        behaviour: Some(Behaviour::AzureIdentities),
        what: "`repo-azure-key-type=auto` takes the identity of the machine",
        source: "release notes",
    },
    Difference {
        since: version(2, 60),
        behaviour: Some(Behaviour::PageErrorsEndRestoreAndExpire),
        what: "`checksum-page-error` is on by default: restore ends with 26 and expire with 104; older versions do not know the option (31)",
        source: "measured with 2.45, 2.55.1 and 2.60.0",
    },
];

impl Behaviour {
    /// The first version that has it.
    #[must_use]
    pub fn since(self) -> Option<Version> {
        DIFFERENCES.iter().find(|row| row.behaviour == Some(self)).map(|row| row.since)
    }
}

impl Version {
    /// Whether this version has a behaviour.
    #[must_use]
    pub fn has(self, behaviour: Behaviour) -> bool {
        DIFFERENCES.iter().any(|row| row.behaviour == Some(behaviour) && row.since <= self)
    }

    /// What `cellar doctor` notes about it; none for a version that Cellar was tested with.
    #[must_use]
    pub fn note(self) -> Option<String> {
        (self > NEWEST_TESTED).then(|| {
            format!("pgBackRest {self} is newer than {NEWEST_TESTED}, the newest that Cellar was tested with; it is used as {NEWEST_TESTED} is")
        })
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads `2.45`, `2.55.1`, and what begins so (`2.61dev`).
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let bad = || VersionError(text.chars().take(40).collect());
        let mut parts = text.trim().splitn(3, '.').map(|part| {
            let digits = part.bytes().take_while(u8::is_ascii_digit).count();
            part[..digits].parse::<u32>()
        });
        let mut next = || parts.next().map(|part| part.map_err(|_| bad())).transpose();
        let (major, minor) = (next()?.ok_or_else(bad)?, next()?.ok_or_else(bad)?);
        Ok(Self { major, minor, patch: next()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.patch {
            None => write!(f, "{}.{}", self.major, self.minor),
            Some(patch) => write!(f, "{}.{}.{patch}", self.major, self.minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn versions_are_read_and_ordered() {
        assert_eq!(parsed("2.45"), version(2, 45));
        assert_eq!(parsed("2.55.1\n"), Version { patch: Some(1), ..version(2, 55) });
        assert_eq!(parsed("2.61dev"), parsed("2.61"));
        assert!(parsed("2.9") < parsed("2.45") && parsed("2.55") < parsed("2.55.1"));
        assert_eq!(
            (parsed("2.60.0").to_string(), parsed("2.45").to_string()),
            ("2.60.0".into(), "2.45".into())
        );
        for bad in ["", "2", "x.45", "2.x", "pgBackRest"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn behaviour_begins_with_its_version_and_stays() {
        let page_errors = |text| parsed(text).has(Behaviour::PageErrorsEndRestoreAndExpire);
        assert!(
            !page_errors("2.45") && !page_errors("2.59.9") && page_errors("2.60.0") && page_errors("3.0")
        );
        assert!(!parsed("2.54").has(Behaviour::ExpireLogsEveryTimeline));
        assert!(parsed("2.55.1").has(Behaviour::ExpireLogsEveryTimeline));
        assert!(DIFFERENCES.is_sorted_by_key(|row| row.since));
    }

    #[test]
    fn only_a_version_newer_than_the_newest_tested_is_noted() {
        assert_eq!(parsed("2.45").note(), None);
        assert_eq!(NEWEST_TESTED.note(), None);
        assert!(parsed("2.60.1").note().is_some_and(|note| note.contains("2.60.1 is newer than 2.60.0,")));
    }

    proptest! {
        #[test]
        fn any_text_can_be_read(text in any::<String>()) {
            let _ = text.parse::<Version>();
        }
    }
}
