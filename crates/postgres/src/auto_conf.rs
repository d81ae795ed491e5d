//! `postgresql.auto.conf`, which PostgreSQL reads last, whatever else it is told: so this file decides.
//!
//! A private instance must not have what `ALTER SYSTEM` has set, so the file is set aside while it runs. A copy of
//! another member must not have what concerns that member alone.
//!
//! The files are the operator's and may be in any encoding: they are read and written as bytes.

use std::path::{Path, PathBuf};

use cellar_system::rename;

use crate::config_file::{read, replace_file};
use crate::error::PostgresError;

/// The file's name.
const AUTO_CONF: &str = "postgresql.auto.conf";

/// Its name while a private instance runs in the data directory.
const SET_ASIDE: &str = "postgresql.auto.conf.member";

/// Settings that concern one member alone, and what each is when it is not set. A member that is made from another
/// one's files must not use that one's replication slot, replace its pid file or run its commands.
pub(crate) const MEMBERS_OWN: [(&str, &str); 11] = [
    ("primary_slot_name", ""),
    ("recovery_min_apply_delay", "0"),
    ("external_pid_file", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("recovery_target", ""),
    ("recovery_target_lsn", ""),
    ("recovery_target_name", ""),
    ("recovery_target_time", ""),
    ("recovery_target_xid", ""),
    // Only PostgreSQL 15 and older have it, so it is removed and never written.
    ("promote_trigger_file", ""),
];

/// The settings of [`MEMBERS_OWN`] that every supported version has.
fn resettable() -> impl Iterator<Item = (&'static str, &'static str)> {
    MEMBERS_OWN.into_iter().filter(|(name, _)| *name != "promote_trigger_file")
}

/// The name of the setting that a line of a configuration file sets; empty for a comment and an empty line.
pub(crate) fn name_of(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii_start();
    let end = line.iter().position(|b| b.is_ascii_whitespace() || matches!(b, b'=' | b'#' | b'\''));
    &line[..end.unwrap_or(line.len())]
}

fn sets(line: &[u8], names: &[&str]) -> bool {
    let name = name_of(line);
    names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The lines of a file, each with its end.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
}

/// A configuration file without the lines that set one of `names`; `None` when there are none.
pub(crate) fn without(text: &[u8], names: &[&str]) -> Option<Vec<u8>> {
    let kept: Vec<u8> = lines(text).filter(|line| !sets(line, names)).flatten().copied().collect();
    (kept != text).then_some(kept)
}

/// The file's path in a data directory, whether or not a private instance has set it aside.
pub(crate) fn path(data_directory: &Path) -> PathBuf {
    let aside = data_directory.join(SET_ASIDE);
    if aside.exists() { aside } else { data_directory.join(AUTO_CONF) }
}

/// Sets the file aside for a private instance, so that `ALTER SYSTEM` has no effect on it. May be repeated.
pub(crate) fn set_aside(data_directory: &Path) -> Result<(), PostgresError> {
    let (from, to) = (data_directory.join(AUTO_CONF), data_directory.join(SET_ASIDE));
    if !to.exists() && from.exists() {
        rename(&from, &to).map_err(PostgresError::io("set aside", &from))?;
    }
    // PostgreSQL writes one when it is told to alter the system; that concerned the private instance only.
    replace_file(&from, "").map(drop)
}

/// Puts back what `set_aside` has set aside, if it has. The private instance must not run any more.
///
/// # Errors
/// When the file cannot be renamed.
pub fn restore_auto_conf(data_directory: &Path) -> Result<(), PostgresError> {
    let (from, to) = (data_directory.join(SET_ASIDE), data_directory.join(AUTO_CONF));
    if from.exists() {
        rename(&from, &to).map_err(PostgresError::io("put back", &to))?;
    }
    Ok(())
}

/// The lines of `postgresql.auto.conf` that concern this member alone, to be given to its next data directory. Empty
/// when there is no such file, or it cannot be read.
#[must_use]
pub fn members_own_settings(data_directory: &Path) -> Vec<u8> {
    let text = read(&path(data_directory)).unwrap_or_default();
    let names = MEMBERS_OWN.map(|(name, _)| name);
    lines(&text).filter(|line| sets(line, &names)).flatten().copied().collect()
}

/// Takes from a data directory that was made from another member's files what concerned that member alone, and gives it
/// `own`, the lines of [`members_own_settings`] that this member had before.
///
/// # Errors
/// When a file cannot be read or written.
pub fn take_over_settings(data_directory: &Path, own: &[u8]) -> Result<(), PostgresError> {
    let file = path(data_directory);
    let text = read(&file)?;
    let names = MEMBERS_OWN.map(|(name, _)| name);
    let mut content = without(&text, &names).unwrap_or(text);
    // What the other member has in a file that is not ours to edit is overruled here. An included file may have any.
    let main = read(&data_directory.join("postgresql.conf"))?;
    let includes = lines(&main).any(|line| {
        name_of(line).starts_with(b"include") && !line.windows(11).any(|part| part == b"cellar.conf")
    });
    let set_elsewhere = |name: &str| includes || lines(&main).any(|line| sets(line, &[name]));
    let set_by_own = |name: &str| lines(own).any(|line| sets(line, &[name]));
    let mut add = |line: &[u8]| {
        if !content.is_empty() && !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        content.extend_from_slice(line);
    };
    for (name, unset) in resettable().filter(|(name, _)| set_elsewhere(name) && !set_by_own(name)) {
        add(format!("{name} = '{unset}'\n").as_bytes());
    }
    add(own);
    replace_file(&file, content).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn directory(main: &str, auto: &[u8]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("postgresql.conf"), main).unwrap();
        fs::write(directory.path().join(AUTO_CONF), auto).unwrap();
        directory
    }

    #[test]
    fn settings_are_set_aside_and_come_back_as_they_were() {
        let auto = b"work_mem = '1MB'\n# f\xfcr alle\n";
        let directory = directory("", auto);
        let file = directory.path().join(AUTO_CONF);
        set_aside(directory.path()).unwrap();
        fs::write(&file, "archive_mode = 'on'\n").unwrap();
        // A second start finds what the first has set aside.
        set_aside(directory.path()).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"");
        for _ in 0..2 {
            restore_auto_conf(directory.path()).unwrap();
            assert_eq!(fs::read(&file).unwrap(), auto);
        }
    }

    #[test]
    fn member_does_not_take_over_what_concerns_another_one_alone() {
        let auto = b"work_mem = '1MB'\nprimary_slot_name = 'zone1_slot'\nexternal_pid_file='/a'\n# \xfc";
        let other = directory("Primary_Slot_Name='x'\n#external_pid_file = 'x'\n", auto);
        let before = directory("", b"recovery_min_apply_delay = '1h'\nshared_buffers='1GB'\n");
        let own = members_own_settings(before.path());
        assert_eq!(own, b"recovery_min_apply_delay = '1h'\n");
        take_over_settings(other.path(), &own).unwrap();
        let expected = b"work_mem = '1MB'\n# \xfc\nprimary_slot_name = ''\nrecovery_min_apply_delay = '1h'\n";
        assert_eq!(fs::read(other.path().join(AUTO_CONF)).unwrap(), expected);
        take_over_settings(other.path(), &own).unwrap();
        assert_eq!(fs::read(other.path().join(AUTO_CONF)).unwrap(), expected, "it may be repeated");
    }

    #[test]
    fn an_included_file_is_overruled() {
        let other = directory("include_dir = 'conf.d'\ninclude_if_exists = 'cellar.conf'\n", b"");
        take_over_settings(other.path(), b"").unwrap();
        let text = fs::read_to_string(other.path().join(AUTO_CONF)).unwrap();
        assert_eq!(text.lines().count(), 10, "{text}");
        let plain = directory("include_if_exists = 'cellar.conf'\n", b"");
        take_over_settings(plain.path(), b"").unwrap();
        assert_eq!(fs::read(plain.path().join(AUTO_CONF)).unwrap(), b"");
    }
}
