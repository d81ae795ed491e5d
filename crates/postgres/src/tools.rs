//! PostgreSQL's programs, and how they are started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cellar_system::SERVICE_MANAGER_VARIABLES;
use tokio::process::Command;

use crate::command::run;
use crate::error::PostgresError;

/// Where Debian's packages put each major version: `<here>/15/bin`.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// The Debian package that has the programs of the release's version.
const PACKAGE: &str = "postgresql";

/// The programs that must be there.
const PROGRAMS: [&str; 4] = ["initdb", "pg_ctl", "postgres", "pg_controldata"];

/// How long `postgres --version` may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What tells the file of a program from one that has replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ProgramFile {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl ProgramFile {
    fn at(path: &Path) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some(Self { device: found.dev(), inode: found.ino(), size: found.len(), changed })
    }
}

/// The versions that programs have told, by their paths.
static KNOWN_VERSIONS: Mutex<BTreeMap<PathBuf, (ProgramFile, String)>> = Mutex::new(BTreeMap::new());

fn known_versions() -> MutexGuard<'static, BTreeMap<PathBuf, (ProgramFile, String)>> {
    // Nothing that holds it can leave it half changed.
    KNOWN_VERSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// PostgreSQL's programs of one version, and the user that they run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    bindir: PathBuf,
    /// Where the programs of other versions are; none when a directory was named, which is then the only one.
    versions: Option<PathBuf>,
    /// User and group id for children, when the caller is root; PostgreSQL refuses to run as root.
    /// Files that this crate writes then go to the same user.
    pub run_as: Option<(u32, u32)>,
    nice: u32,
}

/// The Debian package that has the programs in this directory.
fn package_of(bindir: &Path) -> String {
    let version = bindir.strip_prefix(DEBIAN_ROOT).ok().and_then(|rest| rest.iter().next()?.to_str());
    version.map_or_else(|| PACKAGE.to_owned(), package_of_version)
}

/// The Debian package of one major version.
pub(crate) fn package_of_version(version: impl std::fmt::Display) -> String {
    format!("postgresql-{version}")
}

fn newest_debian(root: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(root).ok()?.flatten().filter_map(|entry| {
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bindir = bindir_of(root, major);
        // A client package of a newer version brings the directory, but no server.
        bindir.join("postgres").is_file().then_some((major, bindir))
    });
    versions.max().map(|(_, bindir)| bindir)
}

/// Where Debian has the programs of a major version.
fn bindir_of(root: &Path, version: u32) -> PathBuf {
    root.join(version.to_string()).join("bin")
}

/// A program that a directory lacks.
fn missing_program(bindir: &Path) -> Option<&'static str> {
    PROGRAMS.into_iter().find(|program| !bindir.join(program).is_file())
}

fn on_path(path: Option<OsString>) -> Option<PathBuf> {
    std::env::split_paths(&path?).find(|directory| directory.join("postgres").is_file())
}

impl Tools {
    /// Finds the programs: in `bindir` when it is given, else in `$CELLAR_PG_BINDIR`, else the newest
    /// version of Debian's packages, else on `$PATH`. A directory that was named is the only one looked at.
    ///
    /// These programs make a new database. An existing one needs those of [`Tools::for_data`].
    ///
    /// # Errors
    /// [`PostgresError::MissingBinary`], naming the Debian package.
    pub fn find(bindir: Option<&Path>) -> Result<Self, PostgresError> {
        let named = bindir
            .map(Path::to_path_buf)
            .or_else(|| std::env::var_os("CELLAR_PG_BINDIR").filter(|d| !d.is_empty()).map(PathBuf::from));
        let versions = named.is_none().then(|| PathBuf::from(DEBIAN_ROOT));
        let found = named
            .or_else(|| newest_debian(Path::new(DEBIAN_ROOT)))
            .or_else(|| on_path(std::env::var_os("PATH")));
        let missing =
            |program, package, searched| PostgresError::MissingBinary { program, package, searched };
        let Some(bindir) = found else {
            let searched = format!("{DEBIAN_ROOT}/*/bin and $PATH");
            return Err(missing(PROGRAMS[0], PACKAGE.to_owned(), searched));
        };
        match missing_program(&bindir) {
            Some(program) => Err(missing(program, package_of(&bindir), bindir.display().to_string())),
            None => Ok(Self { bindir, versions, run_as: None, nice: 0 }),
        }
    }

