//! Replacing all of a directory's keys and certificates in one step, and undoing that.
//!
//! A key and its certificates fit each other only together. The new ones are made whole in a directory beside the old
//! one, and then the two names are exchanged (`renameat2` with `RENAME_EXCHANGE`): a program that opens a file by its path
//! finds the old set or the new one. The old one stays as `<directory>.previous` until the next exchange.
//!
//! Two programs may do this at once: who issues certificates, and who puts them into use and forgets the old ones. So
//! each holds the directory itself locked meanwhile.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use cellar_system::{FileId, OpenDirectory, Owner};

use crate::certificate::CertificateInfo;
use crate::error::{Result, TlsError};
use crate::file::{self, CERTIFICATE_MODE, KEY_MODE};
use crate::file_names::CA_CERTIFICATE;
use crate::identity::Identity;
use crate::known_certificates::remember_certificates;

/// How long another exchange of the same directory is waited for; one takes milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is looked whether it has ended.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

fn beside(directory: &Path, suffix: &str) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    directory.with_file_name(name)
}

/// Where the set is kept that the last exchange replaced.
#[must_use]
pub fn previous(directory: &Path) -> PathBuf {
    beside(directory, ".previous")
}

/// Where the next set of a directory is made.
fn next(directory: &Path) -> PathBuf {
    beside(directory, ".next")
}

/// What exchanges of a directory may leave beside it: whatever removes the directory must remove these too, for they
/// hold keys.
#[must_use]
pub fn leftovers(directory: &Path) -> [PathBuf; 2] {
    [previous(directory), next(directory)]
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(TlsError::io("remove", directory)(error)),
        _ => Ok(()),
    }
}

/// Holds a directory, whatever its name then is, until the value is dropped. It is one that only its owner and root may
/// open, so nobody else can hold it up.
fn lock(directory: &Path) -> Result<File> {
    lock_within(directory, LOCK_TIMEOUT)
}

fn lock_within(directory: &Path, timeout: Duration) -> Result<File> {
    let failed = |error| TlsError::io("lock", directory)(error);
    let deadline = Instant::now() + timeout;
    loop {
        let opened = OpenDirectory::open(directory).map_err(failed)?;
        let file = File::open(opened.path()).map_err(failed)?;
        match file.try_lock() {
            // Another one may have taken its name while this one was waited for.
            Ok(()) if is_still(&file, directory) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if Instant::now() >= deadline {
            return Err(failed(ErrorKind::TimedOut.into()));
        }
    }
}

fn is_still(file: &File, directory: &Path) -> bool {
    let opened = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    matches!((FileId::of(&opened), FileId::of(directory)), (Ok(one), Ok(other)) if one == other)
}

fn swap(one: &Path, other: &Path) -> Result<()> {
    let swap = || -> std::io::Result<()> {
        let parent = OpenDirectory::parent_of(other)?;
        renameat2(
            AT_FDCWD,
            &parent.entry(one),
            AT_FDCWD,
            &parent.entry(other),
            RenameFlags::RENAME_EXCHANGE,
        )?;
        parent.sync()
    };
    swap().map_err(TlsError::io("exchange", other))
}

/// Puts what `fill` makes into an empty directory in the place of `directory`. Files that it does not make are copied
/// as they are, and the certificates that are replaced are [remembered](crate::known_certificates()). When it fails,
/// nothing has changed.
///
/// # Errors
/// What `fill` returns, or when the new directory cannot be made or exchanged.
pub fn exchange<E: From<TlsError>>(
    directory: &Path,
    owner: Option<Owner>,
    fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let next = next(directory);
    let _present = lock(directory)?;
    remove(&next)?;
    file::create_private_directory(&next, owner)?;
    // It is the directory as soon as the names are exchanged, and there is more to do then.
    let _coming = lock(&next)?;
    let filled = fill(&next).and_then(|()| {
        remember_certificates(directory, &next, owner)?;
        Ok(copy_missing(directory, &next, owner)?)
    });
    if let Err(error) = filled {
        remove(&next)?;
        return Err(error);
    }
    swap(&next, directory)?;
    let previous = previous(directory);
    remove(&previous)?;
    fs::rename(&next, &previous).map_err(TlsError::io("keep", &previous))?;
    Ok(())
}

/// Puts renewed certificates (file name and PEM) for the same key into the place of those in `directory`.
///
/// # Errors
/// When one does not fit the key, is not trusted, or has other names or uses than the one that it replaces.
pub fn install_renewed(directory: &Path, key: &str, leaves: &[(&str, &str)]) -> Result<()> {
    exchange(directory, None, |next| {
        let (secret, trusted) =
            (file::read_own(&directory.join(key))?, file::read(&directory.join(CA_CERTIFICATE))?);
        file::create(&next.join(key), &secret.text, KEY_MODE, None)?;
        file::create(&next.join(CA_CERTIFICATE), &trusted, CERTIFICATE_MODE, None)?;
        for (name, pem) in leaves {
            let path = next.join(name);
            file::create(&path, pem, CERTIFICATE_MODE, None)?;
            let new = Identity::load(&next.join(CA_CERTIFICATE), &path, &next.join(key))?;
            let old = CertificateInfo::from_file(&directory.join(name))?;
            if !new.info().has_same_subject_and_uses(&old) {
                return Err(TlsError::bad_file(
                    &path,
                    "its names or uses differ from those of the certificate that it replaces",
                ));
            }
        }
        Ok(())
    })
}

fn copy_missing(from: &Path, to: &Path, owner: Option<Owner>) -> Result<()> {
    for entry in fs::read_dir(from).map_err(TlsError::io("read", from))?.flatten() {
        let target = to.join(entry.file_name());
        // What cannot be read as a plain small file is not one of ours, nor is what has another name too: root would give
        // the service user a copy of a file that that user may not read.
        if let (false, Ok(content)) = (file::exists(&target)?, file::read_own(&entry.path()))
            && content.is_sole_link()
        {
            file::create(&target, &content.text, content.mode() & 0o777, owner)?;
        }
    }
    Ok(())
}

/// Removes the set that the last exchange replaced, if there is one: only a thief could still use its keys.
///
/// # Errors
/// When it cannot be removed.
pub fn forget_previous(directory: &Path) -> Result<()> {
    let next = next(directory);
    // Without a directory there is nobody who exchanges it.
    let _present = directory.exists().then(|| lock(directory)).transpose()?;
    // A process that was killed after the exchange left the old set under this name.
    remove(&next)?;
    // In one step: half a set would be taken for one that can come back.
    match fs::rename(previous(directory), &next) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        renamed => {
            renamed.map_err(TlsError::io("remove", &next))?;
            remove(&next)
        }
    }
}

