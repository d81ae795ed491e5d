//! The files of a cluster's directory: their modes, owners, sizes and times, and nothing of what is in them.

use std::fmt::Write as _;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use jiff::Timestamp;

use crate::output::clean;

/// Lines of a listing.
const MAX_ENTRIES: usize = 20_000;

/// Directories below this one are counted and not listed: their names are without number and say nothing.
const COUNTED: [&str; 8] =
    ["base", "pg_wal", "archive", "backup", "pg_xact", "member", "pg_subtrans", "pg_multixact"];

/// The deepest directory that is listed.
const MAX_DEPTH: usize = 5;

/// The listing, and whether all is in it.
pub(super) struct Listing {
    pub(super) text: String,
    pub(super) is_complete: bool,
    entries: usize,
}

/// Lists what is below a directory.
pub(super) fn list(root: &Path) -> Listing {
    let mut listing =
        Listing { text: "mode uid:gid bytes modified path\n".to_owned(), is_complete: true, entries: 0 };
    if let Ok(found) = fs::symlink_metadata(root) {
        listing.push(&found, ".", "");
    }
    listing.list(root, Path::new(""), 0);
    listing
}

impl Listing {
    fn push(&mut self, found: &Metadata, name: &str, note: &str) {
        let (mode, kind) = (found.mode() & 0o7777, found.file_type());
        let kind = match () {
            () if kind.is_dir() => 'd',
            () if kind.is_symlink() => 'l',
            () if kind.is_file() => '-',
            () => '?',
        };
        let modified = Timestamp::from_second(found.mtime()).map(|time| time.to_string()).unwrap_or_default();
        let (uid, gid, size) = (found.uid(), found.gid(), found.len());
        let _ = writeln!(self.text, "{kind}{mode:04o} {uid}:{gid} {size} {modified} {}{note}", clean(name));
        self.entries += 1;
    }

    fn list(&mut self, root: &Path, below: &Path, depth: usize) {
        let directory = root.join(below);
        let entries = match read_sorted(&directory) {
            Ok(entries) => entries,
            Err(error) => {
                let _ = writeln!(
                    self.text,
                    "? {}: cannot be listed: {error}",
                    clean(&below.display().to_string())
                );
                self.is_complete = false;
                return;
            }
        };
        for name in entries {
            let path = below.join(&name);
            let Ok(found) = fs::symlink_metadata(root.join(&path)) else { continue };
            if self.entries >= MAX_ENTRIES {
                self.is_complete = false;
                return;
            }
            let shown = path.display().to_string();
            if !found.is_dir() {
                let target = fs::read_link(root.join(&path)).ok().filter(|_| found.is_symlink());
                let target = target.map(|target| format!(" -> {}", clean(&target.display().to_string())));
                self.push(&found, &shown, &target.unwrap_or_default());
                continue;
            }
            let is_counted = COUNTED.iter().any(|counted| name == **counted) || depth >= MAX_DEPTH;
            if is_counted {
                let (count, bytes) = count(&root.join(&path));
                self.push(&found, &shown, &format!(" ({count} entries, files of {bytes} bytes)"));
            } else {
                self.push(&found, &shown, "");
                self.list(root, &path, depth + 1);
            }
        }
    }
}

fn read_sorted(directory: &Path) -> io::Result<Vec<std::ffi::OsString>> {
    let mut names: Vec<_> = fs::read_dir(directory)?
        .take(MAX_ENTRIES)
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    names.sort();
    Ok(names)
}

/// The entries of a directory itself, and the bytes of its files.
fn count(directory: &Path) -> (usize, u64) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_ENTRIES);
    entries.fold((0, 0), |(count, bytes), entry| {
        let size = entry.metadata().ok().filter(Metadata::is_file).map_or(0, |found| found.len());
        (count + 1, bytes + size)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_listed_and_contents_are_not() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("zone1/pg_data/pg_wal")).unwrap();
        fs::write(dir.path().join("zone1/x\ny"), "hunter2").unwrap();
        fs::write(dir.path().join("zone1/pg_data/pg_wal/0001"), "hunter2").unwrap();
        std::os::unix::fs::symlink("/elsewhere", dir.path().join("link")).unwrap();
        let listing = list(dir.path());
        let text = listing.text;
        assert!(listing.is_complete && !text.contains("hunter2") && !text.contains("0001"), "{text}");
        for part in
            [" zone1/pg_data/pg_wal (1 entries, files of 7 bytes)\n", " 7 ", "link -> /elsewhere\n", "\nd0"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
