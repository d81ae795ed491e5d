//! Shared memory of PostgreSQL servers that a test kills.
//!
//! A server that is killed leaves a System V segment of 56 bytes and files in `/dev/shm` of a megabyte, which the next one
//! in the same data directory removes. When there is no next one they stay until the machine is started again, and after
//! 4096 segments no server starts any more. So what a server maps is written down before it is killed, in a file that
//! outlives this process, and removed with the clusters unless a server has taken care of it.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// One thing that a server maps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Shared {
    /// A System V segment, by its id.
    Segment(u32),
    /// A file in `/dev/shm`, by its name.
    File(String),
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(id) => write!(f, "segment {id}"),
            Self::File(name) => write!(f, "file {name}"),
        }
    }
}

impl Shared {
    fn parse(line: &str) -> Option<Self> {
        match line.split_once(' ')? {
            ("segment", id) => id.parse().ok().map(Self::Segment),
            ("file", name) if is_postgres(name) => Some(Self::File(name.to_owned())),
            _ => None,
        }
    }

    /// A line of `/proc/<pid>/maps`: address, rights, offset, device, inode, path. A segment's id stands for its inode.
    fn mapped(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace().skip(4);
        let (inode, path) = (fields.next()?, fields.next()?);
        if path.starts_with("/SYSV") {
            return inode.parse().ok().map(Self::Segment);
        }
        let name = path.strip_prefix("/dev/shm/").filter(|name| is_postgres(name))?;
        Some(Self::File(name.to_owned()))
    }
}

fn is_postgres(name: &str) -> bool {
    name.strip_prefix("PostgreSQL.").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()))
}

fn mapped_by(pid: i32) -> BTreeSet<Shared> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    maps.lines().filter_map(Shared::mapped).collect()
}

/// Where the shared memory of the servers that a test process kills is written down.
fn ledger(base: &Path, owner: i32) -> PathBuf {
    base.join(format!("{owner}.shm"))
}

/// Tests of one process run side by side, and write to one ledger.
static LEDGER: Mutex<()> = Mutex::new(());

/// Writes down what a process maps that is about to be killed, with its children, which map more; nothing for one that is
/// no PostgreSQL.
pub(crate) fn remember(pid: i32) {
    let children = crate::machine::process::children_named(pid, "postgres").into_iter().flat_map(mapped_by);
    let lines: String = children.chain(mapped_by(pid)).map(|shared| format!("{shared}\n")).collect();
    if lines.is_empty() {
        return;
    }
    let path = ledger(&crate::machine::place::base(), std::process::id().cast_signed());
    let _alone = LEDGER.lock().unwrap_or_else(PoisonError::into_inner);
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let _ = file.and_then(|mut file| file.write_all(lines.as_bytes()));
}

/// Removes what the killed servers of a test process have left, except what a server that lives has mapped. What still has to
/// go stays in the ledger.
pub(crate) fn forget(base: &Path, owner: i32) {
    let path = ledger(base, owner);
    let _alone = LEDGER.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(text) = std::fs::read_to_string(&path) else { return };
    let noted: BTreeSet<Shared> = text.lines().filter_map(Shared::parse).collect();
    let in_use: BTreeSet<Shared> =
        crate::machine::process::called("postgres").into_iter().flat_map(mapped_by).collect();
    for shared in noted.difference(&in_use) {
        match shared {
            // Of util-linux; a segment that is gone is fine.
            Shared::Segment(id) if attached(*id) == Some(0) => {
                let mut ipcrm = Command::new("ipcrm");
                let _ = ipcrm.arg("-m").arg(id.to_string()).stderr(Stdio::null()).status();
            }
            Shared::Segment(_) => {}
            Shared::File(name) => drop(std::fs::remove_file(Path::new("/dev/shm").join(name))),
        }
    }
    let is_there = |shared: &&Shared| match shared {
        Shared::Segment(id) => attached(*id).is_some(),
        Shared::File(name) => Path::new("/dev/shm").join(name).exists(),
    };
    let left: String = noted.iter().filter(is_there).map(|shared| format!("{shared}\n")).collect();
    let _ = if left.is_empty() { std::fs::remove_file(path) } else { std::fs::write(path, left) };
}

/// How many processes are attached to a segment as small as PostgreSQL's; none when there is no such.
fn attached(id: u32) -> Option<u32> {
    let table = std::fs::read_to_string("/proc/sysvipc/shm").ok()?;
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // key, shmid, perms, size, cpid, lpid, nattch
        let [_, shmid, _, size, _, _, attached, ..] = fields.as_slice() else { return None };
        if shmid.parse() == Ok(id) && *size == "56" { attached.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_the_ledger_are_read_and_nothing_of_others() {
        let segment = "7f1 rw-s 00000000 00:01 98306                     /SYSV00b2a1c3 (deleted)";
        let file = "7f2 rw-s 00000000 00:1a 77 /dev/shm/PostgreSQL.1001045762";
        let all = [Shared::Segment(98306), Shared::File("PostgreSQL.1001045762".into())];
        for (line, shared) in [segment, file].iter().zip(&all) {
            assert_eq!(Shared::mapped(line).as_ref(), Some(shared));
            assert_eq!(Shared::parse(&shared.to_string()).as_ref(), Some(shared));
        }
        for other in [
            "7f2 rw-s 0 00:1a 77 /dev/shm/chrome.1",
            "7f2 r--p 0 08:01 5 /usr/lib/x.so",
            "7f2 rw-p 0 00:00 0",
            "",
        ] {
            assert_eq!(Shared::mapped(other), None, "{other}");
        }
        for bad in ["file ../etc/passwd", "file PostgreSQL.1/../x", "segment x", "segment", "what 1"] {
            assert_eq!(Shared::parse(bad), None, "{bad}");
        }
    }
}
