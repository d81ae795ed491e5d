//! Several databases on the hosts of one cluster, with members in different cells.

use std::path::{Path, PathBuf};

use cellar_tests::{Finished, HostsCluster, eventually, postgres_user, run};
use serde_json::Value;

/// How long a member that joins again may take to stream, on a busy machine.
const WAIT: [&str; 4] = ["cluster", "wait", "--timeout", "240s"];

/// `app` in the first two cells, and `sales` in the last two: specified, and nothing issued.
fn specified() -> Option<HostsCluster> {
    let cluster = HostsCluster::specified(3)?;
    let text = std::fs::read_to_string(cluster.specification()).unwrap();
    let databases = "[database]\nname = \"app\"\ncells = [\"zone1\", \"zone2\"]\n[[databases]]\nname = \"sales\"\n\
                     cells = [\"zone2\", \"zone3\"]\nretention_full = 3\n";
    let text = text.replacen("[database]\nname = \"app\"\n", databases, 1);
    std::fs::write(cluster.specification(), text).unwrap();
    Some(cluster)
}

fn well() -> Option<HostsCluster> {
    let cluster = specified()?;
    let _ = cluster.init().ok();
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.cellar(&WAIT).ok();
    Some(cluster)
}

/// A member's directory on a host.
fn member(cluster: &HostsCluster, host: &str, name: &str) -> PathBuf {
    cluster.host_directory(host).join(name)
}

/// SQL in the instance of `sales` in a cell.
#[track_caller]
fn sales(cluster: &HostsCluster, zone: u16, statement: &str) -> Finished {
    let host = format!("db{zone}");
    let sockets = member(cluster, &host, &format!("sales.zone{zone}")).join("pg_sockets");
    let mut command = cluster.hosts.command_as(&host, &postgres_user(), "psql");
    command.arg("-h").arg(sockets).args(["-p", &(25687 + zone).to_string()]);
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statement]);
    run(&mut command)
}

/// A backup of a cell of a database, which is proven to be of that cell's files.
#[track_caller]
fn back_up(cluster: &HostsCluster, database: &str, cell: &str) {
    let job = cluster.json(&["backup", "--database", database, "--from", cell, "--type", "full"]);
    let source = &job["result"]["backup"]["source"];
    assert_eq!((source["cell"].as_str(), source["verified"].as_bool()), (Some(cell), Some(true)), "{job}");
    assert_eq!(job["database"], database, "{job}");
}

/// What a server of PostgreSQL says to who presents a member's replication certificate.
#[track_caller]
fn stream(cluster: &HostsCluster, host: &str, port: u16, tls: &Path) -> Finished {
    let file = |name: &str| tls.join(name).display().to_string();
    let target = format!(
        "host={host}.test port={port} user=cellar_replication dbname=postgres replication=true sslmode=verify-ca sslrootcert={} sslcert={} sslkey={}",
        file("ca.crt"),
        file("replication.crt"),
        file("server.key"),
    );
    cluster.hosts.run("operator", &["psql", "-X", "-c", "IDENTIFY_SYSTEM", &target])
}

/// What etcd says to a member's pooler about a key or, with a slash at the end, all below it.
#[track_caller]
fn read(cluster: &HostsCluster, tls: &Path, key: &str) -> Finished {
    let files = ["ca.crt", "pooler.crt", "server.key"].map(|name| tls.join(name));
    let key = format!("/cellar/demo/{key}");
    let mut question = vec!["--dial-timeout=5s", "--command-timeout=5s", "get", "--keys-only"];
    question.extend(key.ends_with('/').then_some("--prefix"));
    question.push(&key);
    cluster.etcdctl_as(files, &["db1", "db2", "db3"], &question)
}

/// The lines of `cellar host status` of programs of a kind.
#[track_caller]
fn lines(cluster: &HostsCluster, host: &str, kind: &str) -> Vec<String> {
    let status = cluster.on(host, &["status"]).stdout;
    status.lines().filter(|line| line.starts_with(kind)).map(str::to_owned).collect()
}

/// What multiadmin says of a database, if one answers.
fn database(cluster: &HostsCluster, name: &str) -> Option<Value> {
    let answer = cluster.cellar(&["databases", "list", "--output", "json"]).stdout;
    let list: Value = serde_json::from_str(&answer).ok()?;
    list["databases"].as_array()?.iter().find(|view| view["database"]["name"] == name).cloned()
}

