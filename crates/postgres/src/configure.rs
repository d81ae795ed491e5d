//! Putting the configuration into a data directory.
//!
//! `cellar.conf` lives inside the data directory, because PostgreSQL resolves the include from
//! there wherever a copy ends up. A copy brings its source's port and paths along, so the files
//! are derived: they are written again before every start.

use std::path::Path;

use crate::auto_conf::{self, lines, name_of, restore_auto_conf};
use crate::config_file::{read, replace_file};
use crate::error::PostgresError;
use crate::failover_slots::FAILOVER_SLOTS_SINCE;
use crate::hba::{REPLICATION_ALONE, WITH_SYNC_DATABASE, render_hba, render_ident};
use crate::settings::Settings;

/// The line that takes `cellar.conf` in, behind everything that sets something: the last line that sets it is what a
/// setting is, and one below would let a primary that was replaced archive, or hide the instance from us. `if_exists`, so that a directory taken elsewhere starts without it.
pub(crate) const INCLUDE: &str = "include_if_exists = 'cellar.conf'";

/// Settings of which `postgresql.auto.conf` must hold no other value: pgBackRest's restore
/// writes some of them there (2.45), and PostgreSQL reads that file last. Tuning stays the operator's.
pub(crate) const OURS_ALONE: [&str; 15] = [
    "port",
    "listen_addresses",
    "unix_socket_directories",
    "unix_socket_permissions",
    "cluster_name",
    // A standby that takes no connections cannot be seen.
    "hot_standby",
    "archive_command",
    "archive_library",
    "restore_command",
    "primary_conninfo",
    "archive_mode",
    "recovery_target_timeline",
    "recovery_min_apply_delay",
    "max_standby_streaming_delay",
    "max_standby_archive_delay",
];

/// Settings that keep out who has no certificate, and let in who has one: `postgresql.auto.conf` must never hold another
/// value of them. Without TLS no standby streams and no application connects; older protocols are not offered.
pub(crate) const OURS_ALWAYS: [&str; 8] = [
    "ssl",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
    "ssl_crl_file",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "password_encryption",
];

/// With quorum commit these, too: with another value commits are acknowledged that a failover may lose.
pub(crate) const OURS_WITH_QUORUM: [&str; 4] = [
    "synchronous_standby_names",
    "synchronous_commit",
    "wal_receiver_timeout",
    // Subscribers would get what a failover may lose, too.
    "synchronized_standby_slots",
];

/// The first major version of PostgreSQL that has `archive_library`, which is used in place of `archive_command`, or
/// stops archiving when both are set.
const ARCHIVE_LIBRARY_SINCE: u32 = 15;

/// Everything that is written into a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceConfig {
    /// `cellar.conf`.
    pub settings: Settings,
    /// The OS user that runs PostgreSQL.
    pub os_user: String,
    /// Where standbys may connect from; see [`render_hba`].
    pub replication_from: Vec<String>,
    /// The common name of their certificates.
    pub replication_name: String,
}

impl InstanceConfig {
    /// Whether another one differs from this one in nothing but whom subscribers of failover slots wait for, and which slot is
    /// streamed with. That is no reason to undo an `ALTER SYSTEM`: [`keep_ours`] is enough.
    #[must_use]
    pub fn differs_in_slots_only(&self, other: &Self) -> bool {
        let failover_slots = other.settings.failover_slots.clone();
        let settings = Settings { failover_slots, ..self.settings.clone() };
        Self { settings, ..self.clone() } == *other
    }
}

/// `postgresql.conf` with the include behind everything else; `None` when it is there. The file may be in any encoding.
fn with_include(postgresql_conf: &[u8]) -> Option<Vec<u8>> {
    let is_include = |line: &&[u8]| line.trim_ascii() == INCLUDE.as_bytes();
    let last = lines(postgresql_conf).filter(|line| !name_of(line).is_empty()).last();
    if last.as_ref().is_some_and(is_include) {
        return None;
    }
    let mut content: Vec<u8> =
        lines(postgresql_conf).filter(|line| !is_include(line)).flatten().copied().collect();
    if !content.is_empty() && !content.ends_with(b"\n") {
        content.push(b'\n');
    }
    content.extend_from_slice(INCLUDE.as_bytes());
    content.push(b'\n');
    Some(content)
}

