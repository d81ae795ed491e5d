//! A copy of all of etcd's data in a file.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{CellName, ClusterName};
use cellar_system::{AtomicFile, clock};
use cellar_topology::{EtcdKv, SnapshotParts};
use futures_util::StreamExt;
use jiff::Timestamp;
use jiff::civil::DateTime;
use sha2::{Digest, Sha256};

use crate::cluster::local_cluster::Cluster;
use crate::error::provision_error::{ProvisionError, Result};
use crate::etcd::tool::{self, SnapshotContent};
use crate::file::make_directory;

/// Bytes at the end of a snapshot: the SHA-256 of all before them.
const CHECKSUM_BYTES: usize = 32;

/// How long etcd's tool may take to read a snapshot, of two gigabytes at most.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(120);

/// A snapshot that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSnapshot {
    /// The file.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of etcd's data in it, which is right.
    pub sha256: String,
    /// What etcd's own tool finds in it; `None` when that is not installed.
    pub content: Option<SnapshotContent>,
}

/// Checks the sum at the end of a stream while it passes.
#[derive(Default)]
struct Checksum {
    hash: Sha256,
    /// The last bytes so far, which may be the sum.
    tail: Vec<u8>,
    bytes: u64,
}

impl Checksum {
    fn take(&mut self, part: &[u8]) {
        self.bytes += part.len() as u64;
        self.tail.extend_from_slice(part);
        let data = self.tail.len().saturating_sub(CHECKSUM_BYTES);
        self.hash.update(&self.tail[..data]);
        self.tail.drain(..data);
    }

