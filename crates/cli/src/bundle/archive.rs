//! The bundle itself: its parts, what was left out, and the file that they become.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::secrets::{Scrubber, Secrets};

/// Bytes of all parts together, before they are compressed.
const MAX_TOTAL: usize = 32 << 20;

/// Mode of the files in the archive.
const FILE_MODE: u32 = 0o600;

/// Something that is not in the bundle, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// A collection of files with what could not be added, and the secrets that were met.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    pub(crate) left_out: Vec<LeftOut>,
    pub(crate) secrets: Secrets,
}

impl Parts {
    /// One more file; `path` is its name in the bundle.
    pub(crate) fn add(&mut self, path: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.files.push((path.into(), text.into()));
    }

    /// Something that is not in it.
    #[expect(clippy::needless_pass_by_value, reason = "callers give errors and texts alike")]
    pub(crate) fn leave_out(&mut self, what: impl Into<String>, why: impl ToString) {
        self.left_out.push(LeftOut { what: what.into(), why: why.to_string() });
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.files.extend(other.files);
        self.left_out.extend(other.left_out);
        self.secrets.extend(other.secrets);
    }

    /// Leaves out what is too much for one bundle: of the last files.
    pub(crate) fn limit(&mut self) {
        self.limit_to(MAX_TOTAL);
    }

    fn limit_to(&mut self, max_total: usize) {
        let mut total = 0;
        let mut dropped = Vec::new();
        self.files.retain(|(path, text)| {
            let fits = total + text.len() <= max_total;
            if fits {
                total += text.len();
            } else {
                dropped.push(path.clone());
            }
            fits
        });
        let why = format!("the bundle would have more than {} MiB before it is compressed", max_total >> 20);
        dropped.into_iter().for_each(|path| self.leave_out(path, &why));
    }
}

/// The archive, `tar` and `gzip`, of all parts below a directory of this name, without a secret that is known.
pub(crate) fn pack(
    directory: &str,
    files: &[(String, Vec<u8>)],
    scrubber: &Scrubber,
    time: u64,
) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (path, text) in files {
        let text = scrubber.scrub(text);
        let path = scrubber.scrub(path.as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(FILE_MODE);
        header.set_mtime(time);
        let path = format!("{directory}/{}", String::from_utf8_lossy(&path));
        archive.append_data(&mut header, path, text.as_slice())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn bundle_is_limited_and_says_what_is_missing() {
        let mut parts = Parts::default();
        for (name, size) in [("a", 4), ("b", 7), ("c", 6)] {
            parts.add(name, vec![b'x'; size]);
        }
        parts.limit_to(10);
        let names: Vec<&str> = parts.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(parts.left_out.iter().map(|left| left.what.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn archive_holds_the_parts_without_secrets() {
        let mut parts = Parts::default();
        parts.secrets.add("hunter2");
        parts.add("logs/x.log", "a hunter2 b");
        let packed = pack("top", &parts.files, &parts.secrets.scrubber(), 1).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let mode = entry.header().mode().unwrap();
            found.push((entry.path().unwrap().display().to_string(), mode, text));
        }
        assert_eq!(found, [("top/logs/x.log".to_owned(), 0o600, "a [removed] b".to_owned())]);
    }
}
