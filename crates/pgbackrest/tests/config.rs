//! The generated files: golden texts, the reference page, hostile values, and the real pgBackRest reading them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::process::Command;

use cellar_model::{Database, PgbackrestName, Pooler, Protocol, Repository, Retention};
use cellar_pgbackrest::{
    ConfigError, ConfigInput, accepted_names, render_bootstrap, render_full, render_job, render_job_for,
};

#[path = "config/encrypted.rs"]
mod encrypted;
#[path = "config/hostile_values.rs"]
mod hostile_values;
#[path = "config/refusals.rs"]
mod refusals;
#[path = "config/remote_repository.rs"]
mod remote_repository;
#[path = "config/stores.rs"]
mod stores;

fn database() -> Database {
    Database {
        name: "multigres".parse().unwrap(),
        stanza: "multigres".parse().unwrap(),
        repository: "/backup/repo".parse().unwrap(),
        retention: Retention { full: 7 },
        bootstrap_cell: "zone1".parse().unwrap(),
        port_offset: 0,
        repo_cipher: None,
        pgbackrest_names: Vec::new(),
        minimum_protocol: Protocol::default(),
        cluster_id: None,
        cells: Vec::new(),
        is_qualified: false,
        durability: cellar_model::Durability::default(),
        settings: std::collections::BTreeMap::new(),
        pause: None,
    }
}

fn pooler(index: u16) -> Pooler {
    let zone = format!("zone{}", index + 1);
    Pooler {
        database: "multigres".parse().unwrap(),
        cell: zone.parse().unwrap(),
        index: u32::from(index),
        host: "localhost".parse().unwrap(),
        postgres_port: 5432 + index,
        pgbackrest_port: 8432 + index,
        grpc_port: 15270 + index,
        health_port: 20000 + index,
        listen: "0.0.0.0".into(),
        data_directory: format!("/{zone}/pg_data"),
        socket_directory: format!("/{zone}/pg_sockets"),
        config_path: format!("/{zone}/pgbackrest.conf"),
        tls_directory: "/backup/repo/tls".into(),
        log_directory: format!("/{zone}/log"),
        lock_directory: format!("/{zone}/lock"),
        spool_directory: format!("/{zone}/spool"),
        pool_port: 0,
        revocations: 0,
    }
}

fn full_of(local: u16, cells: u16) -> String {
    let all: Vec<Pooler> = (0..cells).map(pooler).collect();
    // Reversed: the order of the records must not matter.
    let others: Vec<&Pooler> = all.iter().rev().filter(|p| p.index != u32::from(local)).collect();
    let input = ConfigInput {
        database: &database(),
        local: &pooler(local),
        others: &others,
        tls_server_auth: "*",
        passphrase: None,
    };
    render_full(&input).unwrap()
}

fn bootstrap_of(local: u16) -> String {
    let input = ConfigInput {
        database: &database(),
        local: &pooler(local),
        others: &[],
        tls_server_auth: "*",
        passphrase: None,
    };
    render_bootstrap(&input).unwrap()
}

fn job_of(local: u16, primary: Option<u16>) -> String {
    render_job(&database(), &pooler(local), primary.map(pooler).as_ref(), None).unwrap()
}

/// The repository is a directory of zone3's host.
fn at_zone3() -> Database {
    Database {
        repository: Repository::in_cell("zone3".parse().unwrap(), "/backup/repo".parse().unwrap()),
        ..database()
    }
}

