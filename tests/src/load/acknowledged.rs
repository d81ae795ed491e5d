//! Rows that were acknowledged: who did it, on which timeline, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The server that acknowledged a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Its port.
    pub port: u16,
    /// The timeline on which it wrote the row. Each promotion begins another one, so one timeline has one primary.
    pub timeline: u32,
    /// When its postmaster started, in microseconds since 1970.
    pub started: u64,
}

/// A row that was acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its key.
    pub id: u64,
    /// Which of the writers wrote it.
    pub writer: usize,
    /// Who acknowledged it.
    pub server: Server,
    /// When it was asked for.
    pub begun: Instant,
    /// When the answer was there.
    pub acknowledged: Instant,
}

/// Two servers that acknowledged at the same time, if there were any: what they did.
#[must_use]
pub fn overlap(rows: &[Row]) -> Option<String> {
    let mut primaries: BTreeMap<u32, u16> = BTreeMap::new();
    for row in rows {
        let port = *primaries.entry(row.server.timeline).or_insert(row.server.port);
        if port != row.server.port {
            return Some(format!(
                "ports {port} and {} acknowledged on timeline {}",
                row.server.port, row.server.timeline
            ));
        }
    }
    // From when on each timeline is known to have been written.
    let mut written: BTreeMap<u32, Instant> = BTreeMap::new();
    for row in rows {
        let first = written.entry(row.server.timeline).or_insert(row.acknowledged);
        *first = (*first).min(row.acknowledged);
    }
    let late = rows.iter().find_map(|row| {
        let newer = written.range(row.server.timeline + 1..).find(|(_, since)| **since < row.begun);
        newer.map(|(timeline, _)| (row, *timeline))
    });
    late.map(|(row, timeline)| {
        format!(
            "row {} was asked for and acknowledged by {:?} after timeline {timeline} had acknowledged others",
            row.id, row.server
        )
    })
}

/// What is wrong with the rows that a server has, if acknowledged ones are missing.
///
/// # Errors
/// When some are: which.
pub fn all_there(rows: &[Row], there: &BTreeSet<u64>) -> Result<(), String> {
    let lost: Vec<&Row> = rows.iter().filter(|row| !there.contains(&row.id)).collect();
    let Some(first) = lost.first() else { return Ok(()) };
    Err(format!("{} of {} acknowledged rows are missing, the first {first:?}", lost.len(), rows.len()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(start: Instant, port: u16, timeline: u32, begun: u64, acknowledged: u64) -> Row {
        let at = |millis| start + Duration::from_millis(millis);
        let server = Server { port, timeline, started: 0 };
        Row { id: begun, writer: 0, server, begun: at(begun), acknowledged: at(acknowledged) }
    }

    #[test]
    fn one_primary_after_the_other_is_no_overlap_even_when_an_answer_comes_late() {
        let start = Instant::now();
        let rows = [row(start, 1, 1, 0, 30), row(start, 2, 2, 10, 20), row(start, 2, 2, 40, 50)];
        assert_eq!(overlap(&rows), None);
    }

    #[test]
    fn an_old_primary_that_acknowledges_what_was_asked_after_its_successor_did_is_one() {
        let start = Instant::now();
        let rows = [row(start, 2, 2, 10, 20), row(start, 1, 1, 21, 30)];
        assert!(overlap(&rows).is_some_and(|what| what.contains("row 21")));
    }

    #[test]
    fn two_primaries_on_one_timeline_are_one_whenever_they_wrote() {
        let start = Instant::now();
        let rows = [row(start, 1, 2, 0, 5), row(start, 2, 2, 100, 105)];
        assert!(overlap(&rows).is_some());
    }

    #[test]
    fn a_missing_row_is_named() {
        let rows = [row(Instant::now(), 1, 1, 3, 4)];
        assert_eq!(all_there(&rows, &BTreeSet::from([3])), Ok(()));
        assert!(all_there(&rows, &BTreeSet::new()).is_err_and(|what| what.contains("id: 3")));
    }
}
