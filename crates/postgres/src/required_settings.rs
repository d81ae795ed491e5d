//! The settings that a server needs to replay WAL, as the primary had them when it wrote that WAL.
//!
//! `pg_control` records them. Replay updates the record when it meets a change of them, before it stops because of it, so
//! the control data of a server that stopped tells what the next start needs.

/// What replay demands, from `pg_control`. A server with lower values stops its recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequiredSettings {
    /// Client connections.
    pub max_connections: u32,
    /// Background workers.
    pub max_worker_processes: u32,
    /// Senders of WAL.
    pub max_wal_senders: u32,
    /// Transactions that are prepared and not yet committed.
    pub max_prepared_transactions: u32,
    /// Locks for each connection.
    pub max_locks_per_transaction: u32,
    /// Whether the WAL is written for logical decoding. Without it a server with logical slots does not start.
    pub logical: bool,
    /// Whether the time of each commit is kept. A server without it deletes the times that were kept.
    pub track_commit_timestamp: bool,
}

impl RequiredSettings {
    /// Reads them from the lines of `pg_controldata`, of which `value` gives one by its label. A line that is not there
    /// demands nothing.
    pub(crate) fn read<'a>(value: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        let number = |label| value(label).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            max_connections: number("max_connections setting"),
            max_worker_processes: number("max_worker_processes setting"),
            max_wal_senders: number("max_wal_senders setting"),
            max_prepared_transactions: number("max_prepared_xacts setting"),
            max_locks_per_transaction: number("max_locks_per_xact setting"),
            logical: value("wal_level setting") == Some("logical"),
            track_commit_timestamp: value("track_commit_timestamp setting") == Some("on"),
        }
    }

    /// The numbers that a server compares before it replays, with their names.
    #[must_use]
    pub fn numbers(&self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }

    /// What satisfies both.
    #[must_use]
    pub fn greatest(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.max(other.max_connections),
            max_worker_processes: self.max_worker_processes.max(other.max_worker_processes),
            max_wal_senders: self.max_wal_senders.max(other.max_wal_senders),
            max_prepared_transactions: self.max_prepared_transactions.max(other.max_prepared_transactions),
            max_locks_per_transaction: self.max_locks_per_transaction.max(other.max_locks_per_transaction),
            logical: self.logical || other.logical,
            track_commit_timestamp: self.track_commit_timestamp || other.track_commit_timestamp,
        }
    }

    /// The first setting that is too small to replay WAL that demands `other`: name, value, and what is demanded.
    #[must_use]
    pub fn first_below(&self, other: &Self) -> Option<(&'static str, u32, u32)> {
        let pairs = self.numbers().into_iter().zip(other.numbers());
        pairs.map(|((name, have), (_, need))| (name, have, need)).find(|(_, have, need)| have < need)
    }

    /// Whether a server with these settings replays WAL that demands `other`.
    #[must_use]
    pub fn suffice_for(&self, other: &Self) -> bool {
        self.first_below(other).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_of_two_suffices_for_both() {
        let lines = [
            ("max_connections setting", "200"),
            ("max_prepared_xacts setting", "7"),
            ("wal_level setting", "logical"),
            ("track_commit_timestamp setting", "on"),
        ];
        let read = RequiredSettings::read(|label| {
            lines.iter().find(|(name, _)| *name == label).map(|(_, value)| *value)
        });
        assert_eq!((read.max_connections, read.max_prepared_transactions), (200, 7));
        assert!(read.logical && read.track_commit_timestamp);
        let other = RequiredSettings { max_connections: 100, max_wal_senders: 16, ..Default::default() };
        assert!(!other.suffice_for(&read) && !read.suffice_for(&other));
        assert_eq!(other.first_below(&read), Some(("max_connections", 100, 200)));
        let both = read.greatest(other);
        assert!(both.suffice_for(&read) && both.suffice_for(&other) && both.logical);
    }
}
