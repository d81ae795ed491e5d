//! What a database sets for its sessions, and what its names are, keeps no session of ours out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use cellar_tests::{Cluster, eventually, kill_hard, run};

/// A standby refuses every query of a serializable transaction, and whoever does not ask for another gets one.
#[test]
fn standby_is_seen_and_backed_up_where_transactions_are_serializable() {
    let cluster = Cluster::up("zone1,zone2");
    for cell in ["zone1", "zone2"] {
        cluster.sql(cell, "ALTER SYSTEM SET default_transaction_isolation = 'serializable'");
        cluster.sql(cell, "ALTER SYSTEM SET default_transaction_deferrable = on");
    }
    for cell in ["zone1", "zone2"] {
        cluster.sql(cell, "SELECT pg_reload_conf()");
    }
    cluster.sql("zone1", "ALTER ROLE ALL SET default_transaction_isolation = 'serializable'");
    eventually("the standby to refuse queries", || {
        cluster.try_sql("zone2", "SELECT 1").stderr.contains("serializable mode in a hot standby")
    });
    // A new process has no session from before.
    kill_hard(cluster.pid("zone2/pid/multipooler.pid"));
    cluster.cellar(&["up"]);
    eventually("the standby to be seen streaming", || {
        cluster.status("zone2").is_some_and(|status| status.streams_from.as_deref() == Some("zone1"))
    });
    let job = cluster.backup("zone2", "full");
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");
    let job = cluster.json(&["drill", "--on", "zone2", "--max-rate", "0", "--check", "SELECT true"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
}

/// Names of databases are in the encoding of the database from which they were given.
#[test]
fn database_whose_name_is_not_utf_8_is_backed_up_and_drilled() {
    let cluster = Cluster::up("zone1,zone2");
    let encoding = "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    cluster.sql("zone1", &format!("CREATE DATABASE latin {encoding}"));
    // psql takes a name behind that of the database for the role.
    let mut create = cluster.tool("psql", "zone1", &["-XAtq", "-d", "latin"]);
    create.arg("-c").arg(OsStr::from_bytes(b"CREATE DATABASE \"caf\xe9\" TEMPLATE template0"));
    let _ = run(&mut create).ok();
    let pooler = cluster.pid("zone2/pid/multipooler.pid");
    let job = cluster.backup("zone2", "full");
    assert_eq!(job["result"]["backup"]["source"]["verified"], true, "{job:#}");

    let job = cluster.json(&["drill", "--on", "zone2", "--max-rate", "0"]);
    assert_eq!(job["state"], "JOB_STATE_SUCCEEDED", "{job:#}");
    let checks = job["result"]["drill"]["checks"].as_array().expect("checks");
    let amcheck = checks.iter().find(|check| check["name"] == "pg_amcheck").expect("the check");
    assert!(amcheck["detail"].as_str().is_some_and(|detail| detail.ends_with(": caf\u{fffd}")), "{job:#}");
    assert_eq!(cluster.pid("zone2/pid/multipooler.pid"), pooler, "the multipooler has gone on");
}
