//! A bundle: everything that one host is given, in one file. It holds the private keys of that host, of nobody else, and
//! no authority's.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use cellar_model::CellName;
use cellar_system::clock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cluster::cell_host::CellHost;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::state::ClusterState;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::{make_directory, replace};
use crate::hosts::made_by::{UPDATE, VERSION, is_older, newer};

/// The form that this code writes; a later one is refused rather than misread. Form 1 does not say which version made it.
const FORMAT: u32 = 2;

/// Beginning of a bundle's first line. The form follows, the SHA-256 of all that follows the line, and the version of
/// Cellar that made it.
const HEADER: &str = "cellar bundle ";

/// Largest bundle that is read, in bytes; a hundredth of it is usual.
const MAX_SIZE: u64 = 4 << 20;

/// Mode of a bundle, and of most files in it.
const PRIVATE: u32 = 0o600;

/// One file of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct BundledFile {
    /// Its permission bits.
    pub(crate) mode: u32,
    /// Its content; all of them are text.
    pub(crate) text: String,
}

/// What one host is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Bundle {
    version: u32,
    /// Counts the bundles of a cluster, so that an older one does not replace what a newer one brought.
    pub(crate) number: u64,
    /// When it was made.
    pub(crate) issued: jiff::Timestamp,
    /// The cell whose host it is for.
    pub(crate) cell: CellName,
    /// What the cluster was created with; it has no secrets.
    pub(crate) cluster: ClusterState,
    /// The files by their paths below the cluster's directory on the host.
    pub(crate) files: BTreeMap<String, BundledFile>,
}

fn refused(path: &Path, reason: impl Into<String>, hint: &'static str) -> ProvisionError {
    ProvisionError::Bundle { path: path.to_owned(), reason: reason.into(), hint }
}

const COPY_AGAIN: &str = "copy it from the operator's machine again";

fn checksum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a path leads to a place below the directory that it is joined to.
fn stays_below(path: &str) -> bool {
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

impl Bundle {
    /// Reads a bundle and checks that it is whole.
    ///
    /// # Errors
    /// When it is not, when other users could read it, or when a newer build made it.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let failed = |error| ProvisionError::io("read", path)(error);
        let file = fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(refused(
                path,
                format!(
                    "it has mode {mode:04o}, so other users of this machine may have read the keys in it"
                ),
                "issue another one (`cellar cluster bundle` on the operator's machine), or chmod 0600 it if nobody else can have read it",
            ));
        }
        let mut text = String::new();
        let size = file.take(MAX_SIZE + 1).read_to_string(&mut text);
        if size.map_err(failed)? as u64 > MAX_SIZE {
            return Err(refused(path, "it is larger than 4 MiB, so it is no bundle", COPY_AGAIN));
        }
        Self::parse(&text).map_err(|(reason, hint)| refused(path, reason, hint))
    }

    /// The bundle; why there is none, and what to do.
    fn parse(text: &str) -> std::result::Result<Self, (String, &'static str)> {
        let copy_again = |reason: &str| (reason.to_owned(), COPY_AGAIN);
        let (first, body) = text.split_once('\n').unwrap_or((text, ""));
        let mut words = first.strip_prefix(HEADER).unwrap_or_default().split(' ');
        let Some(format) = words.next().and_then(|format| format.parse::<u32>().ok()) else {
            return Err(copy_again("it does not begin as a bundle does"));
        };
        let (sum, made_by) = (words.next().unwrap_or_default(), words.next());
        if format > FORMAT {
            return Err((newer(made_by), UPDATE));
        }
        if checksum(body) != sum {
            let size = text.len();
            return Err(copy_again(&format!(
                "it is damaged or not whole: its {size} bytes do not have their checksum"
            )));
        }
        // It is as it was written, so whoever wrote it knows what is not known here.
        let bundle: Self = serde_json::from_str(body).map_err(|error| match made_by {
            Some(version) if is_older(version) => copy_again(&format!("{error} (cellar {version} made it)")),
            _ => (format!("{} ({error})", newer(made_by)), UPDATE),
        })?;
        match bundle.files.keys().find(|path| !stays_below(path)) {
            Some(path) => Err(copy_again(&format!(
                "the file {path:?} in it would be written outside of the cluster's directory"
            ))),
            None => Ok(bundle),
        }
    }

    fn render(&self) -> std::result::Result<String, serde_json::Error> {
        let body = serde_json::to_string_pretty(self)? + "\n";
        Ok(format!("{HEADER}{FORMAT} {} {VERSION}\n{body}", checksum(&body)))
    }

    /// Where it is for.
    pub(crate) fn host(&self) -> Option<&CellHost> {
        self.cluster.cell(&self.cell)?.host.as_ref()
    }
}

