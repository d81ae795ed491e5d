//! What `pg_controldata` prints.

use cellar_model::{Lsn, SegmentSize, SystemIdentifier, Timeline};

use crate::required_settings::RequiredSettings;

/// The state that `pg_control` records. Written by the server as it goes, so after a crash it
/// still says what was the case before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlState {
    /// Starting up.
    StartingUp,
    /// Shut down as a primary. A server that is killed as its crash recovery ends leaves this state, too:
    /// [`ControlData::is_last_segment_whole`] tells them apart.
    ShutDown,
    /// Cleanly shut down as a standby.
    ShutDownInRecovery,
    /// Was shutting down.
    ShuttingDown,
    /// Was recovering from a crash.
    InCrashRecovery,
    /// Was a standby, or restoring.
    InArchiveRecovery,
    /// Was running as a primary.
    InProduction,
    /// A text that this version does not know.
    Other(String),
}

/// The part of `pg_control` that decisions rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlData {
    /// The database's identity.
    pub system_identifier: SystemIdentifier,
    /// Timeline of the latest checkpoint, or the one that recovery had reached if that is higher.
    pub timeline: Timeline,
    /// What the server was doing.
    pub state: ControlState,
    /// Whether pages have checksums.
    pub data_checksums: bool,
    /// The latest checkpoint's record; of a primary that was shut down, the last record there is.
    pub checkpoint: Lsn,
    /// Where a start begins to replay, unless the directory is a backup's, which says so itself.
    pub redo: Lsn,
    /// Where a recovery must come before the data is consistent: a standby's data files are no further. Zero of a primary.
    pub min_recovery: Lsn,
    /// The size of a WAL segment.
    pub segment_size: SegmentSize,
    /// What a server needs to replay the WAL.
    pub required: RequiredSettings,
}

impl ControlState {
    fn parse(text: &str) -> Self {
        match text {
            "starting up" => Self::StartingUp,
            "shut down" => Self::ShutDown,
            "shut down in recovery" => Self::ShutDownInRecovery,
            "shutting down" => Self::ShuttingDown,
            "in crash recovery" => Self::InCrashRecovery,
            "in archive recovery" => Self::InArchiveRecovery,
            "in production" => Self::InProduction,
            other => Self::Other(other.to_owned()),
        }
    }
}

/// Where the first record of a WAL segment begins: after the long page header, `XLogLongPageHeaderData` in PostgreSQL's
/// `src/include/access/xlog_internal.h`.
const FIRST_RECORD_OFFSET: u64 = 40;

impl ControlData {
    /// Whether a primary was shut down, and all that it had written before its last checkpoint stands in whole segments.
    ///
    /// A shutdown switches to a new segment and writes its checkpoint as the first record there. The checkpoint with
    /// which a crash recovery ends sets the same state, but stands in the middle of a segment that was never archived.
    #[must_use]
    pub fn is_last_segment_whole(&self) -> bool {
        self.state == ControlState::ShutDown
            && self.segment_size.offset_of(self.checkpoint) == FIRST_RECORD_OFFSET
    }

    /// Reads the output of `pg_controldata` under `LC_ALL=C`.
    ///
    /// # Errors
    /// The label of the line that is missing or malformed.
    pub fn parse(output: &str) -> Result<Self, &'static str> {
        let value = |name: &'static str| {
            output
                .lines()
                .find_map(|line| line.split_once(':').filter(|(label, _)| label.trim() == name))
                .map(|(_, value)| value.trim())
                .ok_or(name)
        };
        let number = |name: &'static str| value(name)?.parse::<u32>().map_err(|_| name);
        const IDENTIFIER: &str = "Database system identifier";
        let lsn = |name: &'static str| value(name)?.parse().map_err(|_| name);
        let checkpoint = number("Latest checkpoint's TimeLineID")?;
        let recovery = number("Min recovery ending loc's timeline").unwrap_or(0);
        Ok(Self {
            system_identifier: value(IDENTIFIER)?.parse().map_err(|_| IDENTIFIER)?,
            timeline: Timeline::new(checkpoint.max(recovery)),
            state: ControlState::parse(value("Database cluster state")?),
            data_checksums: number("Data page checksum version")? != 0,
            checkpoint: lsn("Latest checkpoint location")?,
            redo: lsn("Latest checkpoint's REDO location")?,
            min_recovery: lsn("Minimum recovery ending location").unwrap_or(Lsn::new(0)),
            segment_size: SegmentSize::new(u64::from(number("Bytes per WAL segment")?))
                .ok_or("Bytes per WAL segment")?,
            required: RequiredSettings::read(|name| value(name).ok()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &str = "\
pg_control version number:            1300
Catalog version number:               202209061
Database system identifier:           18446744073709551615
Database cluster state:               in archive recovery
pg_control last modified:             Sun Mar  1 10:15:00 2026
Latest checkpoint location:           0/6000060
Latest checkpoint's REDO location:    0/6000028
max_connections setting:              200
Latest checkpoint's TimeLineID:       2
Latest checkpoint's PrevTimeLineID:   2
Minimum recovery ending location:     0/70000A8
Min recovery ending loc's timeline:   3
Bytes per WAL segment:                16777216
Data page checksum version:           1
";

    #[test]
    fn the_sample_is_read() {
        let expected = ControlData {
            system_identifier: SystemIdentifier::new(u64::MAX),
            timeline: Timeline::new(3),
            state: ControlState::InArchiveRecovery,
            data_checksums: true,
            checkpoint: Lsn::new(0x600_0060),
            redo: Lsn::new(0x600_0028),
            min_recovery: Lsn::new(0x700_00A8),
            segment_size: SegmentSize::default(),
            required: RequiredSettings { max_connections: 200, ..RequiredSettings::default() },
        };
        assert_eq!(ControlData::parse(SAMPLE), Ok(expected));
    }

    /// What `findings/killed-as-recovery-ends-says-shut-down.sh` measures.
    #[test]
    fn only_a_shutdown_leaves_whole_segments() {
        let read = |state: &str, checkpoint: &str| {
            let text = SAMPLE.replace("in archive recovery", state).replace("0/6000060", checkpoint);
            ControlData::parse(&text).unwrap().is_last_segment_whole()
        };
        assert!(read("shut down", "0/6000028"));
        assert!(!read("shut down", "0/5637220"), "killed as its crash recovery ended");
        assert!(!read("in production", "0/6000028"));
        assert!(!read("shut down in recovery", "0/6000028"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let without: String =
            SAMPLE.lines().filter(|l| !l.contains("state")).map(|l| format!("{l}\n")).collect();
        assert_eq!(ControlData::parse(&without), Err("Database cluster state"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(?s).{0,300}") {
            let _ = ControlData::parse(&text);
        }

        #[test]
        fn a_damaged_sample_can_be_read(at in 0..SAMPLE.len(), junk in "[ -~\n:]{0,8}") {
            let _ = ControlData::parse(&format!("{}{junk}{}", &SAMPLE[..at], &SAMPLE[at..]));
            let _ = ControlData::parse(&SAMPLE[..at]);
        }
    }
}
