//! What each kind of repository means for pgBackRest, and what can be checked of it from this host.

use std::path::{Path, PathBuf};

use cellar_model::{BackupLabel, Repository};

/// pgBackRest's options for where a repository is, without those that are the same for every kind.
pub(crate) fn location_options(repository: &Repository, number: u32) -> Vec<(String, String)> {
    match repository {
        Repository::Directory(path) => vec![(format!("repo{number}-path"), path.as_str().to_owned())],
    }
}

/// Whether the store is not where it was, as far as this host can tell: an unmounted directory.
#[must_use]
pub fn is_out_of_reach(repository: &Repository) -> bool {
    match repository {
        Repository::Directory(path) => !Path::new(path.as_str()).join("backup").exists(),
    }
}

/// Moves the half of a stanza aside whose creation was interrupted, and tells from where to where; none when there is
/// no such half or the stanza may have backups.
///
/// pgBackRest writes `archive.info` before `backup.info`. When it is killed in between, it (2.45) refuses to create the
/// stanza again, because this looks like a damaged repo. The directory may be moved only if there is no trace of any
/// backup: WAL without a backup restores nothing.
///
/// # Errors
/// The path that could not be moved, and why.
pub fn move_half_made_stanza_aside(
    repository: &Repository,
    stanza: &str,
    suffix: &str,
) -> Result<Option<(PathBuf, PathBuf)>, (PathBuf, std::io::Error)> {
    match repository {
        Repository::Directory(path) => {
            let Some(archive) = half_made_stanza(Path::new(path.as_str()), stanza) else { return Ok(None) };
            let aside = archive.with_extension(suffix);
            match std::fs::rename(&archive, &aside) {
                Ok(()) => Ok(Some((archive, aside))),
                Err(source) => Err((archive, source)),
            }
        }
    }
}

fn half_made_stanza(repo: &Path, stanza: &str) -> Option<PathBuf> {
    let (archive, backup) = (repo.join("archive").join(stanza), repo.join("backup").join(stanza));
    let traces = match std::fs::read_dir(&backup) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>().ok()?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        // A directory that cannot be read may have backups.
        Err(_) => return None,
    };
    // pgBackRest first writes to a temporary name, so `backup.info.pgbackrest.tmp` of a killed process is no trace.
    let of_a_backup = |name: &str| {
        ["backup.info", "backup.info.copy", "latest"].contains(&name) || name.parse::<BackupLabel>().is_ok()
    };
    let untouched =
        traces.iter().all(|entry| entry.file_name().to_str().is_some_and(|name| !of_a_backup(name)));
    (untouched && archive.join("archive.info").exists()).then_some(archive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stanza_without_any_trace_of_a_backup_is_half_made() {
        let repo = tempfile::tempdir().unwrap();
        let (archive, backup) = (repo.path().join("archive/app"), repo.path().join("backup/app"));
        let half_made = || half_made_stanza(repo.path(), "app");
        assert_eq!(half_made(), None, "nothing is there");
        std::fs::create_dir_all(&archive).unwrap();
        std::fs::write(archive.join("archive.info"), "x").unwrap();
        assert_eq!(half_made(), Some(archive.clone()), "killed before the backup's directory");
        std::fs::create_dir_all(&backup).unwrap();
        assert_eq!(half_made(), Some(archive.clone()), "killed before backup.info");
        std::fs::write(backup.join("backup.info.pgbackrest.tmp"), "x").unwrap();
        assert_eq!(half_made(), Some(archive.clone()), "killed while it wrote backup.info");
        for trace in ["backup.info", "backup.info.copy", "20260301-101500F"] {
            std::fs::write(backup.join(trace), "x").unwrap();
            assert_eq!(half_made(), None, "{trace}");
            std::fs::remove_file(backup.join(trace)).unwrap();
        }
    }

    #[test]
    fn half_made_stanza_is_moved_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let repository: Repository = directory.path().to_str().unwrap().parse().unwrap();
        assert!(is_out_of_reach(&repository));
        let archive = directory.path().join("archive/app");
        std::fs::create_dir_all(&archive).unwrap();
        assert_eq!(move_half_made_stanza_aside(&repository, "app", "aside").unwrap(), None);
        std::fs::write(archive.join("archive.info"), "x").unwrap();
        let aside = archive.with_extension("aside");
        let moved = move_half_made_stanza_aside(&repository, "app", "aside").unwrap();
        assert_eq!(moved, Some((archive.clone(), aside.clone())));
        assert!(aside.join("archive.info").exists() && !archive.exists());
        std::fs::create_dir(directory.path().join("backup")).unwrap();
        assert!(!is_out_of_reach(&repository));
    }
}
