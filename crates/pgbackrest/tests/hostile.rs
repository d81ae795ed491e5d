//! Hostile texts in everything that becomes an argument: each is one element in its place, all the way into the process.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{BackupType, StanzaName};
use cellar_pgbackrest::{Invocation, Pgbackrest, RestoreOptions};
use proptest::prelude::*;

const HOSTILE: &[&str] = include!("../../../fuzz/hostile.rs");

fn stanza() -> StanzaName {
    "app".parse().unwrap()
}

fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(HOSTILE).prop_map(str::to_owned), "(?s).{0,60}"]
}

/// A backup with a hostile annotation, and what its arguments must be.
fn backup(text: &str) -> (Invocation, Vec<String>) {
    let config = PathBuf::from(format!("/c{text}"));
    let notes = [("cell".to_owned(), text.to_owned())];
    let exact = [
        format!("--config=/c{text}"),
        "--stanza=app".to_owned(),
        "--type=incr".to_owned(),
        format!("--annotation=cell={text}"),
        "backup".to_owned(),
    ];
    (Invocation::backup(&config, &stanza(), BackupType::Incr, &notes), exact.to_vec())
}

/// A restore into a hostile directory.
fn restore(text: &str) -> (Invocation, Vec<String>) {
    let options = RestoreOptions {
        set: Some("20260301-101500F".parse().unwrap()),
        recovery_options: vec![("primary_conninfo".to_owned(), text.to_owned())],
        data_directory: Some(text.to_owned()),
        tablespaces: Some(text.to_owned()),
        lock_directory: Some(text.to_owned()),
        ..RestoreOptions::default()
    };
    let exact = [
        "--config=/c".to_owned(),
        "--stanza=app".to_owned(),
        "--target-timeline=current".to_owned(),
        "--set=20260301-101500F".to_owned(),
        format!("--recovery-option=primary_conninfo={text}"),
        format!("--pg1-path={text}"),
        format!("--tablespace-map-all={text}"),
        format!("--lock-path={text}"),
        "restore".to_owned(),
    ];
    (Invocation::restore(Path::new("/c"), &stanza(), &options), exact.to_vec())
}

/// A file of the repo with a hostile name: never an option.
fn repo_get(text: &str) -> (Invocation, Vec<String>) {
    let dash = if text.starts_with('-') { "./" } else { "" };
    let exact =
        ["--config=/c".to_owned(), "--stanza=app".to_owned(), "repo-get".to_owned(), format!("{dash}{text}")];
    (Invocation::on("repo-get", Path::new("/c"), &stanza()).argument(text), exact.to_vec())
}

proptest! {
    #[test]
    fn a_text_is_one_argument_in_its_place(text in hostile()) {
        for (invocation, exact) in [backup(&text), restore(&text), repo_get(&text)] {
            prop_assert_eq!(invocation.argv(), exact);
        }
    }
}

/// A program that writes down the arguments it got, each ended by a NUL.
fn witness(dir: &Path) -> Pgbackrest {
    let binary = dir.join("pgbackrest");
    let script = format!("#!/bin/sh\nprintf '%s\\0' \"$@\" > '{}'\n", dir.join("argv").display());
    std::fs::write(&binary, script).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    Pgbackrest { binary, data_directory: None }
}

#[tokio::test]
async fn a_process_gets_exactly_these_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let program = witness(dir.path());
    let (argv, log) = (dir.path().join("argv"), dir.path().join("log"));
    // All of them in one call, so that there are few processes; without NULs, which no argument can hold.
    let texts: Vec<&str> = HOSTILE.iter().copied().filter(|text| !text.contains('\0')).collect();
    let mut invocation = Invocation::new("backup");
    for text in &texts {
        invocation = invocation.option("annotation", &format!("x={text}")).argument(text);
    }
    let exact: Vec<u8> =
        invocation.argv().iter().flat_map(|text| [text.as_bytes(), b"\0"].concat()).collect();
    for way in 0..3 {
        let _ = std::fs::remove_file(&argv);
        match way {
            0 => drop(program.run_checked(&invocation, Duration::from_secs(20)).await.unwrap()),
            1 => drop(program.spawn_logged(&invocation, &log, 0, None).await.unwrap().wait().await.unwrap()),
            _ => drop(program.spawn_logged(&invocation, &log, 5, None).await.unwrap().wait().await.unwrap()),
        }
        assert_eq!(std::fs::read(&argv).unwrap(), exact, "way {way}");
    }
    assert!(!dir.path().join("pwned").exists() && !Path::new("pwned").exists());
}

#[tokio::test]
async fn a_nul_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let program = witness(dir.path());
    for text in HOSTILE.iter().filter(|text| text.contains('\0')) {
        let invocation = Invocation::new("backup").option("annotation", text);
        assert!(program.run_checked(&invocation, Duration::from_secs(20)).await.is_err());
    }
    assert!(!dir.path().join("argv").exists());
}
