//! The generated files against the reference page, and with hostile values.

use super::*;
use proptest::strategy::Strategy;
use std::collections::BTreeMap;

const SPEC: &str = include_str!("../../../tests/reference.toml");

/// Sections of a file with their keys; a key that stands twice is an error here.
fn sections(text: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut all: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            continue;
        }
        let (key, value) = line.split_once('=').unwrap();
        let previous = all.entry(section.clone()).or_default().insert(key.into(), value.into());
        assert_eq!(previous, None, "{key} stands twice");
    }
    all
}

/// What the reference page demands of zone `own` (counted from 1).
fn reference(own: usize) -> BTreeMap<String, BTreeMap<String, String>> {
    let tls = "/backup/repo/tls";
    let pair = |key: &str, value: String| (key.to_owned(), value);
    let global = BTreeMap::from([
        pair("repo1-path", "/backup/repo".into()),
        pair("repo1-retention-full", "7".into()),
        pair("tls-server-cert-file", format!("{tls}/server.crt")),
        pair("tls-server-key-file", format!("{tls}/server.key")),
        pair("tls-server-ca-file", format!("{tls}/ca.crt")),
        pair("tls-server-address", "0.0.0.0".into()),
        pair("tls-server-port", (8431 + own).to_string()),
        pair("tls-server-auth", "pgbackrest=*".into()),
    ]);
    let mut stanza = BTreeMap::from([
        pair("pg1-path", format!("/zone{own}/pg_data")),
        pair("pg1-socket-path", format!("/zone{own}/pg_sockets")),
        pair("pg1-port", (5431 + own).to_string()),
        pair("pg1-user", "postgres".into()),
        pair("pg1-database", "postgres".into()),
    ]);
    for (at, zone) in (1..=3).filter(|zone| *zone != own).enumerate() {
        let key = |name: &str| format!("pg{}-{name}", at + 2);
        stanza.extend([
            (key("host"), "localhost".to_owned()),
            (key("host-type"), "tls".to_owned()),
            (key("host-port"), (8431 + zone).to_string()),
            (key("host-ca-file"), format!("{tls}/ca.crt")),
            (key("host-cert-file"), format!("{tls}/server.crt")),
            (key("host-key-file"), format!("{tls}/server.key")),
            (key("port"), (5431 + zone).to_string()),
            (key("user"), "postgres".to_owned()),
            (key("database"), "postgres".to_owned()),
        ]);
    }
    BTreeMap::from([("global".to_owned(), global), ("multigres".to_owned(), stanza)])
}

#[test]
fn every_key_of_the_reference_page_is_generated() {
    let out = tempfile::tempdir().unwrap();
    let written = generate_configs(&ClusterSpec::parse(SPEC).unwrap(), out.path()).unwrap();
    assert_eq!(written.len(), 3);
    for own in 1..=3 {
        let path = out.path().join(format!("zone{own}/pgbackrest.conf"));
        let found = sections(&std::fs::read_to_string(&path).unwrap());
        for (section, wanted) in reference(own) {
            for (key, value) in wanted {
                assert_eq!(found[&section].get(&key), Some(&value), "zone{own} [{section}] {key}");
            }
        }
        // pgBackRest needs these beyond the page.
        assert_eq!(found["multigres"]["pg2-path"], format!("/zone{}/pg_data", if own == 1 { 2 } else { 1 }));
        assert!(found["multigres"].contains_key("pg3-host-config"));
        assert!(!found["multigres"].contains_key("pg4-host"));
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 3, "nothing else is written");
}

const HOSTILE: &[&str] = include!("../../../../fuzz/hostile.rs");

/// Every text that a specification has, with the section and key of zone2's file that show it; `{}` stands for the text.
const FIELDS: [(&str, &str, &str, &str); 14] = [
    ("cluster", "", "", ""),
    ("database.name", "multigres", "", ""),
    ("database.stanza", "{}", "pg1-port", "5433"),
    ("repo.path", "global", "repo1-path", "{}"),
    ("tls.dir", "global", "tls-server-key-file", "{}/server.key"),
    ("tls.listen", "global", "tls-server-address", "{}"),
    ("tls.server_auth", "global", "tls-server-auth", "pgbackrest={}"),
    ("name", "", "", ""),
    ("host", "multigres", "", ""),
    ("pg_data", "multigres", "pg1-path", "{}"),
    ("pg_sockets", "multigres", "pg1-socket-path", "{}"),
    ("log", "global", "log-path", "{}"),
    ("lock", "global", "lock-path", "{}"),
    ("spool", "global", "spool-path", "{}"),
];