#[track_caller]
fn cells_of(cluster: &HostsCluster, name: &str) -> Value {
    database(cluster, name).unwrap()["cells"].clone()
}

fn primary_of_sales_is(cluster: &HostsCluster, cell: &str) -> bool {
    database(cluster, "sales").is_some_and(|view| view["leader"]["cell"] == cell)
}

/// What the pooler of a member of `sales` reports, if it does.
fn status_of_sales(cluster: &HostsCluster, cell: &str) -> Option<Value> {
    let answer = cluster.cellar(&["status", "--database", "sales", "--output", "json"]).stdout;
    let answer: Value = serde_json::from_str(&answer).ok()?;
    let is_wanted = |view: &&Value| view["pooler"]["cell"] == cell && view["pooler"]["database"] == "sales";
    let view = answer["poolers"].as_array()?.iter().find(is_wanted)?;
    view.get("status").filter(|status| !status.is_null()).cloned()
}

/// Ends etcd alone on a host whose majority is lost, as `host install` asks for.
#[track_caller]
fn end_etcd(cluster: &HostsCluster, host: &str) {
    let etcd = lines(cluster, host, "etcd").concat();
    let _ = cluster.hosts.run(host, &["kill", etcd.split_whitespace().last().unwrap()]).ok();
    eventually(&format!("etcd on {host} to end"), || {
        lines(cluster, host, "etcd").concat().contains("does not run")
    });
}

/// Ends everything on two hosts, and loses etcd's data there and with it its majority.
#[track_caller]
fn lose_etcd(cluster: &HostsCluster, hosts: [&str; 2]) {
    for host in hosts {
        cluster.hosts.kill_all(host);
        std::fs::remove_dir_all(cluster.host_directory(host).join("etcd/data")).unwrap();
    }
    eventually("etcd to be lost", || {
        let answer = cluster.cellar(&["etcd", "status", "--output", "json"]).stdout;
        serde_json::from_str::<Value>(&answer).is_ok_and(|answer| answer["state"] == "lost")
    });
}

/// Installs a host's bundle with the snapshot that etcd begins with.
#[track_caller]
fn install_with(cluster: &HostsCluster, host: &str, snapshot: &str) {
    let bundle = cluster.bundle(host).display().to_string();
    let install = ["cellar", "host", "install", &bundle, "--etcd-snapshot", snapshot];
    let _ = cluster.hosts.run(host, &install).ok();
}

/// A key of one database's member opens nothing of the other's.
fn assert_apart(cluster: &HostsCluster) {
    let (app, sales) = (member(cluster, "db2", "zone2/tls"), member(cluster, "db2", "sales.zone2/tls"));
    for (own, other, name, other_name) in [(&app, &sales, "app", "sales"), (&sales, &app, "sales", "app")] {
        for kind in ["databases", "leaders", "locks", "incarnations"] {
            let _ = read(cluster, own, &format!("{kind}/{name}")).ok();
            let refused = read(cluster, other, &format!("{kind}/{name}"));
            assert!(refused.stderr.contains("permission denied"), "{kind}/{name}: {refused:?}");
            let all = read(cluster, own, &format!("{kind}/"));
            assert!(all.stderr.contains("permission denied"), "{kind}/: {all:?}");
        }
        for kind in ["status", "jobs", "poolers"] {
            assert!(read(cluster, own, &format!("{kind}/{name}/")).ok().contains(name) || kind == "jobs");
            let refused = read(cluster, own, &format!("{kind}/{other_name}/"));
            assert!(refused.stderr.contains("permission denied"), "{kind}/{other_name}/: {refused:?}");
        }
    }
    let (app_port, sales_port) = (25433, 25689);
    let _ = stream(cluster, "db2", app_port, &app).ok();
    let _ = stream(cluster, "db2", sales_port, &sales).ok();
    for (port, tls) in [(app_port, &sales), (sales_port, &app)] {
        let refused = stream(cluster, "db2", port, tls);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.stderr.contains("certificate authentication failed"), "{refused:?}");
    }
}

