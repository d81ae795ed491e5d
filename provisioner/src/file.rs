//! Directories and files of a cluster: who owns them, and writing them whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use cellar_tls::{HeldDirectory, Owner};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use tempfile::NamedTempFile;

use crate::error::{ProvisionError, Result};

/// Mode of logs: the service user's group may read them.
const LOG_MODE: u32 = 0o640;

/// Of a log, what is read to find its last lines.
const LOG_TAIL: u64 = 16 << 10;

/// Lines of a log that are shown.
const TAIL_LINES: usize = 8;

fn refused(reason: &'static str) -> std::io::Error {
    std::io::Error::new(ErrorKind::PermissionDenied, reason)
}

/// Refuses a directory in which somebody else than root and this user could put things under our names: the authority's
/// key is to lie below it.
pub(crate) fn check_ours(directory: &Path) -> Result<()> {
    let check = || match HeldDirectory::open(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(held) if held.is_ours()? => Ok(()),
        Ok(_) => Err(refused("other users may write in it: choose another directory, or make it your own")),
    };
    check().map_err(ProvisionError::io("use", directory))
}

/// Makes a directory with this mode and owner, and its parents with ordinary ones. One that is there
/// is left as it is: a person may have changed it on purpose.
pub(crate) fn make_directory(path: &Path, mode: u32, owner: Option<Owner>) -> Result<()> {
    make(path, mode, owner).map_err(ProvisionError::io("make the directory", path))
}

fn make(path: &Path, mode: u32, owner: Option<Owner>) -> std::io::Result<()> {
    match HeldDirectory::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        found => return found.map(drop),
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make(parent, 0o755, None)?;
    }
    let held = HeldDirectory::of(path)?;
    // Whole or not at all: a directory of root's that a killed process left in its place would keep
    // the service user out for ever.
    let draft = tempfile::Builder::new().prefix(".new.").tempdir_in(held.path())?;
    // By handle and without following a link: the parent may be the service user's.
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
        .open(draft.path())?;
    if handle.metadata()?.uid() != geteuid().as_raw() {
        return Err(refused("somebody else has replaced it meanwhile: look who works in there"));
    }
    handle.set_permissions(Permissions::from_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(&handle, Some(uid), Some(gid))?;
    }
    match fs::rename(draft.path(), held.entry(path)) {
        Ok(()) => {
            // Its name has changed, so nothing is removed by this.
            drop(draft);
            Ok(())
        }
        // Somebody else has made it meanwhile, and filled it.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(error) => Err(error),
    }
}

/// A file in `held` that has no name of its own yet, with its final mode and owner. It began with mode 0600.
fn draft(held: &HeldDirectory, mode: u32, owner: Option<Owner>) -> std::io::Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix(".new.").tempfile_in(held.path())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    if let Some(Owner { uid, gid }) = owner {
        fchown(file.as_file(), Some(uid), Some(gid))?;
    }
    Ok(file)
}

/// Puts `text` at `path` whole or not at all, replacing what was there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32, owner: Option<Owner>) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let held = HeldDirectory::of(path)?;
        let mut file = draft(&held, mode, owner)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(held.entry(path)).map_err(|error| error.error)?;
        held.sync()
    };
    write().map_err(ProvisionError::io("write", path))
}

/// Opens a log to append to. Its directory may be the service user's, so a link is not followed, and a file that is there
/// is used as it is: it could be anybody's under another name, and must not be given away.
pub(crate) fn open_log(path: &Path, owner: Option<Owner>) -> Result<File> {
    let open = || -> std::io::Result<File> {
        let held = HeldDirectory::of(path)?;
        let entry = held.entry(path);
        if let Err(error) = draft(&held, LOG_MODE, owner)?.persist_noclobber(&entry)
            && error.error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error.error);
        }
        // Not waiting for somebody to read from a FIFO.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().append(true).custom_flags(flags.bits()).open(&entry)?;
        let found = file.metadata()?;
        let wanted = owner.map_or_else(|| geteuid().as_raw(), |owner| owner.uid);
        if !found.is_file() || found.uid() != wanted {
            return Err(refused("it is not a file of whoever is to write it: remove it"));
        }
        Ok(file)
    };
    open().map_err(ProvisionError::io("open", path))
}