/// The file of a cell of three, as `render` makes it.
fn at_zone3_of(local: u16, render: fn(&ConfigInput<'_>) -> Result<String, ConfigError>) -> String {
    let all: Vec<Pooler> = (0..3).map(pooler).collect();
    let others: Vec<&Pooler> = all.iter().filter(|p| p.index != u32::from(local)).collect();
    let (database, local) = (at_zone3(), pooler(local));
    let (others, database, local) = (others.as_slice(), &database, &local);
    render(&ConfigInput { database, local, others, tls_server_auth: "*", passphrase: None }).unwrap()
}

fn at_zone3_job_for(source: u16, primary: Option<u16>) -> String {
    let primary = primary.map(pooler);
    render_job_for(&at_zone3(), &pooler(2), &pooler(source), primary.as_ref(), None).unwrap()
}

/// The golden texts of a repository that only one host has.
fn goldens_at_zone3() -> Vec<(String, String)> {
    [
        ("full_zone1", at_zone3_of(0, render_full)),
        ("full_zone3", at_zone3_of(2, render_full)),
        ("bootstrap_zone2", at_zone3_of(1, render_bootstrap)),
        ("job_for_zone2_from_zone1", at_zone3_job_for(1, Some(0))),
        ("job_for_zone2_from_zone3", at_zone3_job_for(1, Some(2))),
        ("job_for_primary_zone1", at_zone3_job_for(0, None)),
    ]
    .map(|(name, text)| (format!("at_zone3_{name}"), text))
    .into()
}

/// Every golden text with its name.
fn goldens() -> Vec<(String, String)> {
    let mut all = vec![
        ("full_1_zone1".to_owned(), full_of(0, 1)),
        ("bootstrap_zone1".to_owned(), bootstrap_of(0)),
        ("bootstrap_zone7".to_owned(), bootstrap_of(6)),
        ("job_primary_alone_zone1".to_owned(), job_of(0, None)),
        ("job_3_zone3_from_zone1".to_owned(), job_of(2, Some(0))),
        ("job_7_zone1_from_zone7".to_owned(), job_of(0, Some(6))),
    ];
    for local in 0..3 {
        all.push((format!("full_3_zone{}", local + 1), full_of(local, 3)));
    }
    for local in [0, 3, 6] {
        all.push((format!("full_7_zone{}", local + 1), full_of(local, 7)));
    }
    all
}

#[test]
fn golden_files() {
    for (name, text) in goldens().into_iter().chain(goldens_at_zone3()) {
        insta::assert_snapshot!(name, text);
    }
}

/// As root only in an old release: from 2.59 on it refuses that.
fn pgbackrest() -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new("pgbackrest");
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap();
        let Some(user) = user else { panic!("no user postgres: install the Debian package postgresql") };
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| {
        panic!("pgbackrest does not run ({error}): install the Debian package `pgbackrest`")
    });
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What pgBackRest says of a remote instance beside a remote repository, with exit code 27.
const BOTH_REMOTE: &str = "pg and repo hosts cannot both be configured as remote";

/// What pgBackRest says of a file in the commands that look at every option: `check` walks the hosts and
/// `server-ping` reads what a server needs. Neither reaches anything.
fn what_pgbackrest_says(text: &str) -> Vec<String> {
    let scratch = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(scratch.path(), open).unwrap();
    let file = scratch.path().join("pgbackrest.conf");
    // The zones' directories do not exist here.
    let text = text.replace("=/zone", &format!("={}/zone", scratch.path().display()));
    std::fs::write(&file, text.replace("=/backup", &format!("={}/backup", scratch.path().display())))
        .unwrap();
    let config = format!("--config={}", file.display());
    let common = ["--log-level-console=warn", "--log-level-file=off", "--io-timeout=1"];
    let mut said = run(pgbackrest().args([&config, "--stanza=multigres"]).args(common).arg("check"));
    said += &run(pgbackrest().args([&config, "--stanza=multigres"]).args(common).arg("info"));
    said += &run(pgbackrest().arg(&config).args(common).arg("server-ping"));
    said.lines().map(str::to_owned).collect()
}

#[test]
fn the_real_pgbackrest_reads_every_golden_file() {
    for (name, text) in goldens().into_iter().chain(goldens_at_zone3()) {
        for line in what_pgbackrest_says(&text) {
            let complaint = line.contains("configuration file contains")
                || line.contains(BOTH_REMOTE)
                || line.contains("[029]")
                || line.contains("[031]")
                || line.contains("[032]")
                || line.contains("[037]");
            assert!(!complaint, "{name}: {line}");
            // `check` finds none of the hosts and says so; any other warning is about the file.
            let expected = line.contains("unable to check pg");
            assert!(!line.contains("WARN") || expected, "{name}: {line}");
        }
    }
}

#[test]
fn the_real_pgbackrest_would_complain() {
    let text = full_of(0, 3);
    let tls = "/backup/repo/tls";
    let server = format!(
        "repo1-host=localhost\nrepo1-host-type=tls\nrepo1-host-ca-file={tls}/ca.crt\n\
         repo1-host-cert-file={tls}/server.crt\nrepo1-host-key-file={tls}/server.key\nrepo1-path="
    );
    for (broken, needle) in [
        (text.replace("start-fast=y", "start-fast=y\nstart-fats=y"), "invalid option 'start-fats'"),
        (text.replace("resume=n", "resume=n\npg1-port=1"), "stanza-only option 'pg1-port'"),
        (text.replace("protocol-timeout=660", "protocol-timeout=60"), "[032]"),
        (text.replace("tls-server-port=8432", "tls-server-port=99999"), "[032]"),
        (text.replace("pg2-path=/zone2/pg_data\n", ""), "[037]"),
        // Why a cell's file lists no other instances when the repository is another host's.
        (text.replace("repo1-path=", &server), BOTH_REMOTE),
    ] {
        let said = what_pgbackrest_says(&broken);
        assert!(said.iter().any(|line| line.contains(needle)), "{needle}: {said:?}");
    }
}

