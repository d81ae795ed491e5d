//! Putting the configuration into a data directory.
//!
//! `cellar.conf` lives inside the data directory, because PostgreSQL resolves the include from
//! there wherever a copy ends up. A copy brings its source's port and paths along, so the files
//! are derived: they are written again before every start.

use std::path::Path;

use crate::auto_conf::{self, restore_auto_conf};
use crate::config_file::{read, replace_file};
use crate::error::PostgresError;
use crate::hba::{render_hba, render_ident};
use crate::settings::Settings;

/// The line that takes `cellar.conf` in. `if_exists`, so that a directory taken elsewhere starts without it.
const INCLUDE: &str = "include_if_exists = 'cellar.conf'";

/// Settings of which `postgresql.auto.conf` must hold no other value: pgBackRest's restore
/// writes some of them there (2.45), and PostgreSQL reads that file last. Tuning stays the operator's.
const OURS_ALONE: [&str; 13] = [
    "port",
    "listen_addresses",
    "unix_socket_directories",
    "cluster_name",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "archive_command",
    "restore_command",
    "primary_conninfo",
    "archive_mode",
    "recovery_target_timeline",
];

/// Everything that is written into a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceConfig {
    /// `cellar.conf`.
    pub settings: Settings,
    /// The OS user that runs PostgreSQL.
    pub os_user: String,
    /// Where standbys may connect from; see [`render_hba`].
    pub replication_from: Vec<String>,
}

/// `postgresql.conf` with the include; `None` when it has it. The file may be in any encoding.
fn with_include(postgresql_conf: &[u8]) -> Option<Vec<u8>> {
    if postgresql_conf.split(|b| *b == b'\n').any(|line| line.trim_ascii() == INCLUDE.as_bytes()) {
        return None;
    }
    let gap: &[u8] = if postgresql_conf.is_empty() || postgresql_conf.ends_with(b"\n") { b"" } else { b"\n" };
    Some([postgresql_conf, gap, INCLUDE.as_bytes(), b"\n"].concat())
}

/// Writes `cellar.conf`, its include, `pg_hba.conf` and `pg_ident.conf`; returns whether anything changed,
/// in which case a running server needs a reload. Each file is replaced atomically.
///
/// What a private instance has set aside here and not put back, because its caller was killed, is put back first.
///
/// # Errors
/// When a value cannot be written or the disk refuses.
pub fn configure(data_directory: &Path, config: &InstanceConfig) -> Result<bool, PostgresError> {
    let from: Vec<&str> = config.replication_from.iter().map(String::as_str).collect();
    let files = [
        ("cellar.conf", config.settings.render()?),
        ("pg_hba.conf", render_hba(&from)?),
        ("pg_ident.conf", render_ident(&config.os_user)?),
    ];
    restore_auto_conf(data_directory)?;
    let mut changed = false;
    for (name, content) in files {
        changed |= replace_file(&data_directory.join(name), &content)?;
    }
    let main = data_directory.join("postgresql.conf");
    if let Some(content) = with_include(&read(&main)?) {
        changed |= replace_file(&main, &content)?;
    }
    let set = config.settings.names()?;
    let ours: Vec<&str> = OURS_ALONE.into_iter().filter(|name| set.contains(name)).collect();
    let auto = auto_conf::path(data_directory);
    if let Some(content) = auto_conf::without(&read(&auto)?, &ours) {
        changed |= replace_file(&auto, &content)?;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn config() -> InstanceConfig {
        InstanceConfig {
            settings: Settings { primary_conninfo: Some("host=b".into()), ..Settings::default() },
            os_user: "postgres".into(),
            replication_from: vec!["samehost".into()],
        }
    }

    #[test]
    fn the_second_time_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let conf = directory.path().join("postgresql.conf");
        fs::write(&conf, "work_mem = 4MB").unwrap();
        assert!(configure(directory.path(), &config()).unwrap());
        assert!(!configure(directory.path(), &config()).unwrap());
        assert_eq!(fs::read_to_string(conf).unwrap(), format!("work_mem = 4MB\n{INCLUDE}\n"));
        let mut names: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["cellar.conf", "pg_hba.conf", "pg_ident.conf", "postgresql.conf"]);
    }

    #[test]
    fn a_file_that_is_not_utf_8_is_kept_byte_for_byte() {
        let directory = tempfile::tempdir().unwrap();
        let (main, auto) =
            (directory.path().join("postgresql.conf"), directory.path().join("postgresql.auto.conf"));
        fs::write(&main, b"# f\xfcr alle\n").unwrap();
        fs::write(&auto, b"search_path = '\xfc'\nport = 1\n").unwrap();
        configure(directory.path(), &config()).unwrap();
        let expected = [b"# f\xfcr alle\n", INCLUDE.as_bytes(), b"\n"].concat();
        assert_eq!(fs::read(main).unwrap(), expected);
        assert_eq!(fs::read(auto).unwrap(), b"search_path = '\xfc'\n");
    }

    #[test]
    fn auto_conf_loses_what_is_ours_and_keeps_the_rest() {
        let auto = "# note\nprimary_conninfo = 'host=a'\n Port=1\nrestore_command = 'x'\nwork_mem='1MB'\n#port = 2\n";
        let kept = "# note\nrestore_command = 'x'\nwork_mem='1MB'\n#port = 2\n";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postgresql.auto.conf");
        fs::write(&path, auto).unwrap();
        configure(directory.path(), &config()).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), kept);
    }
}
