//! What each kind of repository means for pgBackRest, and what can be checked of it from this host.

use std::path::{Path, PathBuf};

use cellar_model::{BackupLabel, CellName, Pooler, Repository, Store, StoreKind};

use crate::config_check::ConfigError;
use crate::versions::{Behaviour, Version};

/// pgBackRest's options for where a repository is, without those that are the same for every kind. Of the `others` only
/// the one is looked at on whose host the repository is.
///
/// pgBackRest's server of a cell is the server of its repository, too: one process, port and certificate for both.
pub(crate) fn location_options(
    repository: &Repository,
    number: u32,
    local: &Pooler,
    others: &[&Pooler],
) -> Result<Vec<(String, String)>, ConfigError> {
    let option = |name: &str, value: &str| (format!("repo{number}-{name}"), value.to_owned());
    let path = match repository {
        Repository::Directory(path) | Repository::InCell { path, .. } => option("path", path.as_str()),
        Repository::Store(store) => return Ok(store_options(store, number)),
    };
    let Some(home) = repository.reached_through(&local.cell) else { return Ok(vec![path]) };
    let server = others.iter().find(|other| other.cell == *home);
    let server = server.ok_or_else(|| ConfigError::NoRepositoryHost(home.to_string()))?;
    let tls = |file: &str| format!("{}/{file}", local.tls_directory);
    Ok(vec![
        path,
        option("host", &server.host),
        option("host-type", "tls"),
        option("host-port", &server.pgbackrest_port.to_string()),
        option("host-ca-file", &tls("ca.crt")),
        option("host-cert-file", &tls("server.crt")),
        option("host-key-file", &tls("server.key")),
        option("host-config", &server.config_path),
    ])
}

/// The options of a store. Small files are bundled: an object store takes as long for a small one as for one of some MiB.
fn store_options(store: &Store, number: u32) -> Vec<(String, String)> {
    let path = [("path", store.path().as_str().to_owned()), ("bundle", "y".to_owned())];
    let all = store.pgbackrest_options().into_iter().chain(path);
    all.map(|(name, value)| (format!("repo{number}-{name}"), value)).collect()
}

/// Which version of pgBackRest the repository needs at least, and for what; none when every version will do.
#[must_use]
pub fn needed_version(repository: &Repository) -> Option<(Version, &'static str)> {
    let store = repository.store()?;
    let (behaviour, what) = match (store.kind(), store.key_type()) {
        (StoreKind::Sftp, _) => (Behaviour::Sftp, "a repository that is reached over SFTP"),
        (StoreKind::Azure, Some("auto")) => (Behaviour::AzureIdentities, "key-type=auto of Azure"),
        _ => return None,
    };
    behaviour.since().map(|since| (since, what))
}

/// Whether the store is not where it was, as far as the host of `cell` can tell: an unmounted directory.
#[must_use]
pub fn is_out_of_reach(repository: &Repository, cell: &CellName) -> bool {
    repository.directory_in(cell).is_some_and(|directory| !directory.join("backup").exists())
}

/// The file of a stanza that is lost with its copy, while the other one of the two is there: `backup.info`, without which
/// no backup is known, or `archive.info`, without which no WAL is archived. None when the host of `cell` does not have the
/// repository.
#[must_use]
pub fn lost_info(repository: &Repository, cell: &CellName, stanza: &str) -> Option<PathBuf> {
    let directory = repository.directory_in(cell)?;
    let file = |kind: &str| directory.join(kind).join(stanza).join(format!("{kind}.info"));
    let is_there = |file: &Path| file.exists() || file.with_extension("info.copy").exists();
    let (backup, archive) = (file("backup"), file("archive"));
    match (is_there(&backup), is_there(&archive)) {
        (false, true) => Some(backup),
        (true, false) => Some(archive),
        _ => None,
    }
}

/// What to do about a [lost file](lost_info), or where it may be one.
pub const LOST_INFO_HINT: &str = "see that the repository is mounted and where it was; if it is, docs/troubleshooting.md (backup.info or archive.info is lost) has the commands that make it again from what is there";

/// Whether what pgBackRest says is about one of the files without which it knows nothing of a stanza.
#[must_use]
pub fn names_info(text: &str) -> bool {
    ["/backup.info", "/archive.info"].iter().any(|file| text.contains(file))
}

