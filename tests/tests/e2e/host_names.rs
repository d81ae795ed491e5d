//! Where the name `localhost` leads: hosts files as machines have them.

use cellar_tests::{Cluster, Namespace};

/// As Debian's installer writes it.
const DEBIAN: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

const ONLY_IPV6: &str = "::1 localhost\n";

/// Brings a cluster up, backs a standby up, and restores from that.
fn works_in(namespace: &Namespace) {
    let cluster = Cluster::new().inside(namespace);
    let _ = cluster.try_up("zone1,zone2").ok();
    let said = cluster.cellar(&["backup", "--from", "zone2", "--type", "full"]);
    assert!(said.contains("zone2"), "{said}");
    let _ = cluster.cellar(&["doctor"]);
    cluster.cellar(&["cells", "add", "zone3"]);
    cluster.cellar(&["backup", "--from", "zone3"]);
    cluster.cellar(&["restore", "--latest", "--yes"]);
    cluster.cellar(&["certs", "rotate"]);
    cluster.cellar(&["backup", "--from", "zone2"]);
    cluster.cellar(&["down", "--destroy"]);
}

#[test]
fn standby_is_backed_up_with_the_standard_hosts_file() {
    works_in(&Namespace::with_hosts(DEBIAN));
}

#[test]
fn standby_is_backed_up_where_localhost_is_only_ipv6() {
    works_in(&Namespace::with_hosts(ONLY_IPV6));
}

#[test]
fn standby_is_backed_up_where_localhost_has_several_addresses() {
    works_in(&Namespace::with_hosts("127.0.0.3 localhost\n127.0.0.1 localhost\n::1 localhost\n"));
}

#[test]
fn standby_is_backed_up_on_a_machine_without_ipv6_loopback() {
    works_in(&Namespace::without_ipv6_loopback(DEBIAN));
}

#[test]
fn hosts_file_that_cannot_work_is_named_before_anything_starts() {
    for (namespace, what) in [
        (
            Namespace::without_ipv6_loopback(ONLY_IPV6),
            "leads to ::1 first, and this machine does not have that address",
        ),
        (
            Namespace::with_hosts("192.0.2.1 localhost\n"),
            "leads to 192.0.2.1 first, which is not a loopback address",
        ),
        (Namespace::with_hosts("127.0.0.1 other\n"), "leads nowhere"),
    ] {
        let cluster = Cluster::new().inside(&namespace);
        let message = cluster.try_up("zone1,zone2").refused(3);
        assert!(message.contains(what) && message.contains("127.0.0.1 localhost"), "{message}");
        assert!(!cluster.directory().join("ca").exists(), "nothing was written");
    }
}

#[test]
fn hosts_file_that_changes_under_a_running_cluster_is_followed_or_named() {
    let namespace = Namespace::with_hosts("127.0.0.1 localhost\n");
    let cluster = Cluster::new().inside(&namespace);
    let _ = cluster.try_up("zone1,zone2").ok();
    // Servers that listen on 127.0.0.1 are still found, and pgBackRest's server moves to ::1.
    namespace.set_hosts(DEBIAN);
    let config = cluster.directory().join("zone1/pgbackrest.conf");
    cellar_tests::eventually("pgBackRest's server to be told", || {
        std::fs::read_to_string(&config).is_ok_and(|text| text.contains("tls-server-address=::1\n"))
    });
    cellar_tests::eventually("a backup of the standby", || {
        cluster.try_cellar(&["backup", "--from", "zone2"]).code == 0
    });
    namespace.set_hosts(ONLY_IPV6);
    for command in ["doctor", "up"] {
        let said = cluster.try_cellar(&[command]);
        let text = format!("{}{}", said.stdout, said.stderr);
        assert_ne!(said.code, 0, "{text}");
        assert!(text.contains("multiadmin does not listen on ::1"), "{text}");
    }
    // Restarted, everything listens where the name leads now.
    cluster.cellar(&["down"]);
    cluster.cellar(&["up"]);
    cluster.cellar(&["backup", "--from", "zone2"]);
}
