//! Runs pgBackRest.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cellar_model::{BackupLabel, StanzaName};
use cellar_system::FileAccess;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::error::Error;
use crate::exit_code::ExitClass;
use crate::info::{StanzaInfo, StanzaStatus, parse_info};
use crate::invocation::Invocation;
use crate::process::{Running, find, tail};
use crate::repo_file::{BackupRecord, ManifestCount, count_manifest, parse_backup_record};
use crate::repo_list::{RepoEntry, parse_listing};
use crate::session_options::options_for_data;
use crate::tool_error::{Failure, garbled, printable};
use crate::versions::Version;

/// Time for `version`, which touches nothing but the program itself.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// What a command printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit code; none when a signal ended it.
    pub code: Option<u8>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Both streams as text, standard error first, since an answer may be large.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stderr), String::from_utf8_lossy(&self.stdout))
    }
}

/// The program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pgbackrest {
    /// Its path, or its name to be found on PATH.
    pub binary: PathBuf,
    /// The data directory of the instance that it works for, whose version of PostgreSQL decides on the settings of its
    /// sessions there.
    pub data_directory: Option<PathBuf>,
}

impl Default for Pgbackrest {
    fn default() -> Self {
        Self { binary: PathBuf::from("pgbackrest"), data_directory: None }
    }
}

/// Opens a log to append to. Only this user may read it, whatever the umask, and a link is not followed.
fn open_log(path: &Path) -> std::io::Result<std::fs::File> {
    let flags = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path)
}

