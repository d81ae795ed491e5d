//! Who may what on a running cluster, with certificates as an administrator gives them out.

use cellar_tests::Cluster;

/// `cellar ARGS` as somebody with the certificate in `directory`.
pub(crate) fn as_client(
    cluster: &Cluster,
    directory: &std::path::Path,
    arguments: &[&str],
) -> cellar_tests::Finished {
    let endpoint = std::fs::read_to_string(directory.join("endpoint")).expect("an endpoint");
    let client = directory.display().to_string();
    let all = [arguments, &["--admin", endpoint.trim(), "--client-dir", &client]].concat();
    cluster.try_cellar(&all)
}

/// A certificate as an administrator gives it out: its directory.
pub(crate) fn issue(cluster: &Cluster, role: &str, name: &str) -> std::path::PathBuf {
    let out = cluster.directory().join(format!("given-{name}"));
    let text = out.display().to_string();
    let said = cluster.cellar(&["certs", "issue", "--role", role, "--name", name, "--out", &text]);
    assert!(said.contains(&format!("spiffe://demo/{role}/{name}")), "{said}");
    out
}

#[test]
fn each_role_may_what_its_certificate_says() {
    let cluster = Cluster::up("zone1,zone2");
    let (viewer, operator) = (issue(&cluster, "viewer", "grafana"), issue(&cluster, "operator", "ci"));
    let listed = as_client(&cluster, &viewer, &["backups", "list", "--output", "json"]).ok();
    assert!(listed.contains("label"), "{listed}");
    let refused = as_client(&cluster, &viewer, &["backup", "--from", "zone2"]).refused(5);
    assert!(refused.contains("role operator"), "{refused}");
    let _ = as_client(&cluster, &operator, &["backup", "--from", "zone2"]).ok();
    let restore = ["restore", "--latest", "--yes", "--no-wait"];
    let refused = as_client(&cluster, &operator, &restore).refused(5);
    assert!(refused.contains("role admin"), "{refused}");
    // Nothing of the cluster's own opens another door: not the key pair of a cell.
    let cell = cluster.directory().join("zone1/tls");
    let borrowed = cluster.directory().join("given-stolen");
    std::fs::create_dir(&borrowed).unwrap();
    for (from, to) in [("ca.crt", "ca.crt"), ("pooler.crt", "client.crt"), ("server.key", "client.key")] {
        std::fs::copy(cell.join(from), borrowed.join(to)).unwrap();
    }
    std::fs::copy(viewer.join("endpoint"), borrowed.join("endpoint")).unwrap();
    let refused = as_client(&cluster, &borrowed, &["jobs", "list"]).refused(5);
    assert!(refused.contains("may not call ListJobs"), "{refused}");
    // Who has what is listed with serial and end.
    let listed = cluster.cellar(&["certs", "list"]);
    assert!(listed.contains("spiffe://demo/pooler/app/zone1") && listed.contains("ca/ca.crt"), "{listed}");
    assert!(listed.contains("spiffe://demo/operator/ci"), "what was given out is not known: {listed}");
    let out = cluster.directory().join("given-root").display().to_string();
    let taken = ["certs", "issue", "--role", "admin", "--name", "provisioner", "--out", &out];
    let refused = cluster.try_cellar(&taken).refused(2);
    assert!(refused.contains("choose another"), "{refused}");
    assert_eq!(cluster.sql("zone1", "SELECT pg_is_in_recovery()"), "f", "nothing was restored");
}
