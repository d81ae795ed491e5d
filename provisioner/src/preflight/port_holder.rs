//! Which process listens on a port, as far as this user may see.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::local::process::command_line;

/// A process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// Its command line, cut to what fits into a message.
    pub(crate) command: String,
}

/// Of a command line, the characters that are shown.
const SHOWN: usize = 80;

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTENING: &str = "0A";

/// Inodes of the sockets that listen on the port, in the text of `/proc/net/tcp` or `tcp6`.
fn listening_inodes(table: &str, port: u16) -> BTreeSet<u64> {
    let wanted = format!("{port:04X}");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        (local_port == wanted && *fields.get(3)? == LISTENING).then(|| fields.get(9)?.parse().ok())?
    };
    table.lines().skip(1).filter_map(line).collect()
}

fn holds(pid: u32, inodes: &BTreeSet<u64>) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|target| {
            let inode =
                target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            inode.is_some_and(|inode: u64| inodes.contains(&inode))
        })
    })
}

/// The processes that listen on the port; empty when none may be seen.
pub(crate) fn holders(port: u16) -> Vec<Holder> {
    let table = |name: &str| fs::read_to_string(Path::new("/proc/net").join(name)).unwrap_or_default();
    let mut inodes = listening_inodes(&table("tcp"), port);
    inodes.extend(listening_inodes(&table("tcp6"), port));
    if inodes.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| holds(*pid, &inodes))
        .map(|pid| {
            let command = command_line(pid).join(" ");
            let command = command.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
            Holder { pid, command }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:20F0 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 4711 1\n\
            1: 0100007F:20F0 0100007F:9999 01 00000000:00000000 00:00000000 00000000   101        0 4712 1\n\
            2: nonsense\n";
        assert_eq!(listening_inodes(table, 8432), BTreeSet::from([4711]));
        assert!(listening_inodes(table, 8433).is_empty());
        assert!(listening_inodes("", 1).is_empty());
    }
}
