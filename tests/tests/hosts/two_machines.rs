//! Two machines with the keys of one cell: the same bundle on both, and an old one that comes back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use cellar_model::LOST_TIMEOUT;
use cellar_tests::{Finished, HostsCluster, eventually, run};

/// The other machine with the bundle of the cell on `db4`: it is `db5`, whose hosts file says that it is `db4`, and which
/// has a directory of its own in the place of that one's.
struct Twin<'a> {
    cluster: &'a HostsCluster,
}

impl<'a> Twin<'a> {
    fn of(cluster: &'a HostsCluster) -> Self {
        let hosts = Path::new("/etc/netns").join(cluster.hosts.namespace("db5")).join("hosts");
        let text = std::fs::read_to_string(&hosts).unwrap();
        let (old, new) = (cluster.hosts.address("db4"), cluster.hosts.address("db5"));
        // Each machine leads its name to itself.
        let lines = text.lines().map(|line| match line.ends_with(" db4") {
            true => line.replace(&old.to_string(), &new.to_string()),
            false => line.to_owned(),
        });
        std::fs::write(&hosts, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        Self { cluster }
    }

    /// `cellar host ARGUMENTS` there.
    #[track_caller]
    fn host(&self, arguments: &[&str]) -> Finished {
        let hosts = &self.cluster.hosts;
        let mut command: Command = hosts.command("db5", "unshare");
        command.args([
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$1\" \"$2\" && cd / && shift 2 && exec \"$@\"",
            "sh",
        ]);
        command.args([hosts.directory("db5"), hosts.directory("db4")]);
        run(command.args(["cellar", "host"]).args(arguments))
    }

    /// Where its data would be.
    fn data(&self) -> PathBuf {
        self.cluster.hosts.directory("db5").join("demo/zone4/pg_data")
    }

    #[track_caller]
    fn on(&self, arguments: &[&str]) -> Finished {
        let directory = self.cluster.host_directory("db4").display().to_string();
        self.host(&[&["--dir", &directory], arguments].concat())
    }
}

/// The processes of PostgreSQL on a machine.
fn postgres_on(cluster: &HostsCluster, host: &str) -> Vec<i32> {
    let is_postgres = |pid: &i32| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        ["postgres", "initdb", "pg_basebackup", "pg_ctl"].contains(&name.trim())
    };
    cluster.hosts.processes(host).into_iter().filter(is_postgres).collect()
}

fn epoch(cluster: &HostsCluster) -> Option<String> {
    Some(cluster.status("zone4")?["epoch"].as_str()?.to_owned())
}

/// Waits until another process than that one reports for the cell, and streams.
#[track_caller]
fn wait_for_other(cluster: &HostsCluster, than: &str) -> String {
    eventually("another process to run the cell", || {
        let status = cluster.status("zone4");
        status.is_some_and(|status| status["epoch"] != than && status["streamsFrom"] == "zone1")
    });
    epoch(cluster).unwrap()
}

#[test]
fn two_machines_with_the_keys_of_one_cell_never_run_it_both() {
    let Some(cluster) = HostsCluster::well_of(3, 5) else { return };
    let directory = cluster.host_directory("db4").display().to_string();
    let _ =
        cluster.cellar(&["cells", "add", "zone4", "--host", "db4.test", "--host-directory", &directory]).ok();
    let _ = cluster.install("db4").ok();
    let _ = cluster.on("db4", &["start"]).ok();
    let _ = cluster.wait().ok();
    let first = epoch(&cluster).unwrap();

    // The same bundle on another machine: that one waits, and the first goes on with what it does.
    let twin = Twin::of(&cluster);
    let _ = twin.host(&["install", cluster.bundle("db4").to_str().unwrap()]).ok();
    let _ = twin.on(&["start"]).ok();
    eventually("the other machine to say that it waits", || {
        let status = twin.on(&["status"]);
        status.code == 1 && status.stdout.contains("cell zone4 is run by")
    });
    cluster.back_up("zone4");
    assert_eq!(epoch(&cluster).as_deref(), Some(first.as_str()));
    // It has not begun a PostgreSQL, nor the data of one.
    assert_eq!(postgres_on(&cluster, "db5"), [0; 0]);
    assert!(!twin.data().exists(), "{} is there", twin.data().display());
    assert_ne!(postgres_on(&cluster, "db4"), [0; 0], "that of the first is not seen");

    // The first one dies. The other one has waited for that.
    let died = Instant::now();
    cluster.hosts.isolate("db4");
    cluster.hosts.kill_all("db4");
    let second = wait_for_other(&cluster, &first);
    assert!(died.elapsed() >= LOST_TIMEOUT, "taken over after {:?}", died.elapsed());
    eventually("the other machine to say nothing any more", || twin.on(&["status"]).code == 0);

    // The first one comes back, and finds that it has lost the cell. So it is also while the other one is down.
    cluster.hosts.heal_all();
    let _ = cluster.on("db4", &["start"]).ok();
    let is_told = || {
        let status = cluster.on("db4", &["status"]);
        status.code == 1 && status.stdout.contains("cell zone4 was taken over by")
    };
    eventually("the first machine to say that it lost the cell", is_told);
    assert_eq!(postgres_on(&cluster, "db4"), [0; 0]);
    assert_eq!(epoch(&cluster).as_deref(), Some(second.as_str()));
    cluster.hosts.kill_all("db5");
    eventually("the cell to be shown as down", || epoch(&cluster).is_none());
    assert!(is_told());
    assert_eq!(postgres_on(&cluster, "db4"), [0; 0]);

    // Its operator gives the cell back to it.
    let _ = cluster.on("db4", &["remove"]).ok();
    let _ = cluster.install("db4").ok();
    let _ = cluster.on("db4", &["start"]).ok();
    let _ = wait_for_other(&cluster, &second);
    let _ = cluster.on("db4", &["status"]).ok();
    // And the other one has lost it for good.
    let _ = twin.on(&["start"]).ok();
    eventually("the other machine to say that it lost the cell", || {
        twin.on(&["status"]).stdout.contains("cell zone4 was taken over by")
    });
    assert_eq!(postgres_on(&cluster, "db5"), [0; 0]);
}
