//! What is wrong with the cells that are not as they should be, for a message.

use std::fmt;
use std::path::{Path, PathBuf};

/// What is wrong with one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellReport {
    /// The cell.
    pub cell: String,
    /// Its state in a few words, with the pooler's message.
    pub state: String,
    /// Its pooler's log.
    pub log: PathBuf,
    /// The log's last lines.
    pub tail: String,
}

/// The last lines of a log, indented; nothing when there are none.
pub(crate) struct Tail<'a>(pub(crate) &'a Path, pub(crate) &'a str);

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.1.is_empty() {
            return Ok(());
        }
        write!(f, "\n  the last lines of {}:", self.0.display())?;
        self.1.lines().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

/// Each cell on lines of its own.
pub(crate) struct CellReports<'a>(pub(crate) &'a [CellReport]);

impl fmt::Display for CellReports<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for report in self.0 {
            write!(f, "\n  cell {}: {}{}", report.cell, report.state, Tail(&report.log, &report.tail))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::advice::FailureKind;
    use crate::error::provision_error::ProvisionError;
    use std::time::Duration;

    #[test]
    fn cell_that_is_not_well_is_described_with_the_end_of_its_log() {
        let error = ProvisionError::NotStreaming {
            what: "not every cell streams".into(),
            after: Duration::from_secs(300),
            cells: vec![CellReport {
                cell: "zone2".into(),
                state: "seeding: restoring 20260301-101500F".into(),
                log: "/c/zone2/log/multipooler.log".into(),
                tail: "one\ntwo".into(),
            }],
        };
        assert_eq!(
            error.to_string(),
            "after 300 s not every cell streams\n  cell zone2: seeding: restoring 20260301-101500F\n  the last lines of /c/zone2/log/multipooler.log:\n    one\n    two"
        );
        assert_eq!(error.kind(), FailureKind::Failed);
    }
}
