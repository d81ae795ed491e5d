//! The walls between the crates, checked against what cargo says, and those inside each crate, checked
//! against its sources.

#![expect(clippy::expect_used, reason = "a test ends where it must not go on")]

#[path = "layering/modules.rs"]
mod modules;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each of our crates may depend on of ours. One direction: nobody depends on the binaries but the simulation, which runs their code, and `cellar-system`, which
/// depends on nothing of ours, may be used by all.
const ALLOWED: &[(&str, &[&str])] = &[
    ("cellar-system", &[]),
    ("cellar-model", &["cellar-system"]),
    ("cellar-api", &["cellar-system", "cellar-model"]),
    ("cellar-topology", &["cellar-system", "cellar-model"]),
    ("cellar-pgbackrest", &["cellar-system", "cellar-model"]),
    ("cellar-postgres", &["cellar-system", "cellar-model"]),
    ("cellar-tls", &["cellar-system", "cellar-model"]),
    ("cellar-admin", &["cellar-api", "cellar-system", "cellar-model", "cellar-tls", "cellar-topology"]),
    (
        "cellar-pooler",
        &[
            "cellar-api",
            "cellar-system",
            "cellar-model",
            "cellar-pgbackrest",
            "cellar-postgres",
            "cellar-tls",
            "cellar-topology",
        ],
    ),
    (
        "cellar-provisioner",
        &[
            "cellar-api",
            "cellar-system",
            "cellar-model",
            "cellar-pgbackrest",
            "cellar-postgres",
            "cellar-tls",
            "cellar-topology",
        ],
    ),
    ("cellar-cli", &["cellar-api", "cellar-system", "cellar-model", "cellar-provisioner", "cellar-tls"]),
    (
        "cellar-sim",
        &[
            "cellar-admin",
            "cellar-api",
            "cellar-model",
            "cellar-pooler",
            "cellar-postgres",
            "cellar-system",
            "cellar-topology",
        ],
    ),
    // All of it is tests, so outside of them it depends on nothing.
    ("cellar-availability-check", &[]),
    (
        "cellar-tests",
        &[
            "cellar-admin",
            "cellar-api",
            "cellar-system",
            "cellar-model",
            "cellar-pgbackrest",
            "cellar-pooler",
            "cellar-postgres",
            "cellar-tls",
            "cellar-topology",
        ],
    ),
];

/// Libraries that only one crate may know.
const WRAPPED: &[(&str, &str)] = &[
    ("etcd-client", "cellar-topology"),
    ("rcgen", "cellar-tls"),
    ("askama", "cellar-pgbackrest"),
    ("sd-notify", "cellar-system"),
    ("tokio-postgres", "cellar-postgres"),
    ("postgres-protocol", "cellar-postgres"),
];

/// Crates that must not be anywhere: a second crypto provider.
const BANNED: &[&str] = &["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"];

fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(arguments)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

/// For each of our crates what it depends on outside of tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let name = package["name"].as_str().expect("a name").to_owned();
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let names = dependencies
                .iter()
                .filter(|dependency| dependency["kind"].as_str() != Some("dev"))
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
                .collect();
            (name, names)
        })
        .collect()
}

#[test]
fn our_crates_depend_one_way() {
    let dependencies = dependencies();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    for (name, found) in &dependencies {
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} has no place in the layering"));
        for dependency in found.iter().filter(|dependency| dependencies.contains_key(*dependency)) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn each_wrapped_library_has_one_user() {
    for (name, found) in dependencies() {
        for (library, wrapper) in WRAPPED {
            assert!(
                name == *wrapper || !found.contains(*library),
                "{name} must not depend on {library}: {wrapper} wraps it"
            );
        }
    }
}

/// The failover protocol has rules that its checker takes away, to see that it notices. No program may.
#[test]
fn only_the_checker_can_break_the_rules_of_failover() {
    let metadata = metadata(&["--no-deps"]);
    let mut users = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let features = dependency["features"].as_array().expect("features");
            if features.iter().any(|feature| feature == "broken-rules") {
                users.push((package["name"].as_str(), dependency["kind"].as_str()));
            }
        }
        let features = package["features"].as_object().expect("features");
        let enabling = features.values().flat_map(|all| all.as_array().expect("a list"));
        assert!(
            !enabling
                .into_iter()
                .any(|name| name.as_str().is_some_and(|name| name.ends_with("broken-rules")))
        );
    }
    assert_eq!(users, [(Some("cellar-availability-check"), Some("dev"))]);
}

#[test]
fn there_is_one_crypto_provider() {
    let metadata = metadata(&[]);
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        let resolved = metadata["resolve"]["nodes"].as_array().expect("nodes");
        let used = resolved.iter().any(|node| node["id"] == package["id"]);
        assert!(!(used && BANNED.contains(&name)), "{name} is in the build");
    }
}