/// The major version of a data directory; 0 when it has none.
fn version_of(data_directory: &Path) -> Result<u32, PostgresError> {
    let text = read(&data_directory.join("PG_VERSION"))?;
    Ok(String::from_utf8_lossy(&text).trim().parse().unwrap_or_default())
}

/// The content of `cellar.conf` for a version.
fn cellar_conf(version: u32, settings: &Settings) -> Result<String, PostgresError> {
    let mut content = settings.render()?;
    if version >= ARCHIVE_LIBRARY_SINCE {
        content.push_str("archive_library = ''\n");
    }
    if version >= FAILOVER_SLOTS_SINCE {
        content += &settings.failover_slots.lines(settings.given.contains_key("hot_standby_feedback"))?;
    }
    Ok(content)
}

/// Writes `cellar.conf`, its include, `pg_hba.conf` and `pg_ident.conf`; returns whether anything changed,
/// in which case a running server needs a reload. Each file is replaced atomically.
///
/// What a private instance has set aside here and not put back, because its caller was killed, is put back first.
///
/// # Errors
/// When a value cannot be written or the disk refuses.
pub fn configure(data_directory: &Path, config: &InstanceConfig) -> Result<bool, PostgresError> {
    restore_auto_conf(data_directory)?;
    let mut changed = !keep_ours(data_directory, config)?.is_empty();
    let set = config.settings.names()?;
    // No version without this setting has a line of it.
    let is_ours = |name: &&str| *name == "archive_library" || set.iter().any(|set| set == name);
    // What the database was given is the same in every member, so no member has a value of its own beside it.
    let given = config.settings.given.keys().map(String::as_str);
    let ours: Vec<&str> = OURS_ALONE.into_iter().filter(is_ours).chain(given).collect();
    changed |= strip_auto_conf(data_directory, &ours)?;
    Ok(changed)
}

/// Puts back what is Cellar's alone at any moment, of an instance that [`configure`] has configured: its own files, their
/// include, and who may connect. Returns the names of the files that somebody else had changed; a running server needs a
/// reload then. What `ALTER SYSTEM` has set of the rest is left until the configuration is written again.
///
/// # Errors
/// As [`configure`].
pub fn keep_ours(data_directory: &Path, config: &InstanceConfig) -> Result<Vec<&'static str>, PostgresError> {
    let from: Vec<&str> = config.replication_from.iter().map(String::as_str).collect();
    let version = version_of(data_directory)?;
    let databases = match version {
        FAILOVER_SLOTS_SINCE.. => WITH_SYNC_DATABASE,
        _ => REPLICATION_ALONE,
    };
    let files = [
        ("cellar.conf", cellar_conf(version, &config.settings)?),
        ("pg_hba.conf", render_hba(&from, databases, &config.replication_name, Some(&config.os_user))?),
        ("pg_ident.conf", render_ident(&config.os_user, &config.replication_name)?),
    ];
    let mut changed = Vec::new();
    for (name, content) in files {
        if replace_file(&data_directory.join(name), &content)? {
            changed.push(name);
        }
    }
    let main = data_directory.join("postgresql.conf");
    if let Some(content) = with_include(&read(&main)?)
        && replace_file(&main, &content)?
    {
        changed.push("postgresql.conf");
    }
    let quorum = config.settings.synchronous_standby_names.as_ref().map_or(&[][..], |_| &OURS_WITH_QUORUM);
    if strip_auto_conf(data_directory, &[&OURS_ALWAYS, quorum].concat())? {
        changed.push("postgresql.auto.conf");
    }
    Ok(changed)
}