/// The reference with one text replaced, in the second cell when it is a cell's.
fn with(field: &str, text: &str) -> String {
    let mut spec: toml::Table = SPEC.parse().unwrap();
    spec["database"]["name"] = "multigres".into();
    let value = toml::Value::String(text.to_owned());
    let table = match field.split_once('.') {
        Some((table, _)) => spec.entry(table).or_insert_with(|| toml::Table::new().into()),
        None if field == "cluster" => {
            spec.insert(field.to_owned(), value);
            return spec.to_string();
        }
        None => &mut spec["cells"].as_array_mut().unwrap()[0],
    };
    let key = field.rsplit('.').next().unwrap();
    table.as_table_mut().unwrap().insert(key.to_owned(), value);
    spec.to_string()
}

proptest::proptest! {
    /// Whatever stands in a field, either it is refused or the files have the same keys as before, and it is one value.
    #[test]
    fn hostile_text_is_refused_or_one_value(
        at in 0..FIELDS.len(),
        text in proptest::prop_oneof![
            proptest::sample::select(HOSTILE).prop_map(str::to_owned),
            proptest::sample::select(HOSTILE).prop_map(|text| format!("/x{text}")),
            "(?s).{0,40}",
            "[a-z0-9/.:_-]{1,20}",
        ],
    ) {
        let (field, section, key, shown) = FIELDS[at];
        let Ok(spec) = ClusterSpec::parse(&with(field, &text)) else { return Ok(()) };
        let files = render_configs(&spec).unwrap();
        proptest::prop_assert_eq!(files.len(), 3);
        let of_second = &spec.poolers.iter().position(|pooler| pooler.postgres_port == 5433).unwrap();
        let plain = sections(&render_configs(&ClusterSpec::parse(SPEC).unwrap()).unwrap()[1].1);
        let found = sections(&files[*of_second].1);
        proptest::prop_assert_eq!(found.len(), plain.len());
        for (name, keys) in &found {
            let name = if name == "global" { "global" } else { "multigres" };
            proptest::prop_assert!(keys.keys().eq(plain[name].keys()), "{keys:?}");
        }
        if !key.is_empty() {
            let value = found.get(&section.replace("{}", &text)).and_then(|keys| keys.get(key));
            proptest::prop_assert_eq!(value, Some(&shown.replace("{}", &text)));
        }
    }

    /// The files go below the directory that was named, into one directory per cell, or nowhere.
    #[test]
    fn no_cell_name_leads_out_of_the_directory(text in proptest::sample::select(HOSTILE)) {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        if let Ok(spec) = ClusterSpec::parse(&with("name", text)) {
            for path in generate_configs(&spec, &out).unwrap() {
                let below = path.strip_prefix(&out).unwrap();
                proptest::prop_assert_eq!(below.components().count(), 2);
            }
            proptest::prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        } else {
            proptest::prop_assert!(!out.exists());
        }
    }
}

#[test]
fn same_specification_gives_the_same_bytes() {
    let spec = ClusterSpec::parse(SPEC).unwrap();
    assert_eq!(render_configs(&spec).unwrap(), render_configs(&spec).unwrap());
}

#[test]
fn the_others_reach_a_repository_of_one_host_through_its_cell() {
    let spec = SPEC.replacen("retention_full = 7", "host = \"zone3\"\nretention_full = 7", 1);
    let files = render_configs(&ClusterSpec::parse(&spec).unwrap()).unwrap();
    for (cell, text) in &files {
        let found = sections(text);
        let (global, stanza) = (&found["global"], &found["multigres"]);
        assert_eq!(global["repo1-path"], "/backup/repo");
        let has_it = cell.as_str() == "zone3";
        assert_eq!(global.contains_key("repo1-host"), !has_it, "{cell}");
        // pgBackRest takes no file with both.
        assert_eq!(stanza.contains_key("pg3-host"), has_it, "{cell}");
        if !has_it {
            assert_eq!(global["repo1-host-port"], "8434");
            assert_eq!(global["repo1-host-config"], "/zone3/pgbackrest.conf");
        }
    }
}