/// The last lines of a log; empty when there is none.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let held = HeldDirectory::of(path)?;
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(held.entry(path))?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let clean = |line: &&str| line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().map(clean).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        replace(&path, "one", 0o600, None).unwrap();
        replace(&path, "two", 0o644, None).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_in_place_of_a_log_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("log");
        std::os::unix::fs::symlink(dir.path().join("secret"), &link).unwrap();
        assert!(open_log(&link, None).is_err());
    }

    /// The user that a hostile service would be; only root can act for others.
    fn other() -> Option<Owner> {
        geteuid().is_root().then_some(Owner { uid: 65534, gid: 65534 })
    }

    /// A directory in which somebody else may write, and one of ours with a secret.
    fn world() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&ours).unwrap();
        fs::set_permissions(&theirs, Permissions::from_mode(0o777)).unwrap();
        fs::write(ours.join("secret"), "secret").unwrap();
        (dir, theirs, ours)
    }

    #[test]
    fn planted_links_lead_nowhere() {
        let (_dir, theirs, ours) = world();
        std::os::unix::fs::symlink(&ours, theirs.join("log")).unwrap();
        std::os::unix::fs::symlink(ours.join("secret"), theirs.join("link")).unwrap();
        std::os::unix::fs::symlink(ours.join("new"), theirs.join("dangling")).unwrap();
        let before = fs::metadata(ours.join("secret")).unwrap();
        for path in ["log/secret", "log/new", "link", "dangling"] {
            assert!(open_log(&theirs.join(path), other()).is_err(), "{path}");
        }
        assert!(make_directory(&theirs.join("log"), 0o750, other()).is_err());
        assert!(make_directory(&theirs.join("log/below"), 0o750, other()).is_err());
        assert!(replace(&theirs.join("log/secret"), "x", 0o644, other()).is_err());
        assert_eq!(log_tail(&theirs.join("log/secret")), "");
        assert_eq!(log_tail(&theirs.join("link")), "");
        // A link in place of the file itself is replaced, not written through.
        replace(&theirs.join("link"), "x", 0o644, other()).unwrap();
        let after = fs::metadata(ours.join("secret")).unwrap();
        assert_eq!((after.uid(), after.mode(), after.len()), (before.uid(), before.mode(), before.len()));
        assert_eq!(fs::read_dir(&ours).unwrap().count(), 1);
    }

    #[test]
    fn a_file_of_ours_under_their_name_is_not_given_away() {
        let Some(owner) = other() else { return };
        let (_dir, theirs, ours) = world();
        fs::hard_link(ours.join("secret"), theirs.join("log")).unwrap();
        assert!(open_log(&theirs.join("log"), Some(owner)).is_err());
        let found = fs::metadata(ours.join("secret")).unwrap();
        assert_eq!((found.uid(), found.len()), (0, 6));
        // Their own file is used, and a new one is theirs from the beginning.
        for name in ["own", "own", "second"] {
            let file = open_log(&theirs.join(name), Some(owner)).unwrap();
            assert_eq!(
                (file.metadata().unwrap().uid(), file.metadata().unwrap().mode() & 0o777),
                (65534, 0o640)
            );
        }
    }

    #[test]
    fn a_fifo_in_place_of_a_log_hangs_nobody() {
        let (_dir, theirs, _ours) = world();
        let fifo = theirs.join("log");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_log(&fifo, None).is_err());
        assert_eq!(log_tail(&fifo), "");
    }

    #[test]
    fn a_directory_in_which_others_write_is_no_place_for_a_cluster() {
        let (_dir, theirs, ours) = world();
        assert!(check_ours(&theirs).unwrap_err().to_string().contains("theirs"));
        check_ours(&ours).unwrap();
        check_ours(&ours.join("missing")).unwrap();
    }

    #[test]
    fn no_umask_opens_or_closes_what_is_made() {
        // A umask is the whole process's, and other tests run beside this one: in a process of its own.
        let Ok(umask) = std::env::var("CELLAR_TEST_UMASK") else {
            for umask in ["000", "022", "077"] {
                let name = "file::tests::no_umask_opens_or_closes_what_is_made";
                let status = std::process::Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", name])
                    .env("CELLAR_TEST_UMASK", umask)
                    .status()
                    .unwrap();
                assert!(status.success(), "umask {umask}");
            }
            return;
        };
        let bits = u32::from_str_radix(&umask, 8).unwrap();
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(bits));
        let dir = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777;
        make_directory(&dir.path().join("sockets"), 0o700, None).unwrap();
        make_directory(&dir.path().join("log"), 0o750, None).unwrap();
        replace(&dir.path().join("key"), "x", 0o600, None).unwrap();
        open_log(&dir.path().join("l"), None).unwrap();
        assert_eq!(["sockets", "log", "key", "l"].map(mode), [0o700, 0o750, 0o600, 0o640]);
        let key = cellar_tls::KeyFile::load_or_create(&dir.path().join("tls/server.key"), None).unwrap();
        assert_eq!((mode("tls"), key.path().metadata().unwrap().mode() & 0o777), (0o700, 0o600));
    }

    #[test]
    fn the_last_lines_are_shown_without_control_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let text: String = (0..20).map(|n| format!("line {n}\x1b[31m\n\n")).collect();
        fs::write(&path, text).unwrap();
        let tail = log_tail(&path);
        assert_eq!(tail.lines().count(), TAIL_LINES);
        assert!(tail.ends_with("line 19 [31m"), "{tail}");
        assert_eq!(log_tail(&dir.path().join("missing")), "");
    }
}
