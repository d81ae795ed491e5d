//! The arguments of one pgBackRest command, as an array: no shell ever sees them.

use std::path::Path;

use cellar_model::{BackupLabel, BackupType, StanzaName};

use crate::versions::{Behaviour, Version};

/// One command with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    command: &'static str,
    options: Vec<String>,
    arguments: Vec<String>,
}

impl Invocation {
    /// The bare command.
    #[must_use]
    pub fn new(command: &'static str) -> Self {
        Self { command, options: Vec::new(), arguments: Vec::new() }
    }

    /// A command on a stanza with a configuration file, whose path must be absolute: pgBackRest resolves
    /// a relative one from `/`.
    #[must_use]
    pub fn on(command: &'static str, config: &Path, stanza: &StanzaName) -> Self {
        Self::new(command).option("config", &config.display().to_string()).option("stanza", stanza.as_str())
    }

    /// Adds `--name=value`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.push(format!("--{name}={value}"));
        self
    }

    /// Adds `--name`.
    #[must_use]
    pub fn flag(mut self, name: &str) -> Self {
        self.options.push(format!("--{name}"));
        self
    }

    /// Adds an argument behind the command. One that begins with a dash would be an option, and no name or path that
    /// pgBackRest knows does; it is passed as `./-…`, which is none of those either.
    #[must_use]
    pub fn argument(mut self, value: &str) -> Self {
        let dash = if value.starts_with('-') { "./" } else { "" };
        self.arguments.push(format!("{dash}{value}"));
        self
    }

    /// The command's name.
    #[must_use]
    pub fn command(&self) -> &'static str {
        self.command
    }

    /// Options, command, arguments: what follows the program's name.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        let command = std::iter::once(self.command.to_owned());
        self.options.iter().cloned().chain(command).chain(self.arguments.iter().cloned()).collect()
    }

    /// A backup. Annotations are `key=value` notes in the repository.
    #[must_use]
    pub fn backup(
        config: &Path,
        stanza: &StanzaName,
        backup_type: BackupType,
        annotations: &[(String, String)],
    ) -> Self {
        annotations.iter().fold(
            Self::on("backup", config, stanza).option("type", backup_type.as_str()),
            |invocation, (key, value)| invocation.option("annotation", &format!("{key}={value}")),
        )
    }

    /// An expiry: of one backup and what builds on it, else of all but the newest `keep_full` full backups and what
    /// builds on them.
    #[must_use]
    pub fn expire(
        config: &Path,
        stanza: &StanzaName,
        set: Option<&BackupLabel>,
        keep_full: Option<u32>,
        dry_run: bool,
    ) -> Self {
        let mut invocation = Self::on("expire", config, stanza).option("log-level-console", "info");
        if let Some(set) = set {
            invocation = invocation.option("set", set.as_str());
        }
        if let Some(full) = keep_full {
            invocation = invocation.option("repo1-retention-full", &full.to_string());
        }
        if dry_run {
            invocation = invocation.flag("dry-run");
        }
        invocation
    }

    /// Reads the whole repository.
    #[must_use]
    pub fn verify(config: &Path, stanza: &StanzaName) -> Self {
        let invocation = Self::on("verify", config, stanza).option("log-level-console", "info");
        invocation.option("output", "text").flag("verbose")
    }

    /// Lets a restore or an expiry go on at a backup with page errors, as all versions did before it was an option. Cellar
    /// itself decides whether such a backup may be used.
    #[must_use]
    pub fn allow_page_errors(self, version: Version) -> Self {
        if version.has(Behaviour::PageErrorsEndRestoreAndExpire) {
            self.flag("no-checksum-page-error")
        } else {
            self
        }
    }

    /// A note on a backup, which takes the stanza's lock.
    #[must_use]
    pub fn annotate(config: &Path, stanza: &StanzaName, set: &BackupLabel, key: &str, value: &str) -> Self {
        let invocation = Self::on("annotate", config, stanza).option("set", set.as_str());
        invocation.option("annotation", &format!("{key}={value}"))
    }

    /// A restore to the end of the backup's own timeline.
    #[must_use]
    pub fn restore(config: &Path, stanza: &StanzaName, options: &RestoreOptions) -> Self {
        // Without it pgBackRest 2.55 and later refuse a backup of a timeline that was left behind. It changes only
        // what is checked: Cellar writes the recovery settings itself.
        let mut invocation = Self::on("restore", config, stanza).option("target-timeline", "current");
        if let Some(set) = &options.set {
            invocation = invocation.option("set", set.as_str());
        }
        if options.delta {
            invocation = invocation.flag("delta");
        }
        if options.standby {
            invocation = invocation.option("type", "standby");
        }
        if options.archive_mode_off {
            invocation = invocation.option("archive-mode", "off");
        }
        for (key, value) in &options.recovery_options {
            invocation = invocation.option("recovery-option", &format!("{key}={value}"));
        }
        if let Some(workers) = options.process_max {
            invocation = invocation.option("process-max", &workers.to_string());
        }
        if let Some(path) = &options.data_directory {
            invocation = invocation.option("pg1-path", path);
        }
        if let Some(path) = &options.tablespaces {
            invocation = invocation.option("tablespace-map-all", path);
        }
        if let Some(path) = &options.wal_directory {
            invocation = invocation.option("link-map", &format!("pg_wal={path}"));
        }
        if let Some(path) = &options.lock_directory {
            invocation = invocation.option("lock-path", path);
        }
        invocation
    }
}

