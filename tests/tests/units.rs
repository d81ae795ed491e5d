//! The systemd units: what `systemd-analyze` says of them, and that the pages say the same.

#![expect(clippy::expect_used, reason = "a test ends where it must not go on")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The highest exposure that a unit may have, in tenths. Where the scores of one version of systemd are on the page, they
/// are exact.
const MAX_EXPOSURE_TENTHS: &str = "20";

/// The version of systemd whose scores are on the page.
const VERSION: &str = "systemd 252";

/// The services that run a program.
const SERVICES: [&str; 3] = ["etcd", "multiadmin", "multipooler"];

/// The service that runs one when it is stopped.
const HANDOVER: &str = "handover";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze runs: install the Debian package systemd")
}

/// A root directory with the units, those of systemd that they name, and the program that they run.
fn root_with(change: impl Fn(&str, String) -> String) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a directory");
    let (units, programs) = (root.path().join("usr/lib/systemd/system"), root.path().join("usr/bin"));
    std::fs::create_dir_all(&units).expect("a directory");
    std::fs::create_dir_all(&programs).expect("a directory");
    for unit in ["shutdown", "sysinit", "basic", "network-online", "multi-user"] {
        let text = format!("[Unit]\nDescription={unit}\nDefaultDependencies=no\n");
        std::fs::write(units.join(format!("{unit}.target")), text).expect("a unit");
    }
    for (name, text) in ours() {
        std::fs::write(units.join(&name), change(&name, text)).expect("a unit");
    }
    // Any program does: it is looked for, not run.
    for program in ["cellar", "true"] {
        std::fs::copy("/bin/true", programs.join(program)).expect("a program");
    }
    root
}

/// Our units with their text.
fn ours() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(repository().join("packaging/systemd")).expect("the units");
    let units: Vec<(String, String)> = entries
        .flatten()
        .map(|entry| {
            let text = std::fs::read_to_string(entry.path()).expect("a unit");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect();
    assert_eq!(units.len(), SERVICES.len() + 2, "{units:?}");
    units
}

/// The name of a unit's instance, as `systemd-analyze` wants it.
fn instance(name: &str) -> String {
    name.replace('@', "@demo")
}

fn verify(root: &Path) -> String {
    let root = format!("--root={}", root.display());
    let names: Vec<String> = ours().iter().map(|(name, _)| instance(name)).collect();
    let mut arguments = vec!["verify", "--man=no", "--recursive-errors=yes", &root];
    arguments.extend(names.iter().map(String::as_str));
    let output = analyze(&arguments);
    // What it only warns of is no error to it, and would be ignored by systemd.
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        if output.status.success() { "" } else { "failed" }
    )
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    assert_eq!(verify(root_with(|_, text| text).path()), "");
    // That it would.
    let wrong = verify(root_with(|_, text| text.replace("OOMPolicy=", "OOMPolcy=")).path());
    assert!(wrong.contains("OOMPolcy"), "{wrong}");
}

/// The exposure of a service, such as `1.9`.
fn exposure(root: &Path, service: &str) -> String {
    let root = format!("--root={}", root.display());
    let threshold = format!("--threshold={MAX_EXPOSURE_TENTHS}");
    let unit = format!("cellar-{service}@demo.service");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold, &root, &unit]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.contains("Overall exposure level")).expect("a score").to_owned();
    assert!(output.status.success(), "more than {MAX_EXPOSURE_TENTHS} tenths: {line}");
    let score = line.rsplit_once(": ").and_then(|(_, rest)| rest.split(' ').next());
    score.expect("a number").to_owned()
}

#[test]
fn units_are_as_hardened_as_the_page_says() {
    let page = repository().join("docs/reference/packages.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let version = String::from_utf8_lossy(&analyze(&["--version"]).stdout).into_owned();
    let root = root_with(|_, text| text);
    for service in SERVICES.into_iter().chain([HANDOVER]) {
        let score = exposure(root.path(), service);
        let row = format!("| `cellar-{service}@.service` | {score} |");
        assert!(!version.starts_with(VERSION) || page.contains(&row), "not on the page: {row}");
    }
    assert!(page.contains(VERSION), "the page says of which systemd the scores are");
}

#[test]
fn primaries_move_before_anything_of_the_host_is_stopped() {
    let units = ours();
    let (_, text) = units.iter().find(|(name, _)| name.starts_with("cellar-handover@")).expect("the unit");
    let after: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("After=")).collect();
    for service in SERVICES {
        // What is started after something is stopped before it.
        assert!(after.join(" ").contains(&format!("cellar-{service}@%i.service")), "{after:?}");
    }
    assert!(text.contains("\nExecStop=-/usr/bin/cellar host handover --dir /var/lib/cellar/%i\n"));
    assert!(!text.contains("PartOf="), "stopping the target leaves PostgreSQL alone");
}

#[test]
fn stopping_the_agent_leaves_postgresql_alone() {
    for (name, text) in ours() {
        let has = |line: &str| text.lines().any(|each| each == line);
        match name.as_str() {
            "cellar-multipooler@.service" => {
                for line in ["KillMode=process", "OOMPolicy=continue", "RemoveIPC=no", "TasksMax=infinity"] {
                    assert!(has(line), "{name} has no {line}");
                }
                for line in ["PrivateTmp=yes", "PrivateIPC=yes"] {
                    assert!(!has(line), "{name}: {line} would end with the agent");
                }
            }
            _ => assert!(!text.contains("KillMode="), "{name}"),
        }
    }
}

/// The directory in which a program is run by the units is that of `cellar host install`.
#[test]
fn each_service_runs_its_program_in_the_clusters_directory() {
    for service in SERVICES {
        let path: PathBuf = repository().join(format!("packaging/systemd/cellar-{service}@.service"));
        let text = std::fs::read_to_string(&path).expect("a unit");
        let line = format!("ExecStart=/usr/bin/cellar host exec --dir /var/lib/cellar/%i {service}");
        assert!(text.lines().any(|each| each == line), "{}", path.display());
    }
}
