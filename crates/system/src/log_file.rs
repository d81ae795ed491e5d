//! Logs of programs: a file to append to, and the last lines of one.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::atomic_file::open_regular;
use crate::directory::OpenDirectory;
use crate::owner::Owner;

/// Mode of logs: the owner's group may read them.
const LOG_MODE: u32 = 0o640;

/// Bytes at the end of a file that are read to find its last lines.
const MAX_TAIL_BYTES: u64 = 16 << 10;

/// Bytes of a small text file: keys, certificates, lists, notes.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Opens a log to append to, and makes it with mode 0640 and this owner if there is none.
///
/// Its directory may be the owner's, so a link in place of it is not followed, and a file that exists is used as it is:
/// it could be another user's file under a second name, and must not be given away.
///
/// # Errors
/// When it cannot be opened, or is not a regular file of the owner.
pub fn open_log(path: &Path, owner: Option<Owner>) -> io::Result<File> {
    let directory = OpenDirectory::parent_of(path)?;
    let entry = directory.entry(path);
    let draft = tempfile::Builder::new().prefix(".new.").tempfile_in(directory.path())?;
    draft.as_file().set_permissions(Permissions::from_mode(LOG_MODE))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(draft.as_file(), Some(uid), Some(gid))?;
    }
    if let Err(error) = draft.persist_noclobber(&entry)
        && error.error.kind() != ErrorKind::AlreadyExists
    {
        return Err(error.error);
    }
    // A FIFO in its place must not make us wait for a reader.
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().append(true).custom_flags(flags.bits()).open(&entry)?;
    let found = file.metadata()?;
    let wanted = owner.map_or_else(|| geteuid().as_raw(), |owner| owner.uid);
    if !found.is_file() || found.uid() != wanted {
        return Err(io::Error::new(
            ErrorKind::PermissionDenied,
            "it is not a regular file of the user that is to write it: remove it",
        ));
    }
    Ok(file)
}

/// Opens a regular file to read. It may be in a directory of another user: no link of theirs is followed, and a FIFO is
/// not waited for.
///
/// # Errors
/// When it cannot be read, or is not a regular file.
pub fn open_to_read(path: &Path) -> io::Result<(File, Metadata)> {
    let directory = OpenDirectory::parent_of(path)?;
    open_regular(&directory.entry(path))
}

/// All of a small text file, at most 1 MiB; see [`open_to_read`] for files in a directory of another user.
///
/// # Errors
/// When it cannot be read, is not a regular file, is larger, or is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let (file, _) = open_to_read(path)?;
    let mut text = String::new();
    file.take(MAX_TEXT_BYTES + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_TEXT_BYTES {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than any such file")),
        false => Ok(text),
    }
}

/// The last `max_lines` lines of what a file holds after its first `from` bytes, of at most its last 16 KiB; see
/// [`last_lines`]. The file may be in a directory of another user: no link of theirs is followed.
///
/// # Errors
/// When the file cannot be read, or is not a regular file.
pub fn last_lines_of(path: &Path, from: u64, max_lines: usize) -> io::Result<String> {
    let (mut file, found) = open_to_read(path)?;
    // A file that is shorter than before was truncated, so all of it is new.
    let from = if from > found.len() { 0 } else { from };
    file.seek(SeekFrom::Start(from.max(found.len().saturating_sub(MAX_TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(MAX_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(last_lines(&String::from_utf8_lossy(&bytes), max_lines))
}

/// The last `max_lines` lines of a text, for a person: without empty lines, with spaces in place of control characters.
#[must_use]
pub fn last_lines(text: &str, max_lines: usize) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let printable =
        |line: &&str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    lines[lines.len().saturating_sub(max_lines)..].iter().map(printable).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// The user that a hostile service would be; only root can act for others.
    fn other_user() -> Option<Owner> {
        geteuid().is_root().then_some(Owner { uid: 65534, gid: 65534 })
    }

    /// A directory in which everybody may write, and a private one with `secret` in it.
    fn directories() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (shared, private) = (dir.path().join("shared"), dir.path().join("private"));
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&private).unwrap();
        fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
        fs::write(private.join("secret"), "secret").unwrap();
        (dir, shared, private)
    }

    #[test]
    fn planted_links_are_not_followed() {
        let (_dir, shared, private) = directories();
        symlink(&private, shared.join("directory")).unwrap();
        symlink(private.join("secret"), shared.join("link")).unwrap();
        symlink(private.join("new"), shared.join("dangling")).unwrap();
        for path in ["directory/secret", "directory/new", "link", "dangling"] {
            assert!(open_log(&shared.join(path), other_user()).is_err(), "{path}");
            assert!(last_lines_of(&shared.join(path), 0, 8).is_err(), "{path}");
            assert!(read_text(&shared.join(path)).is_err(), "{path}");
        }
        assert_eq!(fs::read_dir(&private).unwrap().count(), 1);
    }

    #[test]
    fn file_of_ours_under_a_second_name_is_not_given_away() {
        let Some(owner) = other_user() else { return };
        let (_dir, shared, private) = directories();
        fs::hard_link(private.join("secret"), shared.join("log")).unwrap();
        assert!(open_log(&shared.join("log"), Some(owner)).is_err());
        let found = fs::metadata(private.join("secret")).unwrap();
        assert_eq!((found.uid(), found.len()), (0, 6));
        for name in ["first", "first", "second"] {
            let found = open_log(&shared.join(name), Some(owner)).unwrap().metadata().unwrap();
            assert_eq!((found.uid(), found.mode() & 0o777), (65534, 0o640));
        }
    }

    #[test]
    fn fifo_in_place_of_a_log_is_refused_at_once() {
        let (_dir, shared, _private) = directories();
        let fifo = shared.join("log");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_log(&fifo, None).is_err());
        assert!(last_lines_of(&fifo, 0, 8).is_err());
        assert!(read_text(&fifo).is_err());
    }

    #[test]
    fn text_is_read_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("note");
        for (bytes, is_read) in [(0, true), (MAX_TEXT_BYTES, true), (MAX_TEXT_BYTES + 1, false)] {
            fs::write(&path, "a".repeat(usize::try_from(bytes).unwrap())).unwrap();
            assert_eq!(read_text(&path).ok().map(|text| text.len() as u64), is_read.then_some(bytes));
        }
    }

    #[test]
    fn last_lines_are_printable_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..20).map(|n| format!("line {n}\x1b[31m\n\n")).collect();
        fs::write(&path, &text).unwrap();
        let tail = last_lines_of(&path, 0, 8).unwrap();
        assert_eq!(tail.lines().count(), 8);
        assert!(tail.ends_with("line 19 [31m"), "{tail}");
        let length = text.len() as u64;
        assert_eq!(last_lines_of(&path, length, 8).unwrap(), "");
        assert_eq!(last_lines_of(&path, length - 14, 8).unwrap(), "line 19 [31m");
        assert_eq!(last_lines_of(&path, length + 1, 8).unwrap(), tail, "it was truncated meanwhile");
        fs::write(&path, "x".repeat(1 << 20)).unwrap();
        assert_eq!(last_lines_of(&path, 0, 8).unwrap().len() as u64, MAX_TAIL_BYTES);
    }
}
