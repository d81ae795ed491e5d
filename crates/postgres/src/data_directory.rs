//! What is in a data directory, found out without starting or changing anything.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::command::run;
use crate::control_data::ControlData;
use crate::error::PostgresError;
use crate::tools::Tools;

/// How long `pg_controldata` may take; it reads one small file.
const CONTROLDATA_TIMEOUT: Duration = Duration::from_secs(15);

/// The size of `pg_control`: `PG_CONTROL_FILE_SIZE` of PostgreSQL's `src/include/catalog/pg_control.h`.
const CONTROL_FILE_BYTES: u64 = 8192;

/// How often `pg_control` is looked at before its checksum is believed to be wrong: a server that runs writes it now and
/// then, and the reader sees a part of what it writes.
const CONTROL_FILE_LOOKS: u32 = 5;

/// How long between two such looks.
const CONTROL_FILE_PAUSE: Duration = Duration::from_millis(100);

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDirectory {
    /// There is no such directory.
    Missing,
    /// It is there, and nothing is in it.
    Empty,
    /// A whole data directory.
    Valid {
        /// PostgreSQL's major version, from `PG_VERSION`.
        version: u32,
        /// From `pg_control`.
        control: ControlData,
        /// Whether `standby.signal` or `recovery.signal` is there: it will start in recovery.
        recovers: bool,
    },
    /// The beginnings of a data directory, such as an interrupted restore leaves. It cannot be started.
    Partial {
        /// What is missing or broken.
        reason: String,
    },
    /// A data directory of a major version whose programs are not installed. Not ours to touch.
    OtherVersion {
        /// Which version, and what to do.
        reason: String,
    },
    /// Something else: files that are not PostgreSQL's. Not ours to touch.
    Foreign {
        /// What it is.
        reason: String,
    },
}

/// Whether a file or directory is there. An error is not an absence: an unreadable data
/// directory must never look like an empty one.
fn exists(path: &Path) -> Result<bool, PostgresError> {
    path.try_exists().map_err(PostgresError::io("look at", path))
}

/// Finds out what is in a data directory. Never changes anything.
///
/// # Errors
/// When it cannot be looked at; that says nothing about what is in it.
pub async fn inspect(tools: &Tools, path: &Path) -> Result<DataDirectory, PostgresError> {
    let mut entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // A dangling link is not an empty directory.
            return Ok(match fs::symlink_metadata(path) {
                Ok(_) => DataDirectory::Foreign { reason: "is a symbolic link to nothing".to_owned() },
                Err(_) => DataDirectory::Missing,
            });
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Ok(DataDirectory::Foreign { reason: "is not a directory".to_owned() });
        }
        Err(error) => return Err(PostgresError::io("read", path)(error)),
    };
    match entries.next() {
        None => return Ok(DataDirectory::Empty),
        Some(first) => first.map_err(PostgresError::io("read", path))?,
    };
    let partial = |reason: &str| Ok(DataDirectory::Partial { reason: reason.to_owned() });
    let version_file = path.join("PG_VERSION");
    if !exists(&version_file)? {
        // pgBackRest and initdb both make these early.
        for sign in ["global", "base", "pg_wal", "backup.manifest", "pgbackrest.manifest"] {
            if exists(&path.join(sign))? {
                return partial("has no PG_VERSION");
            }
        }
        return Ok(DataDirectory::Foreign { reason: "holds files that are not PostgreSQL's".to_owned() });
    }
    let text = fs::read(&version_file).map_err(PostgresError::io("read", &version_file))?;
    let Ok(version) = String::from_utf8_lossy(&text).trim().parse::<u32>() else {
        return partial("has a PG_VERSION that is not a number");
    };
    let control_file = path.join("global/pg_control");
    if !exists(&control_file)? {
        // pgBackRest puts it in place last, so this is what an interrupted restore looks like (2.45).
        return partial("has no global/pg_control");
    }
    // pg_controldata of another version prints nonsense instead of failing.
    let tools = tools.for_data(path);
    let ours = tools.version().await?;
    if ours.split(|c: char| !c.is_ascii_digit()).next() != Some(version.to_string().as_str()) {
        let (bindir, remedy) = (tools.bindir().display(), tools.remedy(version));
        let reason = format!("is of PostgreSQL {version}, the programs in {bindir} are {ours}: {remedy}");
        return Ok(DataDirectory::OtherVersion { reason });
    }
    // A file that is there in part is told by its size. Beyond that, a program that fails tells nothing of the data: it may
    // be replaced by an update in this moment.
    let size = fs::metadata(&control_file).map_err(PostgresError::io("look at", &control_file))?.len();
    if size != CONTROL_FILE_BYTES {
        return partial(&format!("has a global/pg_control of {size} bytes"));
    }
    let mut looks = 1;
    let output = loop {
        let mut command = tools.command("pg_controldata");
        command.arg("-D").arg(path);
        let output = run(command, CONTROLDATA_TIMEOUT).await?;
        // It warns, on either stream depending on the version, and exits 0.
        if !output.stdout.contains("WARNING") && !output.stderr.contains("warning") {
            break output;
        }
        if looks == CONTROL_FILE_LOOKS {
            return partial("has a damaged global/pg_control");
        }
        looks += 1;
        tokio::time::sleep(CONTROL_FILE_PAUSE).await;
    };
    Ok(match ControlData::parse(&output.stdout) {
        Ok(control) => {
            let recovers = exists(&path.join("standby.signal"))? || exists(&path.join("recovery.signal"))?;
            DataDirectory::Valid { version, control, recovers }
        }
        Err(line) => DataDirectory::Partial { reason: format!("has a pg_control without a usable {line:?}") },
    })
}