    /// The programs of the major version that a data directory has, if they are installed; else, and for a directory
    /// without a version, the same ones. A host may get a newer version beside the one that its data is of.
    #[must_use]
    pub fn for_data(&self, data: &Path) -> Self {
        let text = std::fs::read_to_string(data.join("PG_VERSION")).unwrap_or_default();
        text.trim().parse().map_or_else(|_| self.clone(), |version| self.of_version(version))
    }

    /// The programs of a major version, if they are installed; else the same ones.
    #[must_use]
    pub fn of_version(&self, version: u32) -> Self {
        let bindir = self.versions.as_ref().map(|root| bindir_of(root, version));
        match bindir.filter(|bindir| missing_program(bindir).is_none()) {
            Some(bindir) => Self { bindir, ..self.clone() },
            None => self.clone(),
        }
    }

    /// What to do about a data directory of a version whose programs these are not.
    pub(crate) fn remedy(&self, version: u32) -> String {
        if self.versions.is_some() {
            format!("install the Debian package {}, or set CELLAR_PG_BINDIR", package_of_version(version))
        } else {
            format!("let CELLAR_PG_BINDIR name the programs of PostgreSQL {version}, or unset it")
        }
    }

    /// The same programs, run as another user; only root can.
    #[must_use]
    pub fn run_as(self, uid: u32, gid: u32) -> Self {
        Self { run_as: Some((uid, gid)), ..self }
    }

    /// The same with less of the processor's time, servers that are started with it included; 0 to 19.
    #[must_use]
    pub fn niced(&self, nice: u32) -> Self {
        Self { nice: nice.min(19), ..self.clone() }
    }

    /// The directory of the programs.
    #[must_use]
    pub fn bindir(&self) -> &Path {
        &self.bindir
    }

    /// A command for one of the programs, with a clean environment.
    ///
    /// Messages are English and times UTC, because they are read by machines; `PG*` variables of whoever
    /// started us must not choose another server, data directory or time zone.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let program = self.bindir.join(program);
        let mut command = if self.nice == 0 {
            Command::new(program)
        } else {
            let mut command = Command::new("nice");
            command.arg("-n").arg(self.nice.to_string()).arg(program);
            command
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        for name in SERVICE_MANAGER_VARIABLES {
            command.env_remove(name);
        }
        command.env_remove("LANGUAGE").env("LC_ALL", "C").env("TZ", "UTC");
        // The user that it runs as may not be able to enter our own directory.
        command.current_dir("/");
        if let Some((uid, gid)) = self.run_as {
            // Also drops root's supplementary groups (std does so when a uid is set).
            command.uid(uid).gid(gid);
        }
        command
    }

    /// PostgreSQL's version, such as `15.18`. The program is asked once, and again when its file is another one.
    ///
    /// # Errors
    /// When `postgres --version` fails or says something else.
    pub async fn version(&self) -> Result<String, PostgresError> {
        let program = self.bindir.join("postgres");
        // Before it is asked: what it says must not be taken for the word of a file that has replaced it meanwhile.
        let file = ProgramFile::at(&program);
        let known = || known_versions().get(&program).filter(|(of, _)| Some(*of) == file).cloned();
        if let Some((_, version)) = known() {
            return Ok(version);
        }
        let version = self.ask_version().await?;
        if let Some(file) = file {
            known_versions().insert(program, (file, version.clone()));
        }
        Ok(version)
    }

    async fn ask_version(&self) -> Result<String, PostgresError> {
        let mut command = self.command("postgres");
        command.arg("--version");
        let output = run(command, VERSION_TIMEOUT).await?;
        version_number(&output.stdout)
            .map(str::to_owned)
            .ok_or_else(|| PostgresError::UnexpectedAnswer(format!("version: {}", output.stdout.trim())))
    }
}

