//! What a start must allow because of the replication slots that are in a data directory: a server does not start with more of
//! them than `max_replication_slots`, nor with logical ones below `wal_level = logical`.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use crate::command::run;
use crate::plain_settings::PlainSettings;
use crate::tools::Tools;

/// How long `postgres` may take to show one of its settings.
const SETTING_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a slot's file has the database that it decodes, which a physical slot has not: behind four numbers and its name
/// (`ReplicationSlotOnDisk` in PostgreSQL's `slot.c`, the same since version 9.4).
const DATABASE: usize = 4 * 4 + 64;

#[derive(Debug, Default, PartialEq, Eq)]
struct SlotsOnDisk {
    count: u32,
    has_logical: bool,
}

impl SlotsOnDisk {
    /// What is in the data directory. What cannot be read is PostgreSQL's to complain of.
    fn of(data_directory: &Path) -> Self {
        let mut found = Self::default();
        let Ok(entries) = std::fs::read_dir(data_directory.join("pg_replslot")) else { return found };
        for entry in entries.flatten() {
            let mut begin = [0; DATABASE + 4];
            let read =
                File::open(entry.path().join("state")).and_then(|mut file| file.read_exact(&mut begin));
            if read.is_ok() {
                found.count += 1;
                found.has_logical |= begin[DATABASE..].iter().any(|byte| *byte != 0);
            }
        }
        found
    }
}

/// The options of `postgres` that raise what is too small for the slots that are there. The configuration, which a person may have
/// changed meanwhile, counts again once they are gone.
pub(crate) async fn raised_for_slots(tools: &Tools, data_directory: &Path) -> Vec<String> {
    let found = SlotsOnDisk::of(data_directory);
    let mut raised = Vec::new();
    let plain = PlainSettings::of(data_directory)
        .and_then(|plain| plain.number("max_replication_slots"))
        .unwrap_or(0);
    if plain < found.count {
        let shown = show(tools, data_directory, "max_replication_slots").await;
        if shown.and_then(|text| text.parse().ok()).is_some_and(|shown: u32| shown < found.count) {
            raised.push(format!("-c max_replication_slots={}", found.count));
        }
    }
    if found.has_logical && show(tools, data_directory, "wal_level").await.is_some_and(|it| it != "logical") {
        raised.push("-c wal_level=logical".to_owned());
    }
    if !raised.is_empty() {
        tracing::warn!(?raised, "there are replication slots that the configuration has no room for");
    }
    raised
}

/// What a setting will be; none when the configuration cannot be read, which fails the start and says why.
async fn show(tools: &Tools, data_directory: &Path, name: &str) -> Option<String> {
    let mut command = tools.for_data(data_directory).command("postgres");
    command.arg("-D").arg(data_directory).args(["-C", name]);
    Some(run(command, SETTING_TIMEOUT).await.ok()?.stdout.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logical_slots_are_told_from_physical_ones() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(SlotsOnDisk::of(data.path()), SlotsOnDisk::default());
        let slot = |name: &str, database: u32| {
            let directory = data.path().join("pg_replslot").join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let mut state = vec![0xa5; DATABASE];
            state.extend(database.to_ne_bytes());
            state.extend([7; 100]);
            std::fs::write(directory.join("state"), state).unwrap();
        };
        std::fs::create_dir_all(data.path().join("pg_replslot/unfinished.tmp")).unwrap();
        slot("physical", 0);
        assert_eq!(SlotsOnDisk::of(data.path()), SlotsOnDisk { count: 1, has_logical: false });
        slot("logical", 5);
        assert_eq!(SlotsOnDisk::of(data.path()), SlotsOnDisk { count: 2, has_logical: true });
    }
}