/// `section/key` to value.
fn keys(text: &str) -> BTreeMap<String, String> {
    let mut section = String::new();
    let mut all = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.to_owned();
        } else {
            let (key, value) = line.split_once('=').unwrap();
            let before = all.insert(format!("{section}/{key}"), value.to_owned());
            assert_eq!(before, None, "{key} twice");
        }
    }
    all
}

#[test]
fn the_reference_page_holds_for_every_zone() {
    // For each zone the members in the order of pg1, pg2, pg3.
    for (local, order) in [(0, [1, 2, 3]), (1, [2, 1, 3]), (2, [3, 1, 2])] {
        let found = keys(&full_of(local, 3));
        let expect = |key: &str, value: &str| {
            assert_eq!(found.get(key).map(String::as_str), Some(value), "zone{} {key}", local + 1);
        };
        expect("global/repo1-path", "/backup/repo");
        expect("global/repo1-retention-full", "7");
        expect("global/tls-server-cert-file", "/backup/repo/tls/server.crt");
        expect("global/tls-server-key-file", "/backup/repo/tls/server.key");
        expect("global/tls-server-ca-file", "/backup/repo/tls/ca.crt");
        expect("global/tls-server-address", "0.0.0.0");
        expect("global/tls-server-port", &(8431 + order[0]).to_string());
        expect("global/tls-server-auth", "pgbackrest=*");
        expect("multigres/pg1-path", &format!("/zone{}/pg_data", order[0]));
        expect("multigres/pg1-socket-path", &format!("/zone{}/pg_sockets", order[0]));
        for (at, zone) in order.iter().enumerate() {
            let n = at + 1;
            expect(&format!("multigres/pg{n}-port"), &(5431 + zone).to_string());
            expect(&format!("multigres/pg{n}-user"), "postgres");
            expect(&format!("multigres/pg{n}-database"), "postgres");
            if n == 1 {
                assert!(!found.contains_key("multigres/pg1-host"));
                continue;
            }
            expect(&format!("multigres/pg{n}-host"), "localhost");
            expect(&format!("multigres/pg{n}-host-type"), "tls");
            expect(&format!("multigres/pg{n}-host-port"), &(8431 + zone).to_string());
            expect(&format!("multigres/pg{n}-host-ca-file"), "/backup/repo/tls/ca.crt");
            expect(&format!("multigres/pg{n}-host-cert-file"), "/backup/repo/tls/server.crt");
            expect(&format!("multigres/pg{n}-host-key-file"), "/backup/repo/tls/server.key");
        }
        assert!(!found.contains_key("multigres/pg4-host"));
    }
}

#[test]
fn the_config_of_a_job_names_its_cell_and_the_primary_only() {
    let found = keys(&job_of(2, Some(0)));
    assert_eq!(found["multigres/pg1-path"], "/zone3/pg_data");
    assert_eq!(found["multigres/pg2-path"], "/zone1/pg_data");
    assert_eq!(found["global/backup-standby"], "y");
    assert!(found.keys().all(|key| !key.contains("pg3-") && !key.contains("tls-server")));
    let alone = keys(&job_of(0, None));
    assert!(alone.keys().all(|key| !key.contains("pg2-") && !key.contains("backup-standby")));
    let bootstrap = keys(&bootstrap_of(1));
    assert!(bootstrap.keys().all(|key| !key.contains("pg2-")));
    assert_eq!(bootstrap["global/tls-server-port"], "8433");
}

#[test]
fn each_admitted_client_has_its_line() {
    let old = PgbackrestName::default();
    let (local, db) = (pooler(0), database());
    for (names, lines) in [
        (vec![], vec!["tls-server-auth=pgbackrest=app"]),
        (vec![old.next(), old], vec!["tls-server-auth=pgbackrest:1=app", "tls-server-auth=pgbackrest=app"]),
        (vec![old.next()], vec!["tls-server-auth=pgbackrest:1=app"]),
    ] {
        let database = Database { pgbackrest_names: names, ..db.clone() };
        let input = ConfigInput {
            database: &database,
            local: &local,
            others: &[],
            tls_server_auth: "app",
            passphrase: None,
        };
        let text = render_full(&input).unwrap();
        let found: Vec<&str> = text.lines().filter(|line| line.starts_with("tls-server-auth=")).collect();
        assert_eq!(found, lines);
        assert_eq!(accepted_names(&text), database.accepted_names(), "it is read as it was meant");
    }
    assert_eq!(accepted_names("[global]\n"), []);
}
