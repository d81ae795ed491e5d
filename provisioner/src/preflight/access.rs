//! Whether the OS user can use a directory: every parent must let it pass.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use cellar_system::OsUser;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Group, getgrouplist};

use crate::error::finding::Finding;

/// The groups of a user, its primary one included.
fn groups(user: &OsUser) -> Vec<u32> {
    let listed = std::ffi::CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid.into()).ok());
    listed.map_or_else(|| vec![user.gid], |groups| groups.into_iter().map(nix::unistd::Gid::as_raw).collect())
}

/// Whether the permission bits `wanted` (1 pass, 2 write, 4 read) are given to the user. Access control
/// lists are not looked at: where they grant more, the message names a directory that is fine.
fn allows(found: &Metadata, uid: u32, groups: &[u32], wanted: u32) -> bool {
    let shift = if found.uid() == uid {
        6
    } else if groups.contains(&found.gid()) {
        3
    } else {
        0
    };
    (found.mode() >> shift) & wanted == wanted
}

/// What keeps the user from using `place`, which need not exist yet.
pub(crate) fn check(place: &Path, user: &OsUser) -> Option<Finding> {
    let groups = groups(user);
    let mut parents: Vec<&Path> = place.ancestors().collect();
    parents.reverse();
    for directory in parents {
        let found = match fs::metadata(directory) {
            Ok(found) => found,
            // What does not exist yet is made by us, with the right owner.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return missing_is_makable(directory);
            }
            Err(error) => {
                return Some(Finding {
                    message: format!("{} cannot be looked at: {error}", directory.display()),
                    hint: Some("name another directory with --dir or --repo".to_owned()),
                });
            }
        };
        if !found.is_dir() {
            return Some(Finding {
                message: format!(
                    "{} is not a directory, and {} would lie in it",
                    directory.display(),
                    place.display()
                ),
                hint: Some("name another directory with --dir or --repo".to_owned()),
            });
        }
        let wanted = if directory == place { 0o7 } else { 0o1 };
        if !allows(&found, user.uid, &groups, wanted) {
            let what = if directory == place { "read and write in" } else { "pass through" };
            let group =
                Group::from_gid(found.gid().into()).ok().flatten().map_or_else(String::new, |g| g.name);
            return Some(Finding {
                message: format!(
                    "the OS user {} may not {what} {} (mode {:04o}, owner {}, group {group}), so it cannot use {}",
                    user.name,
                    directory.display(),
                    found.mode() & 0o7777,
                    found.uid(),
                    place.display()
                ),
                hint: Some(if directory == place {
                    format!("chown {} {}, or name another directory", user.name, directory.display())
                } else {
                    format!(
                        "chmod o+x {}, or name another directory with --dir or --repo",
                        directory.display()
                    )
                }),
            });
        }
    }
    check_mount(place)
}

/// What keeps everybody from writing in `place`: a file system that is mounted read-only, which is also what the kernel
/// makes of one whose disk fails.
pub(crate) fn check_mount(place: &Path) -> Option<Finding> {
    let found = statvfs(place).ok()?;
    found.flags().contains(FsFlags::ST_RDONLY).then(|| Finding {
        message: format!("{} is on a file system that is mounted read-only", place.display()),
        hint: Some(format!(
            "see in the kernel's log whether its disk has failed; if it is sound: mount -o remount,rw \"$(findmnt -no TARGET -T {})\"",
            place.display()
        )),
    })
}

/// Whether we can make `directory`, whose parent exists.
fn missing_is_makable(directory: &Path) -> Option<Finding> {
    let parent = directory.parent()?;
    nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK).err().map(
        |errno| Finding {
            message: format!(
                "{} cannot be made in {}: {}",
                directory.display(),
                parent.display(),
                errno.desc()
            ),
            hint: Some(
                "name another directory with --dir, or run it as a user who may write there".to_owned(),
            ),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A user who owns nothing here.
    fn stranger() -> OsUser {
        OsUser { name: "nobody-of-ours".into(), uid: 54_321, gid: 54_321 }
    }

    #[test]
    fn directory_that_keeps_the_user_out_is_reported() {
        // The system's own temporary directory lets everybody pass, a tempdir of ours does not.
        let dir = tempfile::tempdir().unwrap();
        let closed = dir.path().join("closed");
        fs::create_dir(&closed).unwrap();
        let place = closed.join("cluster/zone1");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
        let finding = check(&place, &stranger()).unwrap();
        assert!(
            finding.message.contains(&format!("may not pass through {} ", closed.display())),
            "{finding:?}"
        );
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o711)).unwrap();
        assert_eq!(check(&place, &stranger()), None);
        fs::create_dir_all(&place).unwrap();
        let finding = check(&place, &stranger()).unwrap();
        assert!(finding.message.contains("may not read and write in"), "{finding:?}");
    }

    #[test]
    fn file_in_place_of_a_directory_is_reported() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let user = OsUser { uid: nix::unistd::Uid::effective().as_raw(), ..stranger() };
        assert!(check(&file.path().join("x"), &user).is_some());
    }
}