/// The number in `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn version_number(text: &str) -> Option<&str> {
    let number = text.split_once("(PostgreSQL)")?.1.split_whitespace().next()?;
    number.starts_with(|c: char| c.is_ascii_digit()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_names_the_package() {
        let empty = tempfile::tempdir().unwrap();
        let error = Tools::find(Some(empty.path())).unwrap_err();
        assert!(matches!(&error, PostgresError::MissingBinary { program: "initdb", .. }));
        assert!(error.to_string().contains("the Debian package postgresql,"), "{error}");
        assert_eq!(package_of(Path::new("/usr/lib/postgresql/17/bin")), "postgresql-17");
    }

    #[test]
    fn data_directory_chooses_the_programs_of_its_version() {
        let root = tempfile::tempdir().unwrap();
        let install = |version: u32| {
            let bindir = bindir_of(root.path(), version);
            std::fs::create_dir_all(&bindir).unwrap();
            PROGRAMS.iter().for_each(|program| std::fs::write(bindir.join(program), "").unwrap());
            bindir
        };
        let (old, new) = (install(15), install(17));
        let tools =
            Tools { bindir: new.clone(), versions: Some(root.path().to_owned()), run_as: None, nice: 0 };
        let data = tempfile::tempdir().unwrap();
        assert_eq!(tools.for_data(data.path()).bindir, new, "nothing is there yet");
        for (version, bindir) in [("15\n", &old), ("17\n", &new), ("16\n", &new), ("what\n", &new)] {
            std::fs::write(data.path().join("PG_VERSION"), version).unwrap();
            assert_eq!(tools.for_data(data.path()).bindir, *bindir, "{version}");
        }
        std::fs::write(data.path().join("PG_VERSION"), "15\n").unwrap();
        let named = Tools { versions: None, ..tools.clone() };
        assert_eq!(named.for_data(data.path()).bindir, new, "a directory that was named is the only one");
        assert!(tools.remedy(16).contains("postgresql-16"));
        assert!(named.remedy(15).contains("CELLAR_PG_BINDIR"));
    }

    #[test]
    fn the_newest_server_wins_by_number_and_a_client_does_not_count() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "17"] {
            std::fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        for version in ["9", "15"] {
            std::fs::write(root.path().join(version).join("bin/postgres"), "").unwrap();
        }
        assert_eq!(newest_debian(root.path()), Some(root.path().join("15/bin")));
    }

    #[tokio::test]
    async fn program_is_asked_again_only_when_its_file_is_another_one() {
        use std::os::unix::fs::PermissionsExt;
        let bindir = tempfile::tempdir().unwrap();
        let asked = bindir.path().join("asked");
        let install = |version: &str| {
            let (new, program) = (bindir.path().join("new"), bindir.path().join("postgres"));
            let script =
                format!("#!/bin/sh\necho >> '{}'\necho 'postgres (PostgreSQL) {version}'\n", asked.display());
            std::fs::write(&new, script).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(new, program).unwrap();
        };
        let tools = Tools { bindir: bindir.path().to_owned(), versions: None, run_as: None, nice: 0 };
        let times = || std::fs::read_to_string(&asked).unwrap().lines().count();
        install("15.17");
        for _ in 0..3 {
            assert_eq!(tools.version().await.unwrap(), "15.17");
        }
        assert_eq!(times(), 1);
        install("15.18");
        for _ in 0..3 {
            assert_eq!(tools.version().await.unwrap(), "15.18", "an update of the package");
        }
        assert_eq!(times(), 2);
        std::fs::remove_file(bindir.path().join("postgres")).unwrap();
        assert!(tools.version().await.is_err());
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(version_number("postgres (PostgreSQL) 15.18 (Debian 15.18-0)\n"), Some("15.18"));
        assert_eq!(version_number("postgres (PostgreSQL) 18beta1"), Some("18beta1"));
        assert_eq!(version_number("something else"), None);
    }
}