/// Whether PostgreSQL, run by user `uid`, would accept the directory's owner and mode.
///
/// # Errors
/// [`PostgresError::DataDirectory`] with what to do.
pub fn check_permissions(path: &Path, uid: u32) -> Result<(), PostgresError> {
    let found = fs::metadata(path).map_err(PostgresError::io("look at", path))?;
    let fail = |reason| Err(PostgresError::DataDirectory { path: path.to_path_buf(), reason });
    if found.uid() != uid {
        return fail(format!("belongs to user id {}, and PostgreSQL runs as {uid}: chown it", found.uid()));
    }
    match found.mode() & 0o7777 {
        0o700 => Ok(()),
        mode => fail(format!("has mode {mode:04o}, and others must not read it: chmod it to 0700")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A data directory that looks whole, and programs of which `pg_controldata` does what it is told.
    struct Scene {
        place: tempfile::TempDir,
        tools: Tools,
    }

    impl Scene {
        fn new(pg_controldata: &str) -> Self {
            let place = tempfile::tempdir().unwrap();
            let (bin, data) = (place.path().join("bin"), place.path().join("data"));
            fs::create_dir_all(&bin).unwrap();
            fs::create_dir_all(data.join("global")).unwrap();
            fs::write(data.join("PG_VERSION"), "15\n").unwrap();
            fs::write(data.join("global/pg_control"), vec![0; 8192]).unwrap();
            for (name, body) in [
                ("initdb", ""),
                ("pg_ctl", ""),
                ("postgres", "echo 'postgres (PostgreSQL) 15.9'"),
                ("pg_controldata", pg_controldata),
            ] {
                let path = bin.join(name);
                fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let tools = Tools::find(Some(&bin)).unwrap();
            Self { place, tools }
        }

        async fn inspect(&self) -> Result<DataDirectory, PostgresError> {
            inspect(&self.tools, &self.place.path().join("data")).await
        }
    }

    /// A fence that took the data of a running primary for none would leave its WAL unarchived.
    #[tokio::test]
    async fn program_that_fails_says_nothing_of_the_data() {
        let scene = Scene::new("exit 127");
        let found = scene.inspect().await;
        assert!(matches!(found, Err(PostgresError::CommandFailed { .. })), "{found:?}");
        let control = scene.place.path().join("data/global/pg_control");
        fs::write(&control, "short").unwrap();
        assert!(matches!(scene.inspect().await, Ok(DataDirectory::Partial { .. })), "a part of the file");
        fs::remove_file(&control).unwrap();
        assert!(matches!(scene.inspect().await, Ok(DataDirectory::Partial { .. })), "no file");
    }

    #[tokio::test]
    async fn checksum_that_is_wrong_once_is_of_a_file_that_was_being_written() {
        let said = "echo 'Database system identifier: 7'; echo 'Database cluster state: in production'; \
            echo 'Latest checkpoint location: 0/6000028'; echo \"Latest checkpoint's REDO location: 0/6000028\"; \
            echo \"Latest checkpoint's TimeLineID: 1\"; echo 'Bytes per WAL segment: 16777216'; \
            echo 'Data page checksum version: 1'";
        let once = format!(
            "mark=$(dirname \"$0\")/looked; if [ ! -e $mark ]; then touch $mark; echo 'WARNING: Calculated CRC'; fi; {said}"
        );
        assert!(matches!(Scene::new(&once).inspect().await, Ok(DataDirectory::Valid { .. })));
        let always = Scene::new(&format!("echo 'WARNING: Calculated CRC'; {said}"));
        let found = always.inspect().await;
        assert!(
            matches!(&found, Ok(DataDirectory::Partial { reason }) if reason.contains("damaged")),
            "{found:?}"
        );
    }
}
