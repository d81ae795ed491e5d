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

/// Whose acknowledgement a commit needs, without quorum commit, and what each is when it is not set. Those of a backup's
/// time may name members that there are no more, for which every commit would wait; those of now are what was chosen.
const ACKNOWLEDGEMENT: [(&str, &str); 2] = [("synchronous_standby_names", ""), ("synchronous_commit", "on")];

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

/// Whether a file includes others than ours.
fn includes_others(main: &[u8]) -> bool {
    lines(main).any(|line| {
        name_of(line).to_ascii_lowercase().starts_with(b"include")
            && !line.windows(11).any(|part| part == b"cellar.conf")
    })
}

/// Lines that say whose acknowledgement a commit needs by the configuration of a data directory: one of each setting that
/// the files say plainly. Nothing without a configuration.
fn acknowledgement(main: &[u8], auto: &[u8]) -> Vec<u8> {
    let mut said = Vec::new();
    for (name, unset) in ACKNOWLEDGEMENT {
        let last = |text| lines(text).filter(|line| sets(line, &[name])).last();
        let line = match (last(auto), includes_others(main)) {
            (Some(line), _) => line.to_vec(),
            (None, true) => continue,
            (None, false) => match last(main) {
                Some(line) => line.to_vec(),
                None if main.is_empty() => continue,
                None => unset_line(name, unset),
            },
        };
        push_line(&mut said, &line);
    }
    said
}

fn unset_line(name: &str, unset: &str) -> Vec<u8> {
    format!("{name} = '{unset}'\n").into_bytes()
}

fn push_line(text: &mut Vec<u8>, line: &[u8]) {
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text.extend_from_slice(line);
}

/// What the configuration of a data directory says of this member alone, to be given to its next data directory: lines of
/// `postgresql.auto.conf`, and whose acknowledgement its commits need. Empty when there is no such file, or it cannot be read.
#[must_use]
pub fn members_own_settings(data_directory: &Path) -> Vec<u8> {
    let text = read(&path(data_directory)).unwrap_or_default();
    let main = read(&data_directory.join("postgresql.conf")).unwrap_or_default();
    let names = MEMBERS_OWN.map(|(name, _)| name);
    let mut own: Vec<u8> = lines(&text).filter(|line| sets(line, &names)).flatten().copied().collect();
    push_line(&mut own, &acknowledgement(&main, &text));
    own
}

/// The whole of a data directory's `postgresql.auto.conf`, whether or not a private instance has set it aside; none when
/// there is no such file, or it cannot be read.
#[must_use]
pub fn settings_of_now(data_directory: &Path) -> Option<Vec<u8>> {
    std::fs::read(path(data_directory)).ok()
}