#[test]
fn two_databases_have_members_backups_and_keys_of_their_own() {
    let Some(cluster) = specified() else { return };
    let _ = cluster.init().ok();
    for (host, poolers) in [("db1", 1), ("db2", 2), ("db3", 1)] {
        let _ = cluster.install(host).ok();
        assert_eq!(lines(&cluster, host, "multipooler").len(), poolers, "{host}");
        let _ = cluster.on(host, &["start"]).ok();
    }
    let waited = cluster.cellar(&WAIT);
    for said in [
        "database app: the repository holds a full backup",
        "database sales: the repository holds a full backup",
        "zone1 is the primary of database app, zone2 is the primary of database sales",
    ] {
        assert!(waited.stderr.contains(said), "{said}: {waited:?}");
    }
    let _ = waited.ok();
    assert_eq!(cells_of(&cluster, "app"), serde_json::json!(["zone1", "zone2"]));
    assert_eq!(cells_of(&cluster, "sales"), serde_json::json!(["zone2", "zone3"]));
    back_up(&cluster, "app", "zone2");
    back_up(&cluster, "sales", "zone3");
    // Without a name none is meant.
    let unnamed = cluster.cellar(&["backup", "--from", "zone2"]).refused(2);
    assert!(unnamed.contains("--database"), "{unnamed}");
    assert_apart(&cluster);

    // Where the logs are, and of which database.
    let on_db2 = |arguments: &[&str]| {
        let directory = cluster.host_directory("db2").display().to_string();
        cluster.hosts.run("db2", &[&["cellar", "--dir", &directory], arguments].concat())
    };
    let unknown = on_db2(&["logs", "zone2", "--database", "web"]).refused(2);
    assert!(unknown.contains("known: app, sales"), "{unknown}");
    let either = on_db2(&["logs", "zone2"]).refused(2);
    assert!(either.contains("app, sales"), "{either}");
    let log = on_db2(&["logs", "zone2", "--of", "multipooler", "--database", "sales"]).ok();
    assert!(log.contains("sales") && !log.contains("zone2/pg_data\"app"), "{log}");

    let config = on_db2(&["config", "show", "zone2", "--database", "sales"]).ok();
    assert!(
        config.contains("sales.zone2/pg_data") && config.contains("tls-server-auth=pgbackrest@sales=sales")
    );
    let either = on_db2(&["config", "show", "zone2"]).refused(2);
    assert!(either.contains("app, sales"), "{either}");

    // A host that is lost takes the database with it whose primary it had, and no other.
    let _ = sales(&cluster, 2, "CREATE TABLE orders (id int)").ok();
    cluster.hosts.kill_all("db1");
    let _ = sales(&cluster, 2, "INSERT INTO orders SELECT generate_series(1, 10)").ok();
    eventually("the standby of sales to have the rows", || {
        sales(&cluster, 3, "SELECT count(*) FROM orders").stdout.trim() == "10"
    });
    eventually("a backup of sales while the primary of app is lost", || {
        let job = cluster.cellar(&["backup", "--database", "sales", "--from", "zone3", "--type", "full"]);
        job.code == 0
    });
    let _ = cluster.on("db1", &["start"]).ok();
    let _ = cluster.cellar(&WAIT).ok();

    // A cell that leaves and comes back has the member again that its database is to have there.
    let _ = cluster.cellar(&["cells", "remove", "zone3"]).ok();
    assert_eq!(cells_of(&cluster, "sales"), serde_json::json!(["zone2"]));
    let _ = cluster.on("db3", &["remove", "--delete-data"]).ok();
    assert!(!member(&cluster, "db3", "sales.zone3").exists());
    let directory = cluster.host_directory("db3").display().to_string();
    let add = ["cells", "add", "zone3", "--host", "db3.test", "--host-directory", &directory];
    let _ = cluster.cellar(&add).ok();
    let _ = cluster.install("db3").ok();
    let _ = cluster.on("db3", &["start"]).ok();
    let _ = cluster.cellar(&WAIT).ok();
    assert_eq!(cells_of(&cluster, "sales"), serde_json::json!(["zone2", "zone3"]));
    back_up(&cluster, "sales", "zone3");
    assert_eq!(lines(&cluster, "db3", "multipooler").len(), 1);
}

