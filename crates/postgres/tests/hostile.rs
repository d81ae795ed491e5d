//! Hostile texts in everything that is written into a data directory: refused, or read back as exactly the same value from a
//! file with no other line than before.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cellar_postgres::{
    InstanceConfig, PrimaryConninfo, REPLICATION_ALONE, REPLICATION_ROLE, Settings, TlsFiles, configure,
    conninfo_address, render_hba, render_ident,
};
use proptest::prelude::*;

const HOSTILE: &[&str] = include!("../../../fuzz/hostile.rs");

fn hostile() -> impl Strategy<Value = String> {
    let one = || prop::sample::select(HOSTILE).prop_map(str::to_owned);
    prop_oneof![
        one(),
        (one(), one()).prop_map(|(a, b)| a + &b),
        "(?s).{0,60}",
        one().prop_map(|a| format!("/x{a}"))
    ]
}

/// A file of settings as PostgreSQL's `guc-file.l` reads it; `None` for a line that it would not take.
fn settings(text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    // Both end a line there.
    for line in text.split(['\n', '\r']).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once(" = ")?;
        let mut chars = value.strip_prefix('\'')?.chars();
        let mut plain = String::new();
        loop {
            match chars.next()? {
                '\\' => match chars.next()? {
                    escaped @ ('\\' | '\'') => plain.push(escaped),
                    // Letters and digits would be control characters or octal numbers.
                    _ => return None,
                },
                '\'' => match chars.next() {
                    None => break,
                    Some('\'') => plain.push('\''),
                    Some(_) => return None,
                },
                c => plain.push(c),
            }
        }
        if found.insert(name.to_owned(), plain).is_some() {
            return None;
        }
    }
    Some(found)
}

fn usual() -> Settings {
    Settings {
        socket_directory: "/s".into(),
        tls: Some(TlsFiles {
            certificate: "/t/c".into(),
            key: "/t/k".into(),
            ca: "/t/a".into(),
            revocations: None,
        }),
        restore_command: Some("x".into()),
        primary_conninfo: Some("x".into()),
        ..Settings::default()
    }
}

const FIELDS: [&str; 9] = [
    "listen_addresses",
    "unix_socket_directories",
    "cluster_name",
    "archive_command",
    "restore_command",
    "primary_conninfo",
    "ssl_cert_file",
    "ssl_key_file",
    "ssl_ca_file",
];

fn with(field: &str, text: &str) -> Settings {
    let mut settings = usual();
    let mut tls = settings.tls.clone().unwrap();
    let text = text.to_owned();
    match field {
        "listen_addresses" => settings.listen_addresses = text,
        "unix_socket_directories" => settings.socket_directory = text.into(),
        "cluster_name" => settings.cluster_name = text,
        "archive_command" => settings.archive_command = text,
        "restore_command" => settings.restore_command = Some(text),
        "primary_conninfo" => settings.primary_conninfo = Some(text),
        "ssl_cert_file" => tls.certificate = PathBuf::from(text),
        "ssl_key_file" => tls.key = PathBuf::from(text),
        _ => tls.ca = PathBuf::from(text),
    }
    settings.tls = Some(tls);
    settings
}