/// Moves the half of a stanza aside whose creation was interrupted, and tells from where to where; none when there is
/// no such half, the stanza may have backups, or the host of `cell` does not have the repository.
///
/// pgBackRest writes `archive.info` before `backup.info`. When it is killed in between, it (2.45) refuses to create the
/// stanza again, because this looks like a damaged repo. The directory may be moved only if there is no trace of any
/// backup: WAL without a backup restores nothing.
///
/// # Errors
/// The path that could not be moved, and why.
pub fn move_half_made_stanza_aside(
    repository: &Repository,
    cell: &CellName,
    stanza: &str,
    suffix: &str,
) -> Result<Option<(PathBuf, PathBuf)>, (PathBuf, std::io::Error)> {
    let archive = repository.directory_in(cell).and_then(|directory| half_made_stanza(directory, stanza));
    let Some(archive) = archive else { return Ok(None) };
    let aside = archive.with_extension(suffix);
    match std::fs::rename(&archive, &aside) {
        Ok(()) => Ok(Some((archive, aside))),
        Err(source) => Err((archive, source)),
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
    // A name that is none may be anybody's.
    let traces: Option<Vec<String>> =
        traces.iter().map(|entry| entry.file_name().into_string().ok()).collect();
    let info = archive.join("archive.info").exists().then(|| "archive.info".to_owned());
    is_half_made(info.as_slice(), &traces?).then_some(archive)
}

/// Whether a stanza with these names in its archive's directory, and these in that of its backups, is the half of one
/// whose creation was interrupted.
#[must_use]
pub fn is_half_made(archive: &[String], backup: &[String]) -> bool {
    // pgBackRest first writes to a temporary name, so `backup.info.pgbackrest.tmp` of a killed process is no trace.
    let of_a_backup = |name: &String| {
        ["backup.info", "backup.info.copy", "latest"].contains(&name.as_str())
            || name.parse::<BackupLabel>().is_ok()
    };
    archive.iter().any(|name| name == "archive.info") && !backup.iter().any(of_a_backup)
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
    fn only_some_stores_need_a_later_version() {
        let needed = |url: &str| needed_version(&url.parse().unwrap()).map(|(since, _)| since.to_string());
        let sftp = "sftp://u@h.example/p?host-key-hash-type=sha256&private-key-file=/k";
        assert_eq!(needed(sftp).as_deref(), Some("2.46"));
        assert_eq!(needed("azure://account/container/p?key-type=auto").as_deref(), Some("2.58"));
        for url in ["/mnt/repo", "s3://backups/p?region=r", "azure://account/container/p", "gcs://bucket/p"] {
            assert_eq!(needed(url), None, "{url}");
        }
    }

    #[test]
    fn half_made_stanza_is_moved_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let (zone1, zone3): (CellName, CellName) = ("zone1".parse().unwrap(), "zone3".parse().unwrap());
        let repository = Repository::InCell { cell: zone3.clone(), path: path.parse().unwrap() };
        assert!(is_out_of_reach(&repository, &zone3) && !is_out_of_reach(&repository, &zone1));
        let archive = directory.path().join("archive/app");
        std::fs::create_dir_all(&archive).unwrap();
        assert_eq!(move_half_made_stanza_aside(&repository, &zone3, "app", "aside").unwrap(), None);
        std::fs::write(archive.join("archive.info"), "x").unwrap();
        let aside = archive.with_extension("aside");
        assert_eq!(move_half_made_stanza_aside(&repository, &zone1, "app", "aside").unwrap(), None);
        let moved = move_half_made_stanza_aside(&repository, &zone3, "app", "aside").unwrap();
        assert_eq!(moved, Some((archive.clone(), aside.clone())));
        assert!(aside.join("archive.info").exists() && !archive.exists());
        std::fs::create_dir(directory.path().join("backup")).unwrap();
        assert!(!is_out_of_reach(&repository, &zone3));
    }

    #[test]
    fn one_of_two_files_that_is_lost_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let repository: Repository = directory.path().display().to_string().parse().unwrap();
        let zone1: CellName = "zone1".parse().unwrap();
        let lost = || lost_info(&repository, &zone1, "app");
        let path = |name: &str| directory.path().join(name);
        assert_eq!(lost(), None, "there is no stanza");
        for (kind, other) in [("archive", "backup"), ("backup", "archive")] {
            let (file, copy) = (path(kind).join("app"), format!("{kind}.info.copy"));
            std::fs::create_dir_all(&file).unwrap();
            std::fs::write(file.join(&copy), "x").unwrap();
            assert_eq!(lost(), Some(path(other).join("app").join(format!("{other}.info"))));
            std::fs::remove_file(file.join(copy)).unwrap();
        }
        for kind in ["archive", "backup"] {
            std::fs::write(path(kind).join("app").join(format!("{kind}.info")), "x").unwrap();
        }
        assert_eq!(lost(), None);
    }
}
