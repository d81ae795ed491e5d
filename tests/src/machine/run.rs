//! Running programs and keeping what they print.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use nix::unistd::{Uid, User};

/// How a program ended.
#[derive(Debug)]
pub struct Finished {
    /// Its exit code, -1 for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// What it printed to standard output, if it ended well.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What it printed to standard error, if it ended with `code`.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, code, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started: the message says which program is missing.
#[must_use]
#[track_caller]
pub fn run(command: &mut Command) -> Finished {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output.into(),
        Err(error) => panic!("{} cannot be run: {error}", command.get_program().display()),
    }
}

/// Where the programs under test are: beside this one.
///
/// # Panics
/// When this program's own path is not known.
#[must_use]
pub fn bin_dir() -> PathBuf {
    let Ok(mut path) = std::env::current_exe() else { panic!("this program has no path") };
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

/// A program of the workspace.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace` first", path.display());
    path
}

/// A user of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OsUser {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

fn user(name: &str, package: &str) -> OsUser {
    match User::from_name(name) {
        Ok(Some(user)) => OsUser { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() },
        _ => panic!("there is no OS user {name}: install the Debian package {package}"),
    }
}

/// The user that a cluster started by this process runs as.
#[must_use]
pub fn postgres_user() -> OsUser {
    if Uid::effective().is_root() {
        return user("postgres", "postgresql");
    }
    match User::from_uid(Uid::effective()) {
        Ok(Some(user)) => OsUser { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw() },
        _ => panic!("this process's user has no name"),
    }
}

/// A user that is neither root nor `postgres`, for tests of ordinary use.
#[must_use]
pub fn ordinary_user() -> OsUser {
    if Uid::effective().is_root() { user("nobody", "base-passwd") } else { postgres_user() }
}

/// The directory of the newest PostgreSQL's programs; none where no server is installed.
#[must_use]
pub fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = versions.filter_map(|version| {
        let number: u32 = version.file_name().to_str()?.parse().ok()?;
        Some((number, version.path().join("bin"))).filter(|(_, programs)| programs.join("psql").exists())
    });
    numbered.max().map(|(_, programs)| programs)
}

/// PostgreSQL's own `psql`. Debian's in the path is a Perl script before it, which costs five times the processor time, and tests
/// ask for many rows.
static PSQL: LazyLock<PathBuf> =
    LazyLock::new(|| postgres_programs().map_or_else(|| "psql".into(), |programs| programs.join("psql")));

/// A command that runs as `user`.
#[must_use]
pub fn as_user(user: &OsUser, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let program = program.as_ref();
    let mut command = Command::new(if program == "psql" { PSQL.as_os_str() } else { program });
    if Uid::effective().as_raw() != user.uid {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Gives a file of ours to the user that clusters run as, who can reach it then: pgBackRest, which from 2.59 on refuses to
/// run as root, reads no key of another user.
///
/// # Panics
/// When the file cannot be given.
pub fn give_to_postgres(file: &Path) {
    let user = postgres_user();
    if let Err(error) = std::os::unix::fs::chown(file, Some(user.uid), Some(user.gid)) {
        panic!("{} cannot be given to {}: {error}", file.display(), user.name);
    }
    for directory in file.ancestors().skip(1) {
        let Ok(found) = directory.metadata() else { break };
        let mode = found.permissions().mode();
        if mode & 0o001 != 0 {
            break;
        }
        let _ = std::fs::set_permissions(directory, PermissionsExt::from_mode(mode | 0o011));
    }
}