#[test]
fn a_database_is_created_while_another_one_runs() {
    let Some(cluster) = HostsCluster::well(2) else { return };
    cluster.create_rows(100);
    let agents = |host: &str| (lines(&cluster, host, "multipooler"), lines(&cluster, host, "PostgreSQL"));
    let before = [agents("db1"), agents("db2")];
    let unknown = cluster.cellar(&["databases", "create", "sales", "--cells", "zone9"]).refused(2);
    assert!(unknown.contains("zone9"), "{unknown}");
    let created = cluster.cellar(&["databases", "create", "sales"]);
    assert!(created.stderr.contains("cellar host install zone2.bundle"), "{created:?}");
    let _ = created.ok();
    // What runs goes on with what it may read since.
    back_up(&cluster, "app", "zone2");
    for host in cluster.database_hosts() {
        let _ = cluster.install(&host).ok();
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.cellar(&WAIT).ok();
    back_up(&cluster, "sales", "zone2");
    back_up(&cluster, "app", "zone2");
    cluster.wait_for_rows("db2", 100);
    for (host, (poolers, instances)) in ["db1", "db2"].into_iter().zip(before) {
        let (after, running) = agents(host);
        let pid = |line: &String| line.split_whitespace().last().unwrap().to_owned();
        let of_app = |lines: &[String]| pid(lines.iter().find(|line| !line.contains("sales")).unwrap());
        assert_eq!((after.len(), running.len()), (2, 2), "{host}");
        assert_eq!(of_app(&after), pid(&poolers[0]), "{host}");
        assert_eq!(of_app(&running), pid(&instances[0]), "{host}");
    }
}

#[test]
fn a_specification_brings_a_database_and_its_cell_to_a_cluster_that_runs() {
    let Some(cluster) = HostsCluster::well_of(2, 3) else { return };
    let text = std::fs::read_to_string(cluster.specification()).unwrap();
    let directory = cluster.host_directory("db3").display().to_string();
    let sales = "[[databases]]\nname = \"sales\"\ncells = [\"zone2\", \"zone3\"]\n[repo]\n";
    let zone3 = format!("[[cells]]\nname = \"zone3\"\nhost = \"db3.test\"\ndirectory = \"{directory}\"\n");
    std::fs::write(cluster.specification(), text.replacen("[repo]\n", sales, 1) + &zone3).unwrap();
    let specification = cluster.specification().display().to_string();
    let apply = ["cluster", "apply", "--spec", &specification];
    let shown = cluster.cellar(&[&apply[..], &["--dry-run"]].concat()).ok();
    assert!(shown.contains("create database sales in zone2, zone3; full backups kept: 7"), "{shown}");
    let applied = cluster.cellar(&[&apply[..], &["--yes"]].concat());
    for bundle in ["zone1.bundle", "zone2.bundle", "zone3.bundle"] {
        assert!(applied.stderr.contains(bundle), "{bundle}: {applied:?}");
    }
    let _ = applied.ok();
    // As far as one comes that is interrupted before the record is written.
    let _ = cluster.etcdctl(&["db1"], &["del", "/cellar/demo/databases/sales"]).ok();
    let shown = cluster.cellar(&[&apply[..], &["--dry-run"]].concat()).ok();
    assert!(shown.starts_with("create database sales") && !shown.contains("add cell"), "{shown}");
    let finished = cluster.cellar(&[&apply[..], &["--yes"]].concat());
    assert!(
        finished.stderr.contains("database sales is in the cluster already: finishing it"),
        "{finished:?}"
    );
    let _ = finished.ok();
    for host in ["db1", "db2", "db3"] {
        let _ = cluster.install(host).ok();
        let _ = cluster.on(host, &["start"]).ok();
    }
    let _ = cluster.cellar(&WAIT).ok();
    assert_eq!(cells_of(&cluster, "app"), serde_json::json!(["zone1", "zone2", "zone3"]));
    assert_eq!(cells_of(&cluster, "sales"), serde_json::json!(["zone2", "zone3"]));
    assert_eq!(lines(&cluster, "db3", "multipooler").len(), 2);
    back_up(&cluster, "sales", "zone3");
    let again = cluster.cellar(&[&apply[..], &["--yes"]].concat()).ok();
    assert!(again.contains("the cluster is as specified"), "{again}");
}

#[test]
fn restore_of_etcd_ends_the_agents_of_all_databases_and_puts_both_back() {
    let Some(cluster) = well() else { return };
    let file = cluster.hosts.directory("operator").join("etcd.db").display().to_string();
    let _ = cluster.cellar(&["etcd", "snapshot", &file]).ok();
    let _ = sales(&cluster, 2, "CREATE TABLE orders (id int)").ok();
    let started = sales(&cluster, 2, "SELECT pg_postmaster_start_time()").ok();
    lose_etcd(&cluster, ["db1", "db3"]);
    let prepared = cluster.json(&["etcd", "restore", "--yes", &file]);
    let snapshot = prepared["snapshot"].as_str().unwrap();
    end_etcd(&cluster, "db2");
    assert!(lines(&cluster, "db2", "multipooler").iter().all(|line| !line.contains("does not run")));
    for host in cluster.database_hosts() {
        install_with(&cluster, &host, snapshot);
        let poolers = lines(&cluster, &host, "multipooler");
        assert!(poolers.iter().all(|line| line.contains("does not run")), "{host}: {poolers:?}");
        let _ = cluster.on(&host, &["start"]).ok();
    }
    let _ = cluster.cellar(&WAIT).ok();
    assert_eq!(sales(&cluster, 2, "SELECT pg_postmaster_start_time()").ok(), started);
    back_up(&cluster, "app", "zone2");
    back_up(&cluster, "sales", "zone3");
}

/// The snapshot says of a further database that a cell is its primary that has been replaced since.
#[test]
fn replaced_primary_of_a_further_database_is_not_started_when_etcd_is_put_back() {
    let Some(cluster) = well() else { return };
    let file = cluster.hosts.directory("operator").join("etcd.db").display().to_string();
    let _ = cluster.cellar(&["etcd", "snapshot", &file]).ok();
    assert!(primary_of_sales_is(&cluster, "zone2"), "{:?}", database(&cluster, "sales"));
    let _ = sales(&cluster, 2, "CREATE TABLE orders AS SELECT 1 AS id").ok();
    eventually("the standby of sales to have the table", || {
        sales(&cluster, 3, "SELECT count(*) FROM orders").stdout.trim() == "1"
    });
    cluster.hosts.kill_all("db2");
    let _ = sales(&cluster, 3, "SELECT pg_promote()").ok();
    eventually("zone3 to be recorded as primary of sales", || primary_of_sales_is(&cluster, "zone3"));
    let history = cluster.repo().join("archive/sales");
    eventually("the promotion to be archived", || {
        let entries = std::fs::read_dir(&history).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| entry.path().join("00000002.history").exists())
    });
    lose_etcd(&cluster, ["db1", "db2"]);
    let prepared = cluster.json(&["etcd", "restore", "--yes", &file]);
    let snapshot = prepared["snapshot"].as_str().unwrap();
    end_etcd(&cluster, "db3");

    // It ends the multipoolers. Two hosts are a majority of etcd: the present primary goes on and cannot record itself yet.
    for host in ["db3", "db1", "db2"] {
        install_with(&cluster, host, snapshot);
    }
    for host in ["db1", "db2"] {
        let _ = cluster.on(host, &["start"]).ok();
    }
    let message = || {
        let status = status_of_sales(&cluster, "zone2").unwrap_or_default();
        status["message"].as_str().unwrap_or_default().to_owned()
    };
    eventually("zone2 to say why sales is not started there", || {
        message().contains("another cell was promoted to timeline 2")
    });
    assert!(message().contains("make a second primary"), "{}", message());
    assert_ne!(sales(&cluster, 2, "SELECT 1").code, 0, "the old primary runs");
    assert!(database(&cluster, "sales").is_some_and(|view| view["leader"].is_null()));
    let _ = cluster.on("db3", &["start"]).ok();
    eventually("zone3 to be recorded as primary of sales again", || primary_of_sales_is(&cluster, "zone3"));
    let _ = sales(&cluster, 3, "INSERT INTO orders VALUES (2)").ok();
    let _ = cluster.cellar(&["rebuild", "zone2", "--database", "sales"]).ok();
    eventually("zone2 to have both rows of sales", || {
        sales(&cluster, 2, "SELECT count(*) FROM orders").stdout.trim() == "2"
    });
    // The other database, whose primary was not replaced, is as it was.
    let _ = cluster.cellar(&WAIT).ok();
    assert!(database(&cluster, "app").is_some_and(|view| view["leader"]["cell"] == "zone1"));
}