/// The tokens of `pg_hba.conf` or `pg_ident.conf`, line by line, as PostgreSQL's `hba.c` splits them. A quoted token
/// keeps one quote in front, for it means something else.
fn tokens(text: &str) -> Vec<Vec<String>> {
    let lines = text.split('\n').filter(|line| !line.is_empty() && !line.starts_with('#'));
    let split = |line: &str| {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        let mut chars = line.chars().peekable();
        while let Some(c) = chars.next() {
            match c {
                '"' if quoted && chars.peek() == Some(&'"') => word.extend(chars.next()),
                '"' => {
                    quoted = !quoted;
                    if quoted && word.is_empty() {
                        word.push('"');
                    }
                }
                c if !quoted && c.is_ascii_whitespace() => {
                    if !word.is_empty() {
                        words.push(std::mem::take(&mut word));
                    }
                }
                c => word.push(c),
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    };
    lines.map(split).collect()
}

/// A conninfo string as libpq reads it.
fn pairs(text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("='")?;
        let mut value = String::new();
        let mut chars = after.chars();
        loop {
            match chars.next()? {
                '\\' => value.push(chars.next()?),
                '\'' => break,
                c => value.push(c),
            }
        }
        found.insert(name.to_owned(), value);
        rest = chars.as_str().trim_start_matches(' ');
    }
    Some(found)
}

proptest! {
    #[test]
    fn a_setting_is_refused_or_one_value(field in prop::sample::select(FIELDS.to_vec()), text in hostile()) {
        let plain = settings(&usual().render().unwrap()).unwrap();
        let Ok(file) = with(field, &text).render() else { return Ok(()) };
        let found = settings(&file);
        prop_assert!(found.is_some(), "{file}");
        let found = found.unwrap();
        prop_assert_eq!(found.get(field), Some(&text));
        prop_assert!(found.keys().eq(plain.keys()), "{file}");
        for (name, value) in found.iter().filter(|(name, _)| *name != field) {
            prop_assert_eq!(Some(value), plain.get(name));
        }
    }

    #[test]
    fn an_address_is_refused_or_one_word(text in hostile()) {
        let Ok(file) = render_hba(&[&text], REPLICATION_ALONE, REPLICATION_ROLE, None) else { return Ok(()) };
        let plain = tokens(&render_hba(&["samehost"], REPLICATION_ALONE, REPLICATION_ROLE, None).unwrap());
        let found = tokens(&file);
        prop_assert_eq!(found.len(), plain.len());
        let word = |line: &[String]| line.iter().map(|w| if w == "samehost" { text.clone() } else { w.clone() }).collect::<Vec<_>>();
        prop_assert_eq!(found, plain.iter().map(|line| word(line)).collect::<Vec<_>>());
    }

    #[test]
    fn an_os_user_is_refused_or_one_word(text in hostile()) {
        let Ok(file) = render_ident(&text, REPLICATION_ROLE) else { return Ok(()) };
        let user = format!("\"{text}");
        let mut found = tokens(&file);
        // The last one is for clients' certificates.
        let last = found.pop().unwrap_or_default();
        prop_assert_eq!(last.first().map(String::as_str), Some("cellar_certificate"));
        prop_assert!(found.iter().all(|line| line.len() == 3 && line[0] == "cellar" && line[1] == user), "{file}");
        let mut roles = vec!["postgres", "cellar_monitor"];
        if text != "postgres" {
            roles.push(&user);
        }
        prop_assert_eq!(found.iter().map(|line| line[2].as_str()).collect::<Vec<_>>(), roles);
        // Not a regular expression, which quotes do not prevent.
        prop_assert!(!text.starts_with('/'));
    }

    #[test]
    fn a_conninfo_value_is_refused_or_one_value(which in 0..3, text in hostile()) {
        let conninfo = PrimaryConninfo {
            host: if which == 0 { &text } else { "zone1" },
            port: 25432,
            tls_directory: Path::new(if which == 1 { text.as_str() } else { "/tls" }),
            application_name: if which == 2 { &text } else { "zone2" },
            syncs_slots: false,
        };
        let Ok(rendered) = conninfo.render() else { return Ok(()) };
        let found = pairs(&rendered).unwrap();
        prop_assert_eq!(found.len(), 14);
        prop_assert_eq!(&found["user"], "cellar_replication");
        prop_assert_eq!(&found["sslmode"], "verify-full");
        match which {
            0 => prop_assert_eq!(&found["host"], &text),
            1 => prop_assert_eq!(Path::new(&found["sslrootcert"]), &Path::new(&text).join("ca.crt")),
            _ => prop_assert_eq!(&found["application_name"], &text),
        }
        if which == 0 && !text.is_empty() {
            prop_assert_eq!(conninfo_address(&rendered), Some((text, 25432)));
        }
    }
}

#[test]
fn a_refused_value_leaves_every_file_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let config = |settings| InstanceConfig {
        settings,
        os_user: "postgres".into(),
        replication_from: vec!["samehost".into()],
        replication_name: REPLICATION_ROLE.into(),
    };
    configure(directory.path(), &config(usual())).unwrap();
    let read = || std::fs::read_to_string(directory.path().join("cellar.conf")).unwrap();
    let before = read();
    for text in HOSTILE.iter().filter(|text| text.contains(char::is_control)) {
        assert!(configure(directory.path(), &config(with("archive_command", text))).is_err(), "{text:?}");
        assert_eq!(read(), before);
    }
}
