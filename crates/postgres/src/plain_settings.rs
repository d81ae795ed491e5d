//! Settings that can be read off the configuration files without doubt.
//!
//! `postgres -C NAME` tells what a setting will be, and costs the start of a program for each. Where the files say it
//! plainly, as they nearly always do, that is saved; where there is any doubt nothing is said here, and `postgres` is asked.

use std::path::Path;

use crate::auto_conf::{self, lines, name_of};
use crate::config_file::read;
use crate::configure::INCLUDE;

/// The numbers of [`RequiredSettings`](crate::RequiredSettings) that PostgreSQL has where no file sets them, the same from
/// version 13 to 18 (`guc.c`, since 16 `guc_tables.c`).
pub(crate) const DEFAULTS: [(&str, u32); 5] = [
    ("max_connections", 100),
    ("max_worker_processes", 8),
    ("max_wal_senders", 10),
    ("max_prepared_transactions", 0),
    ("max_locks_per_transaction", 64),
];

/// The first version with other files or defaults than those known here, as far as anybody knows.
const FIRST_UNKNOWN_VERSION: u32 = 19;

/// The files of a data directory that set something, in PostgreSQL's order.
pub(crate) struct PlainSettings {
    text: Vec<u8>,
}

impl PlainSettings {
    /// Reads the files of a configured data directory; none when they include others than ours, or cannot be read.
    pub(crate) fn of(data_directory: &Path) -> Option<Self> {
        let file = |name: &str| read(&data_directory.join(name)).ok();
        let version: u32 = String::from_utf8(file("PG_VERSION")?).ok()?.trim().parse().ok()?;
        if version >= FIRST_UNKNOWN_VERSION {
            return None;
        }
        let auto = read(&auto_conf::path(data_directory)).ok()?;
        Self::of_texts(&file("postgresql.conf")?, &file("cellar.conf")?, &auto)
    }

    fn of_texts(main: &[u8], ours: &[u8], auto: &[u8]) -> Option<Self> {
        let mut text = Vec::new();
        for line in lines(main) {
            if line.trim_ascii() == INCLUDE.as_bytes() {
                text.extend_from_slice(ours);
            } else {
                text.extend_from_slice(line);
            }
            text.push(b'\n');
        }
        text.extend_from_slice(auto);
        let includes = |line: &[u8]| name_of(line).to_ascii_lowercase().starts_with(b"include");
        if lines(&text).any(includes) { None } else { Some(Self { text }) }
    }

    /// What a number will be; none when that is not plain.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        let sets = |line: &&[u8]| name_of(line).eq_ignore_ascii_case(name.as_bytes());
        match lines(&self.text).filter(sets).last() {
            Some(line) => plain_number(line.trim_ascii_start().get(name.len()..)?),
            None => DEFAULTS.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value),
        }
    }
}

/// Reads ` = 100  # text`, where the sign may be missing and the number may be quoted. PostgreSQL takes more: units, other
/// bases, fractions.
fn plain_number(rest: &[u8]) -> Option<u32> {
    let rest = std::str::from_utf8(rest).ok()?;
    let value = rest.split('#').next()?.trim();
    let value = value.strip_prefix('=').unwrap_or(value).trim();
    let value = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
    let is_plain =
        value.bytes().all(|byte| byte.is_ascii_digit()) && (value == "0" || !value.starts_with('0'));
    if is_plain { value.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(main: &str, auto: &str) -> Option<PlainSettings> {
        PlainSettings::of_texts(
            main.as_bytes(),
            b"max_wal_senders = '16'\nmax_connections = '200'\n",
            auto.as_bytes(),
        )
    }

    #[test]
    fn last_line_that_sets_it_counts_and_the_files_come_in_postgresqls_order() {
        let main = format!(
            "max_connections = 100\t# (change requires restart)\n#max_worker_processes = 4\n{INCLUDE}"
        );
        let settings = of(&main, "").unwrap();
        assert_eq!(settings.number("max_connections"), Some(200), "ours");
        assert_eq!(settings.number("max_wal_senders"), Some(16));
        assert_eq!(settings.number("max_worker_processes"), Some(8), "a comment sets nothing");
        let settings = of(&main, "# Do not edit\nMAX_CONNECTIONS='50'\n").unwrap();
        assert_eq!(settings.number("max_connections"), Some(50), "ALTER SYSTEM");
        let after = of(&format!("{INCLUDE}\nmax_connections 70\n"), "").unwrap();
        assert_eq!(after.number("max_connections"), Some(70), "below the include");
        assert_eq!(
            of("max_connections = 30\n", "").unwrap().number("max_connections"),
            Some(30),
            "no include"
        );
    }

    #[test]
    fn what_is_not_plain_is_not_said() {
        for value in ["0x40", "010", "1e2", "100.0", "'1''0'", "-1", "", "100 200", "'100", "1kB", "\u{e9}"] {
            let settings = of("", &format!("max_connections = {value}\n")).unwrap();
            assert_eq!(settings.number("max_connections"), None, "{value}");
        }
        for line in ["include 'x'", "include_dir = 'conf.d'", "  INCLUDE_IF_EXISTS='cellar.conf'"] {
            assert!(of(&format!("{line}\n{INCLUDE}\n"), "").is_none(), "{line}");
        }
        assert_eq!(of("", "").unwrap().number("shared_buffers"), None);
    }
}
