//! The binary itself, where no cluster is needed.

#![expect(clippy::unwrap_used, reason = "a test ends with the first thing that does not work")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn cellar(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cellar"))
        .args(arguments)
        .env_remove("CELLAR_DIR")
        .env("CELLAR_LOG", "off")
        .current_dir(dir)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../provisioner/tests/reference.toml")
}

#[test]
fn config_generate_writes_one_file_for_each_cell() {
    let dir = tempfile::tempdir().unwrap();
    let spec = dir.path().join("cluster.toml");
    fs::copy(reference(), &spec).unwrap();
    let done = cellar(dir.path(), &["config", "generate", "--spec", "cluster.toml", "--out", "conf"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(text(&done.stdout).lines().count(), 3);
    for (cell, port, other) in [("zone1", 8432, 8433), ("zone2", 8433, 8432), ("zone3", 8434, 8432)] {
        let config = fs::read_to_string(dir.path().join("conf").join(cell).join("pgbackrest.conf")).unwrap();
        let has = |line: &str| config.lines().any(|found| found == line);
        assert!(has(&format!("tls-server-port={port}")), "{config}");
        assert!(has(&format!("pg1-path=/{cell}/pg_data")), "{config}");
        assert!(has(&format!("pg2-host-port={other}")), "{config}");
    }
    let mut entries: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    entries.sort();
    assert_eq!(entries, ["cluster.toml", "conf"]);
}

#[test]
fn a_bad_specification_is_refused_naming_the_field() {
    let dir = tempfile::tempdir().unwrap();
    let spec = fs::read_to_string(reference()).unwrap();
    let bad = spec.replace("\"/zone3/pg_data\"", "\"zone3\"");
    fs::write(dir.path().join("cluster.toml"), bad).unwrap();
    let done = cellar(dir.path(), &["config", "generate", "--spec", "cluster.toml", "--out", "conf"]);
    assert_eq!(done.status.code(), Some(2));
    assert!(text(&done.stderr).contains("cells.zone3.pg_data \"zone3\""), "{}", text(&done.stderr));
    assert!(!dir.path().join("conf").exists());
    let missing = cellar(dir.path(), &["config", "generate", "--spec", "none.toml", "--out", "conf"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn commands_exit_4_without_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    for command in [
        &["status"][..],
        &["jobs", "list"],
        &["backup", "--from", "zone1"],
        &["cells", "add", "z"],
        &["drill"],
        &["verify"],
        &["check"],
        &["expire", "--dry-run"],
        &["expire", "--yes"],
        &["restore", "--latest", "--plan"],
        &["restore", "--latest", "--yes"],
        &["restore", "confirm", "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "--yes"],
        &["--output", "json", "restore", "rollback", "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00", "--yes"],
    ] {
        let done = cellar(dir.path(), &[&["--dir", "c"], command].concat());
        assert_eq!(done.status.code(), Some(4), "{command:?}: {}", text(&done.stderr));
        let errors = text(&done.stderr);
        assert!(
            errors.starts_with("error: there is no cluster in ") && errors.contains("hint: "),
            "{errors}"
        );
        assert!(done.stdout.is_empty());
    }
    let down = cellar(dir.path(), &["--dir", "c", "down"]);
    assert_eq!(down.status.code(), Some(0));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no command creates a file");
}

#[test]
fn wrong_usage_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    for bad in [
        &["nonsense"][..],
        &["backup"],
        &["backup", "--from", "../x"],
        &["backup", "--from", "z", "--max-lag", "x"],
        &["up", "--timeout", "0"],
        &["up", "--port-offset", "99999"],
        &["up", "--repo", "s3://bucket/x", "--dir", "c"],
        &["up", "--cells", "a,a", "--dir", "c"],
        &["--admin", "localhost:1", "status"],
        &["jobs", "show", "7"],
        &["backups", "show", "x"],
        &["restore"],
        &["restore", "--plan"],
        &["restore", "--latest", "--to-xid", "742"],
        &["restore", "--to-time", "yesterday"],
        &["restore", "--to-time", "2026-03-01 10:15:60"],
        &["restore", "--to-lsn", "x"],
        &["restore", "--to-name", ""],
        &["restore", "--to-backup", "latest"],
        &["restore", "--latest", "--timeline", "0"],
        &["restore", "--latest", "confirm", "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00"],
        &["restore", "confirm"],
        &["restore", "rollback", "7"],
        &["drill", "--nice", "20"],
        &["drill", "--backup", "x"],
        &["drill", "--check", " "],
        &["drill", "--check-file", "none.sql"],
        &["expire"],
        &["expire", "--backup", "latest", "--yes"],
        &["backup", "--from", "z", "--timeout", "1h30"],
        &["--dir", "", "status"],
        &["verify", "--on", "../x"],
    ] {
        let done = cellar(dir.path(), bad);
        assert_eq!(done.status.code(), Some(2), "{bad:?}: {}", text(&done.stderr));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_confirmation_without_a_terminal_exits_2() {
    let dir = tempfile::tempdir().unwrap();
    let id = "019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00";
    for command in [&["restore", "--latest"][..], &["restore", "confirm", id], &["restore", "rollback", id]] {
        let done = cellar(dir.path(), command);
        assert_eq!(done.status.code(), Some(2), "{command:?}");
        let errors = text(&done.stderr);
        assert!(errors.contains("no terminal") && errors.contains("hint: confirm with --yes"), "{errors}");
        assert!(done.stdout.is_empty());
    }
}

#[test]
fn the_target_time_is_shown_in_utc() {
    let dir = tempfile::tempdir().unwrap();
    let done =
        cellar(dir.path(), &["--dir", "c", "restore", "--plan", "--to-time", "2026-01-01 10:15:00.5+02"]);
    assert_eq!(done.status.code(), Some(4));
    let errors = text(&done.stderr);
    assert!(errors.starts_with("target: 2026-01-01T08:15:00.500Z (UTC; "), "{errors}");
}

#[test]
fn an_empty_directory_variable_counts_as_unset() {
    let dir = tempfile::tempdir().unwrap();
    let with_variable = |value: &str, arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_cellar"))
            .args(arguments)
            .env("CELLAR_DIR", value)
            .current_dir(dir.path())
            .output()
            .unwrap()
    };
    let help = with_variable("", &["completions", "bash"]);
    assert_eq!(help.status.code(), Some(0), "{}", text(&help.stderr));
    let given = with_variable("", &["--dir", "c", "status"]);
    assert_eq!(given.status.code(), Some(4), "{}", text(&given.stderr));
    let named = with_variable("v", &["status"]);
    assert!(text(&named.stderr).contains(&dir.path().join("v").display().to_string()), "{named:?}");
}

#[test]
fn a_closed_stdout_ends_the_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cellar"))
        .args(["completions", "bash"])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let done = child.wait_with_output().unwrap();
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(done.stderr.is_empty(), "{}", text(&done.stderr));
}