    /// The sum in hexadecimal digits, if it is right.
    fn finish(self) -> std::result::Result<String, String> {
        if self.bytes <= CHECKSUM_BYTES as u64 {
            return Err(format!("only {} bytes came", self.bytes));
        }
        let found = self.hash.finalize();
        if found[..] != self.tail[..] {
            return Err(format!("its checksum does not fit its {} bytes", self.bytes));
        }
        Ok(found.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The checksum of a snapshot in a file, if it is whole.
pub(crate) fn check_file(path: &Path) -> std::io::Result<std::result::Result<String, String>> {
    let mut file = std::fs::File::open(path)?;
    let mut checksum = Checksum::default();
    let mut part = vec![0; 1 << 16];
    loop {
        match std::io::Read::read(&mut file, &mut part)? {
            0 => return Ok(checksum.finish()),
            n => checksum.take(&part[..n]),
        }
    }
}

impl Cluster {
    /// Writes a snapshot of etcd into a file that only this user can read, in place of what was there. It has the file's
    /// name only once it is whole and on the disk.
    ///
    /// # Errors
    /// When etcd does not answer, the snapshot is not whole, or the file cannot be written; what was there is then
    /// unchanged.
    ///
    /// With `from` it is that of the member in this cell, which needs no majority: it may lack what the others took last.
    pub async fn etcd_snapshot(&self, path: &Path, from: Option<&CellName>) -> Result<EtcdSnapshot> {
        let Some(cell) = from else { return write_snapshot(&self.etcd().await?, path).await };
        let members = self.etcd_hosts().into_iter().zip(self.etcd_urls()?);
        let url = members.filter(|((name, _), _)| *name == cell).map(|(_, url)| url).next();
        let url = url.ok_or_else(|| ProvisionError::Argument {
            argument: "--from",
            value: cell.to_string(),
            reason: "etcd has no member of that cell; `cellar etcd status` lists them".to_owned(),
        })?;
        write_parts(self.etcd().await?.snapshot_of(&url).await?, path).await
    }
}

impl Cluster {
    /// Writes a snapshot of etcd into a file of its own in a directory, which is named after the cluster and the time, and
    /// then deletes the oldest of this cluster's snapshots there until `keep` are left.
    ///
    /// # Errors
    /// As [`Cluster::etcd_snapshot`]; nothing was deleted then. When an old one cannot be deleted.
    pub async fn etcd_snapshot_in(
        &self,
        directory: &Path,
        keep: NonZeroUsize,
        from: Option<&CellName>,
    ) -> Result<EtcdSnapshot> {
        make_directory(directory, 0o700, None)?;
        let name = snapshot_name(&self.state.cluster, clock::now());
        let written = self.etcd_snapshot(&directory.join(&name), from).await?;
        let entries = std::fs::read_dir(directory).map_err(ProvisionError::io("read", directory))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        for old in surplus(&self.state.cluster, names, &name, keep) {
            let path = directory.join(old);
            std::fs::remove_file(&path).map_err(ProvisionError::io("delete", &path))?;
        }
        Ok(written)
    }
}

/// How the time is written in the name of a snapshot: names sort as their times do.
const TIME_IN_NAME: &str = "%Y%m%dT%H%M%SZ";

fn snapshot_name(cluster: &ClusterName, time: Timestamp) -> String {
    format!("etcd-{cluster}-{}.db", time.strftime(TIME_IN_NAME))
}

/// The snapshots of this cluster that are too many: the oldest by their names. Never the one that was just written, which
/// need not be the newest by its name when the clock was set back, and no file that this command has not written.
fn surplus(cluster: &ClusterName, names: Vec<String>, written: &str, keep: NonZeroUsize) -> Vec<String> {
    let prefix = format!("etcd-{cluster}-");
    let is_ours = |name: &String| {
        let time = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".db"));
        time.is_some_and(|time| DateTime::strptime(TIME_IN_NAME, time).is_ok())
    };
    let mut others: Vec<String> = names.into_iter().filter(|name| name != written).filter(is_ours).collect();
    others.sort();
    others.truncate((others.len() + 1).saturating_sub(keep.get()));
    others
}

/// Writes a snapshot of etcd into a file, as [`Cluster::etcd_snapshot`] does.
pub(crate) async fn write_snapshot(etcd: &EtcdKv, path: &Path) -> Result<EtcdSnapshot> {
    write_parts(etcd.snapshot().await?, path).await
}

async fn write_parts(mut parts: SnapshotParts, path: &Path) -> Result<EtcdSnapshot> {
    let mut draft = AtomicFile::new(path).begin().map_err(ProvisionError::io("write", path))?;
    let mut checksum = Checksum::default();
    while let Some(part) = parts.next().await {
        let part = part?;
        checksum.take(&part);
        draft.write_all(&part).map_err(ProvisionError::io("write", path))?;
    }
    let bytes = checksum.bytes;
    let bad = |reason| ProvisionError::BadSnapshot { path: path.to_owned(), reason };
    let sha256 = checksum.finish().map_err(bad)?;
    draft.finish().map_err(ProvisionError::io("write", path))?;
    let content = tool::content(path, None, CONTENT_TIMEOUT).await.ok();
    Ok(EtcdSnapshot { path: path.to_owned(), bytes, sha256, content })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(data: &[u8]) -> Vec<u8> {
        let sum = Sha256::digest(data);
        [data, &sum[..]].concat()
    }

    fn checked(whole: &[u8], size: usize) -> std::result::Result<String, String> {
        let mut checksum = Checksum::default();
        whole.chunks(size).for_each(|part| checksum.take(part));
        checksum.finish()
    }

    #[test]
    fn snapshot_is_whole_only_with_its_checksum_at_the_end() {
        let data: Vec<u8> = (0..5000u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let whole = snapshot(&data);
        let sum: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
        for size in [1, 7, 31, 32, 33, 4096, whole.len()] {
            assert_eq!(checked(&whole, size).as_ref(), Ok(&sum), "in parts of {size} bytes");
        }
        for cut in [0, 1, 32, 33, whole.len() - 32, whole.len() - 1] {
            assert!(checked(&whole[..cut], 100).is_err(), "the first {cut} bytes");
        }
        let mut damaged = whole.clone();
        damaged[1234] ^= 1;
        assert!(checked(&damaged, 100).is_err());
    }

    #[test]
    fn oldest_snapshots_of_the_cluster_are_too_many_and_no_other_file_is() {
        let cluster: ClusterName = "demo".parse().unwrap();
        let of = |hour| format!("etcd-demo-20260301T{hour:02}0000Z.db");
        let foreign =
            ["etcd-demo-2-20260301T010000Z.db", "etcd-demo-notes.db", "etcd-demo-20260301T010000Z.db.part"];
        let names = || (1..=5).map(of).chain(foreign.map(str::to_owned)).collect();
        let surplus_of =
            |written: &str, keep| surplus(&cluster, names(), written, NonZeroUsize::new(keep).unwrap());
        assert_eq!(surplus_of(&of(5), 3), [of(1), of(2)]);
        assert_eq!(surplus_of(&of(5), 9), [""; 0]);
        assert_eq!(surplus_of(&of(5), 1), [of(1), of(2), of(3), of(4)]);
        // The clock was set back: the new one stays all the same.
        assert_eq!(surplus_of(&of(1), 2), [of(2), of(3), of(4)]);
        let time: Timestamp = "2026-03-01T05:00:00Z".parse().unwrap();
        assert_eq!(snapshot_name(&cluster, time), of(5));
    }

    #[test]
    fn file_is_checked_as_the_stream_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, snapshot(b"etcd")).unwrap();
        assert!(check_file(&path).unwrap().is_ok());
        std::fs::write(&path, b"this is not a snapshot of etcd at all, whatever it is").unwrap();
        assert!(check_file(&path).unwrap().is_err());
        assert!(check_file(&dir.path().join("missing")).is_err());
    }
}