/// What a restore does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestoreOptions {
    /// The backup; none for the latest.
    pub set: Option<BackupLabel>,
    /// Keep files that are the same already.
    pub delta: bool,
    /// Come up as a standby rather than recover to the end of the archive.
    pub standby: bool,
    /// Set `archive_mode=off`, for copies that must not archive.
    pub archive_mode_off: bool,
    /// Recovery settings, such as `primary_conninfo`.
    pub recovery_options: Vec<(String, String)>,
    /// Worker processes; none for the configured number.
    pub process_max: Option<u16>,
    /// Restore there instead of pg1-path. pgBackRest writes this into the `restore_command` too (measured
    /// with 2.45), so pass that as a recovery option when the directory is renamed afterwards.
    pub data_directory: Option<String>,
    /// Put every tablespace below this directory rather than where the original has it.
    pub tablespaces: Option<String>,
    /// Make `pg_wal` a link to this directory, whatever it is in the backup. Without it `pg_wal` becomes a directory
    /// in the data directory, also where a link was (measured with 2.45).
    pub wal_directory: Option<String>,
    /// Where to lock instead of lock-path.
    pub lock_directory: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_arguments() {
        let (config, stanza) = (Path::new("/c/x.conf"), "multigres".parse().unwrap());
        let note = ("job".to_owned(), "a b;c".to_owned());
        assert_eq!(
            Invocation::backup(config, &stanza, BackupType::Incr, &[note]).argv(),
            ["--config=/c/x.conf", "--stanza=multigres", "--type=incr", "--annotation=job=a b;c", "backup"]
        );
        let options = RestoreOptions {
            set: Some("20260301-101500F".parse().unwrap()),
            delta: true,
            standby: true,
            archive_mode_off: true,
            recovery_options: vec![("primary_conninfo".into(), "host=a port=1".into())],
            process_max: Some(2),
            data_directory: Some("/new".into()),
            tablespaces: Some("/spaces".into()),
            wal_directory: Some("/wal".into()),
            lock_directory: Some("/lock".into()),
        };
        assert_eq!(
            Invocation::restore(config, &stanza, &options).argv(),
            [
                "--config=/c/x.conf",
                "--stanza=multigres",
                "--target-timeline=current",
                "--set=20260301-101500F",
                "--delta",
                "--type=standby",
                "--archive-mode=off",
                "--recovery-option=primary_conninfo=host=a port=1",
                "--process-max=2",
                "--pg1-path=/new",
                "--tablespace-map-all=/spaces",
                "--link-map=pg_wal=/wal",
                "--lock-path=/lock",
                "restore"
            ]
        );
        assert_eq!(Invocation::new("repo-get").argument("x").argv(), ["repo-get", "x"]);
        let expire = |version: &str| {
            let expire = Invocation::expire(config, &stanza, None, Some(3), true);
            expire.allow_page_errors(version.parse().unwrap()).argv()[2..].join(" ")
        };
        let plain = "--log-level-console=info --repo1-retention-full=3 --dry-run";
        assert_eq!(expire("2.45"), format!("{plain} expire"));
        assert_eq!(expire("2.60.0"), format!("{plain} --no-checksum-page-error expire"));
    }
}