/// Takes the lines that set one of `names` out of `postgresql.auto.conf`; whether there were any.
fn strip_auto_conf(data_directory: &Path, names: &[&str]) -> Result<bool, PostgresError> {
    let auto = auto_conf::path(data_directory);
    match auto_conf::without(&read(&auto)?, names) {
        Some(content) => replace_file(&auto, &content),
        None => Ok(false),
    }
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
            replication_name: "cellar_replication".into(),
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
    fn include_is_behind_everything_that_sets_something() {
        let with = |text: &str| with_include(text.as_bytes()).map(|text| String::from_utf8(text).unwrap());
        let last = format!("port = 1\n{INCLUDE}\n");
        assert_eq!(with(&format!("port = 1\n{INCLUDE}\n\n  # note\n")), None);
        for below in ["port = 1\n", "port = 1"] {
            assert_eq!(with(&format!("{INCLUDE}\n{below}")), Some(last.clone()));
        }
        let twice = format!("{INCLUDE}\na = 1\n {INCLUDE}\ninclude_dir 'x'\n");
        assert_eq!(with(&twice), Some(format!("a = 1\ninclude_dir 'x'\n{INCLUDE}\n")));
        assert_eq!(with(""), Some(format!("{INCLUDE}\n")));
    }

    #[test]
    fn no_library_archives_in_place_of_our_command() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        for (version, known) in [("14\n", false), ("15\n", true), ("18\n", true)] {
            fs::write(file("PG_VERSION"), version).unwrap();
            fs::write(file("postgresql.auto.conf"), "archive_library = 'basic_archive'\n").unwrap();
            configure(directory.path(), &config()).unwrap();
            let text = fs::read_to_string(file("cellar.conf")).unwrap();
            assert_eq!(text.contains("\narchive_library = ''\n"), known, "{version}");
            let syncs = version == "18\n";
            assert_eq!(text.contains("\nsync_replication_slots = 'off'\n"), syncs, "{version}");
            let hba = fs::read_to_string(file("pg_hba.conf")).unwrap();
            assert_eq!(hba.contains("hostssl  replication,postgres  "), syncs, "{hba}");
            assert_eq!(fs::read_to_string(file("postgresql.auto.conf")).unwrap(), "");
        }
    }

    #[test]
    fn auto_conf_loses_what_the_database_was_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postgresql.auto.conf");
        fs::write(&path, "Work_Mem = '1MB'\nmax_connections = 7\njit = off\n").unwrap();
        let mut config = config();
        config.settings.given.insert("work_mem".into(), "2MB".into());
        config.settings.held_back.insert("max_connections", 9);
        configure(directory.path(), &config).unwrap();
        // What is only held back for a while does not cost a member its own value.
        assert_eq!(fs::read_to_string(path).unwrap(), "max_connections = 7\njit = off\n");
    }

    #[test]
    fn a_change_of_slots_alone_is_told_from_others() {
        let one = config();
        assert!(one.differs_in_slots_only(&one));
        let mut other = one.clone();
        other.settings.failover_slots.awaited = "cellar_zone2".to_owned();
        assert!(one != other && one.differs_in_slots_only(&other));
        other.settings.archive_command = "false".to_owned();
        assert!(!one.differs_in_slots_only(&other));
    }

    #[test]
    fn what_somebody_else_changed_of_ours_is_named_and_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let config = config();
        configure(directory.path(), &config).unwrap();
        assert_eq!(keep_ours(directory.path(), &config).unwrap(), [""; 0]);
        let hba = fs::read_to_string(file("pg_hba.conf")).unwrap();
        fs::write(file("pg_hba.conf"), "host all all all trust\n").unwrap();
        fs::remove_file(file("pg_ident.conf")).unwrap();
        fs::write(file("postgresql.conf"), "port = 1\n").unwrap();
        let auto = "SSL = off\nssl_min_protocol_version = 'TLSv1'\nprimary_conninfo = ''\n";
        fs::write(file("postgresql.auto.conf"), auto).unwrap();
        let changed = ["pg_hba.conf", "pg_ident.conf", "postgresql.conf", "postgresql.auto.conf"];
        assert_eq!(keep_ours(directory.path(), &config).unwrap(), changed);
        assert_eq!(fs::read_to_string(file("pg_hba.conf")).unwrap(), hba);
        let auto = || fs::read_to_string(file("postgresql.auto.conf")).unwrap();
        assert_eq!(auto(), "primary_conninfo = ''\n", "the rest is left until the next configuration");
        assert!(configure(directory.path(), &config).unwrap());
        assert_eq!(auto(), "");
        // Who acknowledges is the operator's own setting without quorum commit only.
        let names = "synchronous_standby_names = ''\n";
        fs::write(file("postgresql.auto.conf"), names).unwrap();
        assert!(!configure(directory.path(), &config).unwrap());
        assert_eq!(auto(), names);
        let settings = Settings { synchronous_standby_names: Some("*".into()), ..config.settings };
        let quorum = InstanceConfig { settings, ..config };
        assert!(keep_ours(directory.path(), &quorum).unwrap().contains(&"postgresql.auto.conf"));
        assert_eq!(auto(), "");
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