/// The files below a directory, by their paths from it.
fn files_below(root: &Path, directory: &Path, files: &mut BTreeMap<String, BundledFile>) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(ProvisionError::io("read", directory))? {
        let path = entry.map_err(ProvisionError::io("read", directory))?.path();
        let found = fs::symlink_metadata(&path).map_err(ProvisionError::io("read", &path))?;
        if found.is_dir() {
            files_below(root, &path, files)?;
            continue;
        }
        let name = path.strip_prefix(root).ok().and_then(Path::to_str).map(str::to_owned);
        let text = fs::read_to_string(&path).map_err(ProvisionError::io("read", &path))?;
        if let Some(name) = name {
            files.insert(name, BundledFile { mode: found.permissions().mode() & 0o777, text });
        }
    }
    Ok(())
}

/// What installs a cell's bundle on its host, once it has been copied there. It holds keys, and is of no use afterwards.
#[must_use]
pub fn install_command(cell: &CellName) -> String {
    format!("cellar host install {cell}.bundle && rm {cell}.bundle")
}

impl Cluster {
    /// What to do with a cell's bundle, in a sentence.
    pub(super) fn installation_of(&self, cell: &CellName) -> String {
        let (bundle, host) = (self.bundle_path(cell), self.host_of(cell));
        format!("scp {} root@{host}: and there `{}`", bundle.display(), install_command(cell))
    }

    pub(super) fn bundle_path(&self, cell: &CellName) -> PathBuf {
        self.layout.root().join("bundles").join(format!("{cell}.bundle"))
    }

    /// Whether a cell's bundle holds what its host is to have.
    pub(super) fn is_bundle_current(&self, cell: &CellName) -> bool {
        let (root, mut files) = (self.for_host(cell).root().to_owned(), BTreeMap::new());
        let present = files_below(&root, &root, &mut files);
        present.is_ok() && Bundle::read(&self.bundle_path(cell)).is_ok_and(|bundle| bundle.files == files)
    }