/// Undoes the last exchange.
///
/// # Errors
/// When nothing was kept, or the names cannot be exchanged.
pub fn exchange_back(directory: &Path) -> Result<()> {
    let _locks = (lock(directory)?, lock(&previous(directory))?);
    swap(&previous(directory), directory)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn one_forgets_what_was_replaced_while_another_replaces_it() {
        let root = tempfile::tempdir().unwrap();
        let tls = root.path().join("tls");
        fs::create_dir(&tls).unwrap();
        let make = |to: &Path| {
            for name in ["key", "one", "two", "three"] {
                file::create(&to.join(name), "new", 0o600, None)?;
            }
            Ok::<(), TlsError>(())
        };
        exchange(&tls, None, make).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        forget_previous(&tls).unwrap();
                        let _held = lock(&tls).unwrap();
                        assert_eq!(fs::read_dir(&tls).unwrap().count(), 4, "a set is whole");
                    }
                });
            }
            let exchanged =
                std::panic::catch_unwind(|| (0..100).try_for_each(|_| exchange(&tls, None, make)));
            is_over.store(true, Ordering::Relaxed);
            exchanged.unwrap().unwrap();
        });
    }

    #[test]
    fn exchange_that_does_not_end_is_not_waited_for_without_end() {
        let root = tempfile::tempdir().unwrap();
        let tls = root.path().join("tls");
        fs::create_dir(&tls).unwrap();
        let held = lock(&tls).unwrap();
        let refused = lock_within(&tls, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(refused.contains("lock"), "{refused}");
        drop(held);
        forget_previous(&tls).unwrap();
    }

    #[test]
    fn directory_is_exchanged_as_a_whole_and_back() {
        let root = tempfile::tempdir().unwrap();
        let tls = root.path().join("tls");
        fs::create_dir(&tls).unwrap();
        for (name, text) in [("key", "old"), ("certificate", "old"), ("endpoint", "kept")] {
            fs::write(tls.join(name), text).unwrap();
        }
        let make = |to: &Path| {
            file::create(&to.join("key"), "new", 0o600, None)?;
            file::create(&to.join("certificate"), "new", 0o644, None).map(drop)
        };
        let exchange = |directory: &Path, fill: &dyn Fn(&Path) -> Result<()>| exchange(directory, None, fill);
        let shown = || {
            ["key", "certificate", "endpoint"]
                .map(|name| fs::read_to_string(tls.join(name)).unwrap())
                .join(" ")
        };
        exchange(&tls, &make).unwrap();
        assert_eq!(shown(), "new new kept");
        exchange_back(&tls).unwrap();
        assert_eq!(shown(), "old old kept");
        // An exchange that fails, or that was killed before, leaves nothing.
        fs::create_dir(root.path().join("tls.next")).unwrap();
        fs::write(root.path().join("tls.next/key"), "half").unwrap();
        let failed = exchange(&tls, &|to| {
            file::create(&to.join("key"), "new", 0o600, None)?;
            Err(TlsError::bad_file(to, "no".to_owned()))
        });
        assert!(failed.is_err());
        assert_eq!(shown(), "old old kept");
        assert!(!root.path().join("tls.next").exists());
        exchange(&tls, &make).unwrap();
        exchange(&tls, &make).unwrap();
        assert_eq!(shown(), "new new kept");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "one set is kept");
    }
}