/// One for each stream of a command.
fn open_log_twice(path: &Path) -> Result<(std::fs::File, std::fs::File), Error> {
    let opened = |source| Error::io(format!("open the log {}", path.display()), source);
    let log = open_log(path).map_err(opened)?;
    let copy = log.try_clone().map_err(opened)?;
    Ok((log, copy))
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        stream.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

impl Pgbackrest {
    /// `PGOPTIONS` of its processes: settings of the sessions that they open in PostgreSQL.
    #[must_use]
    pub fn session_options(&self) -> String {
        options_for_data(self.data_directory.as_deref())
    }

    fn find(&self) -> Result<PathBuf, Error> {
        find(&self.binary, "pgbackrest")
    }

    /// Runs a command to its end and keeps what it prints. At the deadline, and when the future is dropped, the
    /// command and its workers are killed.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time. A failing command is no error here.
    pub async fn run_captured(&self, invocation: &Invocation, deadline: Duration) -> Result<Output, Error> {
        let program = self.find()?;
        let argv = invocation.argv();
        let options = self.session_options();
        let mut running =
            Running::spawn(&program, &argv, &options, Stdio::piped(), Stdio::piped(), None, None).await?;
        let (stdout, stderr) = running.streams();
        let all = async {
            // `wait` kills stragglers, so the streams end even when a worker holds them.
            let (code, stdout, stderr) = tokio::join!(running.wait(), read_all(stdout), read_all(stderr));
            let read = |bytes: std::io::Result<Vec<u8>>| {
                bytes.map_err(|source| Error::io("read what pgbackrest prints", source))
            };
            Ok(Output { code: code?, stdout: read(stdout)?, stderr: read(stderr)? })
        };
        match timeout(deadline, all).await {
            Ok(output) => output,
            Err(_) => Err(Error::Timeout { command: invocation.command().to_owned(), after: deadline }),
        }
    }

    /// As [`Pgbackrest::run_captured`], and a failing command is an error.
    ///
    /// # Errors
    /// [`Error::Failed`] with the class, hint and messages, besides those of [`Pgbackrest::run_captured`].
    pub async fn run_checked(&self, invocation: &Invocation, deadline: Duration) -> Result<Output, Error> {
        let output = self.run_captured(invocation, deadline).await?;
        if output.code == Some(0) {
            return Ok(output);
        }
        let text = output.text();
        Err(Error::Failed {
            command: invocation.command().to_owned(),
            failure: Failure::of_output(output.code, &text),
            output: tail(&text).to_owned(),
        })
    }

    /// Starts a command whose output goes straight to a file, so that the log outlives this process.
    ///
    /// With a `nice` of 1 to 19 the command gets less of the processor's time than others; 0 is the usual priority.
    /// With `until`, an uptime of the host, it is killed then, also when this process stands still; see
    /// [`Running::extend`].
    ///
    /// # Errors
    /// When the file cannot be opened or the command not be started.
    pub async fn spawn_logged(
        &self,
        invocation: &Invocation,
        log_file: &Path,
        nice: u32,
        until: Option<Duration>,
    ) -> Result<Running, Error> {
        let program = self.find()?;
        let (log, copy) = open_log_twice(log_file)?;
        let options = self.session_options();
        if nice == 0 {
            let argv = invocation.argv();
            return Running::spawn(&program, &argv, &options, log.into(), copy.into(), until, None).await;
        }
        let mut argv = vec!["-n".to_owned(), nice.min(19).to_string(), program.display().to_string()];
        argv.extend(invocation.argv());
        let nice = find(Path::new("nice"), "coreutils")?;
        Running::spawn(&nice, &argv, &options, log.into(), copy.into(), until, None).await
    }

    /// As [`Pgbackrest::spawn_logged`], and the command and its workers may use no files but these, if the kernel can do
    /// that: see [`Running::is_confined`].
    ///
    /// # Errors
    /// As [`Pgbackrest::spawn_logged`], and when the kernel can do it and refuses.
    pub async fn spawn_confined(
        &self,
        invocation: &Invocation,
        log_file: &Path,
        access: FileAccess,
    ) -> Result<Running, Error> {
        let program = self.find()?;
        let (log, copy) = open_log_twice(log_file)?;
        let (argv, options) = (invocation.argv(), self.session_options());
        Running::spawn(&program, &argv, &options, log.into(), copy.into(), None, Some(access)).await
    }

    /// The version. Asked of the program each time, since it may be upgraded at any time.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`], and when the answer is no version.
    pub async fn version(&self) -> Result<Version, Error> {
        let output = self.run_checked(&Invocation::new("version"), VERSION_TIMEOUT).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        Ok(text.trim().trim_start_matches("pgBackRest ").parse()?)
    }

    /// What the repository has of the stanza. A stanza or backup that is missing is an answer, not an error.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`], and when the answer cannot be read, or pgBackRest cannot read the repository.
    pub async fn info(
        &self,
        config: &Path,
        stanza: &StanzaName,
        deadline: Duration,
    ) -> Result<StanzaInfo, Error> {
        let info = self.read_info(Invocation::on("info", config, stanza), stanza, deadline).await?;
        match info.status {
            StanzaStatus::Other(_) => Err(Error::RepoUnreadable(first_line(&info.message))),
            _ => Ok(info),
        }
    }

    /// Why pgBackRest cannot load the manifest of a backup, without which the backup cannot be restored, verified or
    /// built on; none when it can.
    ///
    /// # Errors
    /// When that could not be found out.
    pub async fn unloadable(
        &self,
        config: &Path,
        stanza: &StanzaName,
        label: &BackupLabel,
        deadline: Duration,
    ) -> Result<Option<String>, Error> {
        let invocation = Invocation::on("info", config, stanza).option("set", label.as_str());
        let info = self.read_info(invocation, stanza, deadline).await?;
        match info.status {
            StanzaStatus::BackupMissing => Ok(Some("its manifest is not in the repository".to_owned())),
            // What it says of a store that is out of reach is no verdict on the manifest.
            StanzaStatus::Other(_) if is_malformed(&info.message) => Ok(Some(first_line(&info.message))),
            // The caller has read the stanza before: the repository has gone away since.
            StanzaStatus::Other(_) | StanzaStatus::MissingStanzaPath | StanzaStatus::MissingStanzaData => {
                Err(Error::RepoUnreadable(first_line(&info.message)))
            }
            _ if info.backup(label).is_none() => Ok(Some("the repository does not list it".to_owned())),
            _ => Ok(None),
        }
    }

    async fn read_info(
        &self,
        invocation: Invocation,
        stanza: &StanzaName,
        deadline: Duration,
    ) -> Result<StanzaInfo, Error> {
        let invocation = quiet(invocation).option("output", "json");
        let output = self.run_checked(&invocation, deadline).await?;
        // Exit code 0 and no backups; taken for an answer it would mean that there never were any. Looked for in
        // the text, because the rubbish that is quoted is often no JSON.
        if let Some(message) = garbled(&String::from_utf8_lossy(&output.stdout)) {
            return Err(Error::Garbled { stanza: stanza.to_string(), message });
        }
        let found = parse_info(&output.stdout)?.into_iter().find(|info| info.name == stanza.as_str());
        found.ok_or_else(|| Error::NotInRepository(format!("stanza {stanza}")))
    }

    /// Reads a file of the repository as text; `path` is relative to the repository.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`]; [`Error::NotInRepository`] when the file is not there.
    pub async fn repo_get(
        &self,
        config: &Path,
        stanza: &StanzaName,
        path: &str,
        deadline: Duration,
    ) -> Result<String, Error> {
        let invocation = quiet(Invocation::on("repo-get", config, stanza)).argument(path);
        let output = self.run_captured(&invocation, deadline).await?;
        if output.code == Some(0) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        // Half a file of an encrypted repository may hold the passphrase of other files: an error quotes none of it.
        let text = String::from_utf8_lossy(&output.stderr);
        let failure = Failure::of_output(output.code, &text);
        if failure.class == ExitClass::NotFound {
            return Err(Error::NotInRepository(path.to_owned()));
        }
        Err(Error::Failed { command: "repo-get".to_owned(), failure, output: tail(&text).to_owned() })
    }

    /// What `backup.info` records of a backup, `option-backup-standby` among it.
    ///
    /// # Errors
    /// As [`Pgbackrest::repo_get`]; [`Error::NotInRepository`] when there is no such backup.
    pub async fn backup_record(
        &self,
        config: &Path,
        stanza: &StanzaName,
        label: &BackupLabel,
        deadline: Duration,
    ) -> Result<BackupRecord, Error> {
        let file = self.repo_get(config, stanza, &format!("backup/{stanza}/backup.info"), deadline).await?;
        parse_backup_record(&file, label).ok_or_else(|| Error::NotInRepository(format!("backup {label}")))
    }

    /// How many files a backup holds itself, from its manifest.
    ///
    /// # Errors
    /// As [`Pgbackrest::repo_get`].
    pub async fn manifest_count(
        &self,
        config: &Path,
        stanza: &StanzaName,
        label: &BackupLabel,
        deadline: Duration,
    ) -> Result<ManifestCount, Error> {
        let path = format!("backup/{stanza}/{label}/backup.manifest");
        let manifest = self.repo_get(config, stanza, &path, deadline).await?;
        // That of millions of files has gigabytes, and the caller's thread has other work.
        let counted = tokio::task::spawn_blocking(move || count_manifest(&manifest)).await;
        counted.map_err(|error| Error::io("count a manifest", std::io::Error::other(error)))
    }

    /// What lies below a path of the repository, with paths relative to it. Nothing when it is not there.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`], and when the answer cannot be read.
    pub async fn repo_list(
        &self,
        config: &Path,
        stanza: &StanzaName,
        path: &str,
        deadline: Duration,
    ) -> Result<Vec<RepoEntry>, Error> {
        let invocation = quiet(Invocation::on("repo-ls", config, stanza))
            .option("output", "json")
            .flag("recurse")
            .argument(path);
        parse_listing(&self.run_checked(&invocation, deadline).await?.stdout)
    }

    /// Fetches a WAL file from the archive; false when it is not there. `data_directory` stands in for the one in
    /// the config; its `global/pg_control` is read.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`].
    pub async fn archive_get(
        &self,
        config: &Path,
        stanza: &StanzaName,
        data_directory: &Path,
        name: &str,
        to: &Path,
        deadline: Duration,
    ) -> Result<bool, Error> {
        let invocation = Invocation::on("archive-get", config, stanza)
            .option("pg1-path", &data_directory.display().to_string())
            .flag("no-archive-async")
            .argument(name)
            .argument(&to.display().to_string());
        let output = self.run_captured(&quiet(invocation), deadline).await?;
        match output.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            code => {
                let text = output.text();
                Err(Error::Failed {
                    command: "archive-get".to_owned(),
                    failure: Failure::of_output(code, &text),
                    output: tail(&text).to_owned(),
                })
            }
        }
    }

    /// Puts a WAL file into the archive, or finds it there already with the same content.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`].
    pub async fn archive_push(
        &self,
        config: &Path,
        stanza: &StanzaName,
        file: &Path,
        deadline: Duration,
    ) -> Result<(), Error> {
        let invocation = Invocation::on("archive-push", config, stanza).argument(&file.display().to_string());
        self.run_checked(&invocation, deadline).await.map(drop)
    }

    /// Creates the stanza, or finds that it is there already.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`].
    pub async fn stanza_create(
        &self,
        config: &Path,
        stanza: &StanzaName,
        deadline: Duration,
    ) -> Result<(), Error> {
        self.run_checked(&Invocation::on("stanza-create", config, stanza), deadline).await.map(drop)
    }

    /// Switches WAL and waits until it is in the archive.
    ///
    /// # Errors
    /// As [`Pgbackrest::run_checked`].
    pub async fn check(&self, config: &Path, stanza: &StanzaName, deadline: Duration) -> Result<(), Error> {
        self.run_checked(&Invocation::on("check", config, stanza), deadline).await.map(drop)
    }
}

/// Whether `info` says that a file was read and makes no sense.
fn is_malformed(message: &str) -> bool {
    ["FormatError", "JsonFormatError", "FileInvalidError", "ChecksumError"]
        .iter()
        .any(|kind| message.contains(kind))
}

fn first_line(message: &str) -> String {
    printable(message.lines().next().unwrap_or_default())
}

/// The generated file logs to standard output, where an answer would be mixed with it.
fn quiet(invocation: Invocation) -> Invocation {
    invocation.option("log-level-console", "off").option("log-level-stderr", "warn")
}