    /// Removes a cell's bundle, if there is one.
    pub(crate) fn remove_bundle(&self, cell: &CellName) -> Result<()> {
        let path = self.bundle_path(cell);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(ProvisionError::io("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes the bundle of a cell's host into `bundles`, and tells where.
    pub(crate) fn write_bundle(&self, cell: &CellName, number: u64) -> Result<PathBuf> {
        let mut files = BTreeMap::new();
        let root = self.for_host(cell).root().to_owned();
        files_below(&root, &root, &mut files)?;
        let bundle = Bundle {
            version: FORMAT,
            number,
            issued: clock::now(),
            cell: cell.clone(),
            cluster: self.state.for_hosts(),
            files,
        };
        let path = self.bundle_path(cell);
        make_directory(path.parent().unwrap_or(&path), 0o700, None)?;
        let text =
            bundle.render().map_err(std::io::Error::from).map_err(ProvisionError::io("write", &path))?;
        replace(&path, &text, PRIVATE, None)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(dir: &Path) -> Bundle {
        let cluster = Cluster::sample(dir, &["zone1", "zone2"]);
        let file = BundledFile { mode: 0o600, text: "secret\n".to_owned() };
        Bundle {
            version: FORMAT,
            number: 3,
            issued: "2026-11-29T07:00:00Z".parse().unwrap(),
            cell: "zone2".parse().unwrap(),
            cluster: cluster.state,
            files: BTreeMap::from([("zone2/tls/server.key".to_owned(), file)]),
        }
    }

    #[test]
    fn bundle_that_lacks_a_byte_or_has_another_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let made = bundle(dir.path());
        let text = made.render().unwrap();
        assert_eq!(Bundle::parse(&text).unwrap(), made);
        let last = &text[..text.len() - 1];
        for bad in
            [last, &text[..text.len() / 2], &text[..40], "", "\n", &text.replacen("secret", "secreT", 1)]
        {
            let (reason, hint) = Bundle::parse(bad).unwrap_err();
            assert!(reason.contains("not whole") || reason.contains("does not begin"), "{reason}");
            assert_eq!(hint, COPY_AGAIN);
        }
    }

    #[test]
    fn bundle_of_a_newer_version_is_not_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let text = bundle(dir.path()).render().unwrap();
        let later = text.replacen("bundle 2 ", "bundle 3 ", 1).replacen(VERSION, "9.1.0", 1);
        let (reason, hint) = Bundle::parse(&later).unwrap_err();
        assert!(reason.contains("made by a newer cellar, version 9.1.0"), "{reason}");
        assert_eq!(hint, UPDATE);
        // Of the same form, with a field that is not known here.
        let body = text.split_once('\n').unwrap().1.replacen('{', "{ \"rack\": 7,", 1);
        let by = |version: &str| {
            Bundle::parse(&format!("{HEADER}2 {}{version}\n{body}", checksum(&body))).unwrap_err()
        };
        let (reason, hint) = by(" 9.1.0");
        assert!(reason.contains("newer cellar, version 9.1.0") && reason.contains("rack"), "{reason}");
        assert_eq!(hint, UPDATE);
        assert_eq!(by(&format!(" {VERSION}")).1, UPDATE, "a later build of this version");
        assert_eq!(by(" 0.0.1").1, COPY_AGAIN);
    }

    #[test]
    fn bundle_of_the_first_form_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let made = Bundle { version: 1, ..bundle(dir.path()) };
        let body = serde_json::to_string(&made).unwrap();
        assert_eq!(Bundle::parse(&format!("cellar bundle 1 {}\n{body}", checksum(&body))), Ok(made));
    }

    #[test]
    fn bundle_does_not_write_outside_of_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../etc/x", "/etc/x", "a/../../x", "", "./x/../y"] {
            let mut made = bundle(dir.path());
            let file = made.files.values().next().unwrap().clone();
            made.files.insert(path.to_owned(), file);
            let (reason, _) = Bundle::parse(&made.render().unwrap()).unwrap_err();
            assert!(reason.contains("outside"), "{path}: {reason}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_other_text_is_taken_for_a_bundle(body in "\\PC{0,300}") {
            // Also one whose checksum is right.
            let whole = |form: u32| format!("{HEADER}{form} {} 0.1.0\n{body}", checksum(&body));
            for text in [whole(1), whole(2), format!("{HEADER}{body}"), body.clone()] {
                proptest::prop_assert!(Bundle::parse(&text).is_err());
            }
        }
    }

    #[test]
    fn bundle_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b");
        fs::write(&path, bundle(dir.path()).render().unwrap()).unwrap();
        for (mode, is_fine) in [(0o644, false), (0o640, false), (0o600, true), (0o400, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let read = Bundle::read(&path);
            assert_eq!(read.is_ok(), is_fine, "{mode:o}");
            if let Err(error) = read {
                assert!(
                    error.to_string().contains(&format!("{mode:04o}")) && error.hint().is_some(),
                    "{error}"
                );
            }
        }
    }
}
