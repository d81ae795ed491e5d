//! A support bundle: what is in it, and that no secret of the cluster is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use cellar_tests::{Cluster, as_user, bin_dir, ordinary_user, postgres_user, run, wait_for};
use serde_json::Value;
use tempfile::TempDir;

/// How long a bundle may take with everything down.
const TIMEOUT: Duration = Duration::from_secs(90);

/// What must not be in a bundle, each with a file of the cluster that has it.
struct Needles(Vec<(String, PathBuf)>);

impl Needles {
    /// Each is really where it was put: a needle that is nowhere would be in no bundle either.
    fn check(&self) {
        for (needle, file) in &self.0 {
            let bytes = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            assert!(
                String::from_utf8_lossy(&bytes).contains(needle),
                "{needle} is not in {}",
                file.display()
            );
        }
    }

    fn assert_absent(&self, files: &BTreeMap<String, String>) {
        for (path, text) in files {
            for (needle, file) in &self.0 {
                assert!(
                    !text.contains(needle) && !path.contains(needle),
                    "{path} shows {needle} of {}",
                    file.display()
                );
            }
        }
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// The lines of every private key of the cluster that no accident makes.
fn key_lines(directory: &Path) -> Vec<(String, PathBuf)> {
    let keys =
        files_below(directory).into_iter().filter(|path| path.extension().is_some_and(|end| end == "key"));
    let lines = keys.flat_map(|path| {
        let text = fs::read_to_string(&path).expect("a key");
        let lines: Vec<String> = text
            .lines()
            .filter(|line| !line.starts_with('-') && line.len() >= 16)
            .map(str::to_owned)
            .collect();
        lines.into_iter().map(move |line| (line, path.clone()))
    });
    lines.collect()
}

/// A bundle's files by their paths below its one directory.
fn unpacked(bundle: &Path) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let _ = run(Command::new("tar").arg("-xzf").arg(bundle).arg("-C").arg(directory.path())).ok();
    let tops: Vec<PathBuf> =
        fs::read_dir(directory.path()).expect("it").flatten().map(|entry| entry.path()).collect();
    let [top] = &tops[..] else { panic!("{tops:?}") };
    let files = files_below(top).into_iter().map(|path| {
        let name = path.strip_prefix(top).expect("below it").display().to_string();
        (name, String::from_utf8_lossy(&fs::read(&path).expect("a file")).into_owned())
    });
    files.collect()
}

/// Makes a bundle and unpacks it; what the command said besides.
fn bundle(cluster: &Cluster, place: &TempDir, name: &str) -> (BTreeMap<String, String>, String) {
    let out = place.path().join(name);
    let begun = Instant::now();
    let said = cluster.cellar(&["support-bundle", "--out", &out.display().to_string()]);
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    let mode = fs::metadata(&out).expect("the bundle").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    (unpacked(&out), said)
}

fn appended(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("the file");
    std::io::Write::write_all(&mut file, text.as_bytes()).expect("the file");
}

/// A cluster that is full of secrets.
fn with_secrets(place: &TempDir) -> (Cluster, Needles) {
    let passphrase = "needle-of-the-repository ;#=[x]\"' Jw4kQz";
    let file = place.path().join("pass");
    let mut options = fs::OpenOptions::new();
    let mut pass = options.write(true).create_new(true).mode(0o600).open(&file).expect("a file");
    std::io::Write::write_all(&mut pass, format!("{passphrase}\n").as_bytes()).expect("a file");
    let cluster = Cluster::new();
    let pass = file.display().to_string();
    let up = ["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--repo-cipher-pass-file", &pass];
    let _ = cluster.try_cellar(&up).ok();

    cluster.sql("zone1", "ALTER SYSTEM SET log_statement = 'all'");
    cluster.sql("zone1", "SELECT pg_reload_conf()");
    wait_for("statements to be logged", Duration::from_secs(20), || {
        (cluster.sql("zone1", "SHOW log_statement") == "all").then_some(())
    });
    cluster.sql("zone1", "CREATE ROLE bob PASSWORD 'needle-in-one-line-Jw4kQz'");
    cluster.sql("zone1", "ALTER ROLE bob\nPASSWORD\n'needle-in-lines-Jw4kQz'");
    let _ = cluster.try_sql("zone1", "ALTER ROLE bob PASSWORD needle_without_quotes_Jw4kQz");
    cluster.sql("zone1", "SELECT 'needle-as-a-value-Jw4kQz'");
    let _ = cluster.try_sql("zone1", "SELECT 'needle-no-number-Jw4kQz'::int");
    let verifier = cluster.sql("zone1", "SELECT rolpassword FROM pg_authid WHERE rolname = 'bob'");
    cluster.sql("zone1", &format!("ALTER ROLE bob PASSWORD '{verifier}'"));
    let drill =
        ["drill", "--on", "zone2", "--skip-amcheck", "--check", "SELECT 'needle-of-a-check-Jw4kQz' <> ''"];
    let fails = ["--check", "SELECT 'needle-of-a-failed-check-Jw4kQz'::int > 0"];
    let _ = cluster.try_cellar(&[&drill[..], &fails].concat()).refused(1);

    let directory = cluster.directory();
    let (log, settings) =
        (directory.join("zone1/log/postgres.log"), directory.join("zone1/pg_data/postgresql.conf"));
    appended(&settings, "my_app.api_key = 'needle-of-a-setting-Jw4kQz' # needle-of-a-remark-Jw4kQz\n");
    let rules = directory.join("zone1/pg_data/pg_ident.conf");
    appended(&rules, "# needle-of-a-rule-Jw4kQz\n");
    // What another version of a daemon might write.
    let daemon = directory.join("zone1/log/multipooler.log");
    appended(&daemon, "2026-03-01T10:15:00Z  INFO x: env=[\"PGPASSWORD=needle-of-a-daemon-Jw4kQz\"]\n");
    appended(&daemon, &format!("2026-03-01T10:15:00Z  INFO x: {passphrase} and needle-in-lines-Jw4kQz\n"));

    let mut needles = vec![
        ("needle-of-the-repository".to_owned(), directory.join("state/secrets/repo-cipher-pass")),
        ("needle-of-the-repository".to_owned(), directory.join("zone1/pgbackrest.conf")),
        ("needle-of-the-repository".to_owned(), directory.join("zone1/jobs/bootstrap.conf")),
        (verifier, log.clone()),
    ];
    for needle in ["in-one-line", "in-lines", "as-a-value", "no-number"] {
        needles.push((format!("needle-{needle}-Jw4kQz"), log.clone()));
    }
    needles.push(("needle_without_quotes_Jw4kQz".to_owned(), log));
    for (needle, file) in
        [("a-setting", &settings), ("a-remark", &settings), ("a-rule", &rules), ("a-daemon", &daemon)]
    {
        needles.push((format!("needle-of-{needle}-Jw4kQz"), file.clone()));
    }
    let keys = key_lines(directory);
    assert!(keys.len() >= 8, "{keys:?}");
    needles.extend(keys);
    (cluster, Needles(needles))
}

#[test]
fn bundle_shows_a_cluster_and_none_of_its_secrets_also_when_all_is_down() {
    let place = tempfile::tempdir().expect("a directory");
    let (cluster, needles) = with_secrets(&place);
    needles.check();
    // Those that are in no file.
    let jobs = cluster.json(&["jobs", "list"]).to_string();
    for needle in ["needle-of-a-check-Jw4kQz", "needle-of-a-failed-check-Jw4kQz"] {
        assert!(jobs.contains(needle), "{jobs}");
    }

    let (files, said) = bundle(&cluster, &place, "running.tar.gz");
    needles.assert_absent(&files);
    for (name, text) in &files {
        let line = text.lines().find(|line| line.contains("Jw4kQz"));
        assert_eq!(line, None, "{name}");
    }
    for name in [
        "README.txt",
        "left-out.txt",
        "files.txt",
        "certificates.json",
        "state/cluster.json",
        "log/multiadmin.log",
        "log/etcd.log",
        "log/audit.log",
        "zone1/pgbackrest.conf",
        "zone1/jobs/bootstrap.conf",
        "zone1/pg_data/postgresql.conf",
        "zone1/pg_data/cellar.conf",
        "zone1/pg_data/pg_hba.conf",
        "zone1/log/postgres.log",
        "zone2/log/multipooler.log",
        "commands/status.json",
        "commands/doctor.json",
        "commands/jobs.json",
        "commands/backups.json",
        "commands/schedules.json",
        "commands/audit.json",
        "commands/cells.json",
        "commands/databases.json",
        "system/version-cellar.txt",
        "system/version-etcd.txt",
        "system/version-pgbackrest.txt",
        "system/version-kernel.txt",
        "system/os-release.txt",
        "system/memory.txt",
        "system/disks.txt",
    ] {
        assert!(
            files.get(name).is_some_and(|text| name == "left-out.txt" || !text.trim().is_empty()),
            "{name}: {files:#?}"
        );
    }
    assert!(files.keys().any(|name| name.starts_with("system/version-postgres-")), "{:?}", files.keys());
    assert!(
        files.keys().any(|name| name.starts_with("zone1/jobs/") && name.ends_with(".log")),
        "{:?}",
        files.keys()
    );
    // It helps all the same.
    for (name, part) in [
        ("zone1/log/postgres.log", "LOG:  statement: ALTER ROLE [removed]"),
        ("zone1/log/postgres.log", "database system is ready to accept connections"),
        ("zone1/pgbackrest.conf", "repo1-cipher-pass=[removed]"),
        ("zone1/pgbackrest.conf", "repo1-cipher-type=aes-256-cbc"),
        ("zone1/pg_data/postgresql.auto.conf", "log_statement = 'all'"),
        ("files.txt", " state/secrets/repo-cipher-pass\n"),
        ("files.txt", "-0600 "),
        ("certificates.json", "zone1/tls/server.crt"),
        ("system/os-release.txt", "VERSION"),
    ] {
        assert!(files[name].contains(part), "{part:?} is not in {name}:\n{}", files[name]);
    }
    let status: Value = serde_json::from_str(&files["commands/status.json"]).expect("JSON");
    assert_eq!(status["poolers"].as_array().map(Vec::len), Some(2), "{status:#}");
    assert!(said.contains("Look through it") && said.contains("left out:"), "{said}");
    // A file that is there is not written over.
    let taken = place.path().join("pass").display().to_string();
    let refused = cluster.try_cellar(&["support-bundle", "--out", &taken]).refused(2);
    assert!(refused.contains("is there already"), "{refused}");

    as_somebody_else(&cluster, &needles);

    // Nothing runs, and the state cannot be read.
    cluster.kill_everything();
    let state = cluster.directory().join("state/cluster.json");
    let content = fs::read(&state).expect("the state");
    fs::write(&state, "{\"version\":").expect("the state");
    let (files, _) = bundle(&cluster, &place, "down.tar.gz");
    fs::write(&state, content).expect("the state");
    needles.assert_absent(&files);
    let down = &files["commands/status.stderr.txt"];
    assert!(down.contains("exit status: 4") && down.contains("hint: "), "{down}");
    assert!(files["commands/doctor.stderr.txt"].contains("cluster.json"), "{files:#?}");
    for name in [
        "zone1/log/postgres.log",
        "zone2/log/multipooler.log",
        "log/etcd.log",
        "files.txt",
        "system/disks.txt",
    ] {
        assert!(!files[name].is_empty(), "{name}");
    }
}

/// Somebody without rights gets what they may see, and is told what is missing.
fn as_somebody_else(cluster: &Cluster, needles: &Needles) {
    let user = ordinary_user();
    if user.uid == postgres_user().uid {
        // Run by an ordinary user, there is no other one.
        return;
    }
    // Where that user may read and write.
    let place = tempfile::Builder::new().prefix("cellar-bundle-").tempdir_in("/tmp").expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("ours");
    let cellar = place.path().join("cellar");
    // By a process of its own: a file that this one has open for writing may be so in a child that another test starts.
    let _ = run(std::process::Command::new("cp").arg(bin_dir().join("cellar")).arg(&cellar)).ok();
    let out = place.path().join("out.tar.gz");
    let mut command = as_user(&user, &cellar);
    command
        .args(["support-bundle", "--output", "json", "--out"])
        .arg(&out)
        .env("CELLAR_DIR", cluster.directory());
    let answer = run(&mut command).ok();
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let left_out = answer["leftOut"].as_array().expect("what is left out");
    for what in ["log", "zone1/log", "zone1/pgbackrest.conf"] {
        let found = left_out.iter().find(|left| left["what"] == what);
        let why = found.and_then(|left| left["why"].as_str()).unwrap_or_else(|| panic!("{what}: {answer:#}"));
        assert!(why.contains("denied") && why.contains("run this as root"), "{why}");
    }
    let files = unpacked(&out);
    needles.assert_absent(&files);
    assert!(files.contains_key("system/memory.txt") && files["left-out.txt"].contains("zone1/log: "));
}