/// Takes from a data directory that was made from another member's files, or those of another time, what concerned that
/// member alone, and gives it `own`, the lines of [`members_own_settings`] that this member had before.
///
/// With `now`, [`settings_of_now`] of this member, it has them in place of those that came with the files: what
/// `ALTER SYSTEM` has set is no part of the data, and goes back to no point in time with it.
///
/// # Errors
/// When a file cannot be read or written.
pub fn take_over_settings(
    data_directory: &Path,
    own: &[u8],
    now: Option<&[u8]>,
) -> Result<(), PostgresError> {
    let file = path(data_directory);
    let text = match now {
        Some(now) => now.to_vec(),
        None => read(&file)?,
    };
    let set_by_own = |name: &str| lines(own).any(|line| sets(line, &[name]));
    let acknowledges = ACKNOWLEDGEMENT.into_iter().filter(|(name, _)| set_by_own(name));
    let names: Vec<&str> = MEMBERS_OWN.into_iter().chain(acknowledges).map(|(name, _)| name).collect();
    let mut content = without(&text, &names).unwrap_or(text);
    // What the files have that are not ours to edit is overruled here. An included one may have any.
    let main = read(&data_directory.join("postgresql.conf"))?;
    let includes = includes_others(&main);
    let set_elsewhere = |name: &str| includes || lines(&main).any(|line| sets(line, &[name]));
    for (name, unset) in resettable().filter(|(name, _)| set_elsewhere(name) && !set_by_own(name)) {
        push_line(&mut content, &unset_line(name, unset));
    }
    for line in lines(own) {
        let is_unset = |(name, unset): &(&str, &str)| line == unset_line(name, unset) && !set_elsewhere(name);
        if !ACKNOWLEDGEMENT.iter().any(is_unset) {
            push_line(&mut content, line);
        }
    }
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
        assert_eq!(own, b"recovery_min_apply_delay = '1h'\n", "{own:?}");
        take_over_settings(other.path(), &own, None).unwrap();
        let expected = b"work_mem = '1MB'\n# \xfc\nprimary_slot_name = ''\nrecovery_min_apply_delay = '1h'\n";
        assert_eq!(fs::read(other.path().join(AUTO_CONF)).unwrap(), expected);
        take_over_settings(other.path(), &own, None).unwrap();
        assert_eq!(fs::read(other.path().join(AUTO_CONF)).unwrap(), expected, "it may be repeated");
    }

    #[test]
    fn an_included_file_is_overruled() {
        let other = directory("include_dir = 'conf.d'\ninclude_if_exists = 'cellar.conf'\n", b"");
        take_over_settings(other.path(), b"", None).unwrap();
        let text = fs::read_to_string(other.path().join(AUTO_CONF)).unwrap();
        assert_eq!(text.lines().count(), 10, "{text}");
        let plain = directory("include_if_exists = 'cellar.conf'\n", b"");
        take_over_settings(plain.path(), b"", None).unwrap();
        assert_eq!(fs::read(plain.path().join(AUTO_CONF)).unwrap(), b"");
    }

    const OLD: &[u8] = b"work_mem = '1MB'\nsynchronous_standby_names = 'gone'\n";

    #[test]
    fn commits_need_whose_acknowledgement_was_chosen_last() {
        let after = |main: &str, own: &[u8]| {
            let restored = directory(main, OLD);
            take_over_settings(restored.path(), own, None).unwrap();
            fs::read_to_string(restored.path().join(AUTO_CONF)).unwrap()
        };
        let own_of = |main: &str, auto: &[u8]| members_own_settings(directory(main, auto).path());
        let none = own_of("port = 1\n", b"");
        assert_eq!(after("port = 1\n", &none), "work_mem = '1MB'\n");
        let overruled = after("synchronous_standby_names = 'gone'\n", &none);
        assert_eq!(overruled, "work_mem = '1MB'\nsynchronous_standby_names = ''\n");
        let chosen = "synchronous_standby_names = 'zone2'\n";
        for own in [own_of("port = 1\n", chosen.as_bytes()), own_of(chosen, b"")] {
            assert_eq!(after("port = 1\n", &own), format!("work_mem = '1MB'\n{chosen}"));
        }
        // Nothing is known: there was no data, or other files are included.
        let kept = std::str::from_utf8(OLD).unwrap();
        for own in [own_of("", b""), own_of("include_dir = 'conf.d'\n", b"")] {
            assert_eq!(after("port = 1\n", &own), kept);
        }
    }

    #[test]
    fn what_was_set_since_the_backup_stays_set() {
        let member = directory("port = 1\n", b"work_mem = '5MB'\nprimary_slot_name = 'a'\n");
        let (own, now) = (members_own_settings(member.path()), settings_of_now(member.path()));
        let restored = directory("port = 1\nsynchronous_commit = off\n", OLD);
        for _ in 0..2 {
            take_over_settings(restored.path(), &own, now.as_deref()).unwrap();
            let text = fs::read_to_string(restored.path().join(AUTO_CONF)).unwrap();
            let expected = "work_mem = '5MB'\nprimary_slot_name = 'a'\nsynchronous_commit = 'on'\n";
            assert_eq!(text, expected);
        }
        assert_eq!(settings_of_now(Path::new("/nonexistent")), None);
    }
}
