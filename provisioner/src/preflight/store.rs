//! A repository in a store: whether pgBackRest here can use it, and the files that its URL names are here.

use std::path::Path;
use std::process::{Command, Stdio};

use cellar_model::Repository;
use cellar_pgbackrest::{Version, needed_version};

use crate::binaries;
use crate::error::finding::Finding;

/// Options of a URL that name a file of each host.
const FILES: [&str; 3] = ["ca-file", "private-key-file", "public-key-file"];

/// The problems with a store that can be seen without asking it.
pub(crate) fn check(repository: &Repository) -> Vec<Finding> {
    let Some(store) = repository.store() else { return Vec::new() };
    let named = FILES.iter().filter_map(|name| Some((*name, Path::new(store.option(name)?))));
    let missing = named.filter(|(_, file)| !file.exists()).map(|(name, file)| Finding {
        message: format!("{} is not there, which the repository's URL names as {name}", file.display()),
        hint: Some("put it there, readable for the user of PostgreSQL, on every host".to_owned()),
    });
    check_version(repository, installed()).into_iter().chain(missing).collect()
}

/// The version of pgBackRest here; none when that is not installed, which is a finding of its own, or does not say.
fn installed() -> Option<Version> {
    let program = binaries::find("pgbackrest")?;
    let output = Command::new(program).arg("version").stdin(Stdio::null()).output().ok()?;
    String::from_utf8_lossy(&output.stdout).trim().strip_prefix("pgBackRest ")?.parse().ok()
}

fn check_version(repository: &Repository, installed: Option<Version>) -> Option<Finding> {
    let ((needed, what), installed) = (needed_version(repository)?, installed?);
    (installed < needed).then(|| Finding {
        message: format!("{what} needs pgBackRest {needed}, and {installed} is installed"),
        hint: Some(
            "install a newer pgBackRest on every host, or choose another kind of repository".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_that_lacks_the_kind_of_store_is_named_with_the_one_that_has_it() {
        let sftp =
            "sftp://u@h.example/p?host-key-hash-type=sha256&private-key-file=/nowhere/id".parse().unwrap();
        let found = |version: &str| check_version(&sftp, version.parse().ok()).map(|finding| finding.message);
        let message = found("2.45").unwrap();
        assert!(
            message.contains("SFTP") && message.contains("2.46") && message.contains("2.45"),
            "{message}"
        );
        assert_eq!((found("2.46"), found("2.60.0"), found("unknown")), (None, None, None));
        assert!(check(&sftp).iter().any(|finding| finding.message.contains("/nowhere/id")));
        assert!(check(&"/mnt/repo".parse().unwrap()).is_empty());
    }
}
