//! Whether files were replaced, told without reading them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one version of a file from the next: inode, length and time of change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// Some files and how they last looked.
#[derive(Debug)]
pub struct Stamps {
    files: Vec<PathBuf>,
    seen: Vec<Stamp>,
}

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

impl Stamps {
    /// These files as they are now.
    #[must_use]
    pub fn of(files: Vec<PathBuf>) -> Self {
        let seen = files.iter().map(|file| stamp(file)).collect();
        Self { files, seen }
    }

    /// Whether any of them was replaced, appeared or went since the last look.
    pub fn changed(&mut self) -> bool {
        let now: Vec<Stamp> = self.files.iter().map(|file| stamp(file)).collect();
        let changed = now != self.seen;
        self.seen = now;
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaced_file_is_noticed_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut stamps = Stamps::of(vec![path.clone(), dir.path().join("never")]);
        assert!(!stamps.changed());
        std::fs::write(&path, "one").unwrap();
        assert!(stamps.changed() && !stamps.changed());
        crate::file::replace(&path, "two", 0o600, None).unwrap();
        assert!(stamps.changed() && !stamps.changed());
    }
}
