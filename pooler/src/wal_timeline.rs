//! On which timeline the WAL of a data directory goes on.

use std::path::Path;

use cellar_model::{History, Lineage, Lsn, Timeline};

/// The timeline on which the WAL in `wal` goes on, of data whose control file knows of `known` and begins to replay at
/// `redo`.
///
/// A standby that follows a promotion names the new timeline in its control file only after its next restartpoint, minutes
/// later, or when a page goes out. Before that it has the timeline's history, and then WAL of it. A history alone says
/// nothing: a standby that cannot follow its primary fetches it all the same.
pub(crate) fn timeline_of_wal(wal: &Path, known: Timeline, redo: Lsn) -> Timeline {
    let entries = std::fs::read_dir(wal).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let has_wal = |timeline: Timeline| {
        let begins = format!("{:08X}", timeline.get());
        names.iter().any(|name| {
            name.len() == 24 && name.starts_with(&begins) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    let followed = names.iter().filter_map(|name| {
        let digits = name.strip_suffix(".history")?;
        let timeline = Timeline::new(u32::from_str_radix(digits, 16).ok()?);
        let history: History = std::fs::read_to_string(wal.join(name)).ok()?.parse().ok()?;
        let leads_there = Lineage::new(timeline, &history).contains(known, redo);
        (timeline > known && leads_there && has_wal(timeline)).then_some(timeline)
    });
    followed.fold(known, Timeline::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_is_on_the_newest_timeline_of_which_it_has_the_history_and_wal() {
        let directory = tempfile::tempdir().unwrap();
        let wal = directory.path();
        let put = |name: &str, text: &str| std::fs::write(wal.join(name), text).unwrap();
        let (first, redo) = (Timeline::new(1), Lsn::new(0x400_0028));
        let found = || timeline_of_wal(wal, first, redo).get();
        put("000000010000000000000004", "");
        assert_eq!(found(), 1);
        put("00000002.history", "1\t0/5000000\tno recovery target specified\n");
        assert_eq!(found(), 1, "it may not be able to follow");
        put("000000020000000000000005.partial", "");
        assert_eq!(found(), 1);
        put("000000020000000000000005", "");
        assert_eq!(found(), 2);
        // A restore to before what the data has: another line.
        put("00000003.history", "1\t0/3000000\tbefore\n");
        put("000000030000000000000003", "");
        assert_eq!(found(), 2);
        // What a restore writes for a timeline whose history is lost.
        put("00000004.history", "# lost\n");
        put("000000040000000000000005", "");
        assert_eq!(found(), 2);
        assert_eq!(timeline_of_wal(wal, Timeline::new(9), redo).get(), 9);
        assert_eq!(timeline_of_wal(&wal.join("none"), first, redo), first);
    }
}
