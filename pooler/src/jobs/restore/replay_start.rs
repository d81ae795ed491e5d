//! Where a start of PostgreSQL begins to replay.

use std::io::ErrorKind;
use std::path::Path;

use cellar_model::Lsn;
use cellar_postgres::ControlData;

/// Where a start in this data directory begins to replay: a backup says so itself, in `backup_label`, until it has
/// become consistent; else `pg_control` does.
///
/// # Errors
/// When the label cannot be read.
pub(super) fn replay_start(data: &Path, control: &ControlData) -> std::io::Result<Lsn> {
    match std::fs::read(data.join("backup_label")) {
        Ok(bytes) => labeled(&String::from_utf8_lossy(&bytes)).ok_or_else(|| {
            std::io::Error::new(ErrorKind::InvalidData, "backup_label names no start of the WAL")
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(control.redo),
        Err(error) => Err(error),
    }
}

/// Reads `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`.
fn labeled(label: &str) -> Option<Lsn> {
    let line = label.lines().find_map(|line| line.strip_prefix("START WAL LOCATION: "))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_label_names_the_start() {
        let label =
            "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n";
        assert_eq!(labeled(label), Some(Lsn::new(0x200_0028)));
        assert_eq!(labeled("CHECKPOINT LOCATION: 0/2000060\n"), None);
    }
}
