//! New keys, certificates and a new authority under load.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Stdio};

use cellar_tests::{Cluster, eventually, kill_hard, wait_for};
use cellar_tls::CertificateInfo;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::revocation::SlowReader;

/// pgbench on the primary until it is told to end; its report.
struct Load(Option<Child>);

impl Load {
    fn begin(cluster: &Cluster) -> Self {
        let mut command =
            cluster.tool("pgbench", &cluster.primary(), &["-n", "-c", "2", "-T", "600", "-R", "50"]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(child.expect("pgbench")))
    }

    /// Ends it; every statement until then must have succeeded.
    #[track_caller]
    fn end(mut self) {
        let child = self.0.take().expect("it runs");
        let running = i32::try_from(child.id()).expect("a pid");
        let found = std::fs::read_to_string(format!("/proc/{running}/status")).expect("pgbench runs still");
        assert!(!found.contains("State:\tZ"), "pgbench ended by itself");
        // Not SIGINT, which a shell that runs this in the background has made it ignore.
        cellar_tests::signal(running, Signal::SIGTERM);
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        for bad in ["error", "ERROR", "aborted", "FATAL"] {
            assert!(!said.contains(bad), "a statement failed: {said}");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a command and kills it once it has come so far. What stands for a moment only may pass unseen on a busy machine:
/// the command is begun again then.
pub(crate) fn kill_when(cluster: &Cluster, arguments: &[&str], what: &str, reached: &dyn Fn() -> bool) {
    for _ in 0..5 {
        let mut command = cluster.command(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("cellar");
        let has_reached = wait_for(what, std::time::Duration::from_secs(60), || {
            let ended = child.try_wait().expect("a child").is_some();
            let reached = reached();
            (reached || ended).then_some(reached)
        });
        let _ = child.kill();
        let _ = child.wait();
        if has_reached {
            return;
        }
    }
    panic!("{arguments:?} ended five times before it was seen that {what}");
}

/// Serial numbers by file.
pub(crate) fn serials(cluster: &Cluster) -> BTreeMap<String, String> {
    let listed = cluster.json(&["certs", "list"]);
    let of = |certificate: &Value| {
        let text = |name: &str| certificate[name].as_str().unwrap_or_default().to_owned();
        (text("path"), text("serial"))
    };
    listed["certificates"].as_array().expect("certificates").iter().map(of).collect()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

/// Each standby has streamed without a break since its connection began.
pub(crate) fn receivers(cluster: &Cluster) -> String {
    cluster.sql(
        &cluster.primary(),
        "SELECT string_agg(application_name || pid, ' ' ORDER BY 1) FROM pg_stat_replication",
    )
}

#[test]
fn keys_certificates_and_the_authority_are_replaced_under_load() {
    let cluster = Cluster::up("zone1,zone2,zone3");
    cluster.load(5);
    let load = Load::begin(&cluster);
    let streams = receivers(&cluster);
    let before = serials(&cluster);
    let key = cluster.directory().join("zone2/tls/server.key");
    let old_key = read(&key);
    let processes = || ["pid/multiadmin.pid", "zone1/pid/multipooler.pid"].map(|file| cluster.pid(file));
    let running = (processes(), cluster.postmaster("zone1"));

    // Leaves: everything is new but the authority, and nothing was started again or noticed it.
    let job = cluster.begin_backup("zone2", "full");
    let _ = cluster.cellar(&["certs", "rotate"]);
    let after = serials(&cluster);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, serial) in &after {
        assert_eq!(path.ends_with("ca/ca.crt"), *serial == before[path], "{path}");
    }
    assert_ne!(read(&key), old_key);
    assert_eq!((processes(), cluster.postmaster("zone1")), running);
    assert_eq!(receivers(&cluster), streams, "a standby's connection broke");
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    // What needs new connections between all of them works: etcd, cell to cell, the command line.
    let _ = cluster.backup("zone3", "incr");
    assert!(!cluster.directory().join("zone2/tls.previous").exists(), "an old key lies about");

    // The authority, while a backup runs and the load goes on.
    let authority = read(&cluster.directory().join("ca/ca.crt"));
    let given = cluster.directory().join("given");
    let _ = cluster.cellar(&[
        "certs",
        "issue",
        "--role",
        "viewer",
        "--name",
        "ci",
        "--out",
        &given.display().to_string(),
    ]);
    let job = cluster.begin_backup("zone2", "full");
    let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
    let ended = cluster.ended(&job);
    assert_eq!(ended["state"], "JOB_STATE_SUCCEEDED", "{ended:#}");
    let new = read(&cluster.directory().join("ca/ca.crt"));
    assert_ne!(new, authority);
    for file in
        ["zone1/tls/ca.crt", "etcd/tls/ca.crt", "multiadmin/ca.crt", "client/ca.crt", "state/tls/ca.crt"]
    {
        assert_eq!(read(&cluster.directory().join(file)), new, "{file}");
    }
    for gone in ["ca/next", "ca/old.crt", "ca.previous", "ca.next"] {
        assert!(!cluster.directory().join(gone).exists(), "{gone} is left");
    }
    assert_eq!((processes(), cluster.postmaster("zone1")), running);
    assert_eq!(receivers(&cluster), streams, "a standby's connection broke");
    let _ = cluster.backup("zone3", "incr");
    // What the old authority had signed opens nothing any more.
    let endpoint = read(&given.join("endpoint"));
    let given = given.display().to_string();
    let refused = cluster.try_cellar(&["jobs", "list", "--admin", endpoint.trim(), "--client-dir", &given]);
    assert_ne!(refused.code, 0, "{refused:?}");
    load.end();
    // A standby that must connect again gets in, and so does one that is rebuilt.
    let _ = cluster.cellar(&["rebuild", "zone3"]);
    cluster.wait_streaming("zone3");
}

#[test]
fn a_new_authority_is_finished_by_the_next_run() {
    let cluster = Cluster::up("zone1,zone2");
    let there = |file: &str| cluster.directory().join(file).exists();
    // Killed as the new authority is trusted, once it signs, and as the old one is trusted no more.
    let stages: [(&str, &dyn Fn() -> bool); 3] = [
        ("trusted", &|| there("ca/next/ca.crt")),
        ("signing", &|| there("ca/old.crt")),
        ("alone", &|| there("ca.previous") && !there("ca/old.crt")),
    ];
    for (until, reached) in stages {
        let authority = read(&cluster.directory().join("ca/ca.crt"));
        let out = cluster.directory().join(format!("given-{until}")).display().to_string();
        let issued = cluster.json(&["certs", "issue", "--role", "viewer", "--name", until, "--out", &out]);
        let issued = issued["serial"].as_str().expect("a serial").to_owned();
        let is_listed = || serials(&cluster).values().any(|serial| *serial == issued);
        kill_when(&cluster, &["certs", "rotate", "--ca"], &format!("the new authority was {until}"), reached);
        // Whatever stands now works, and `up` changes nothing of it.
        let _ = cluster.cellar(&["up"]);
        // What was issued before is trusted still, perhaps, and so it is shown.
        assert!(is_listed(), "{until}");
        let _ = cluster.backup("zone2", "full");
        let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
        assert_ne!(read(&cluster.directory().join("ca/ca.crt")), authority);
        assert!(!is_listed(), "nothing accepts it any more");
        assert!(!["ca/next", "ca/old.crt", "ca.previous", "ca.next"].into_iter().any(there));
        let _ = cluster.backup("zone2", "incr");
    }
}

#[test]
fn keys_that_an_interrupted_rotation_left_go_with_the_cluster_and_mislead_no_later_rotation() {
    let cluster = Cluster::up("zone1,zone2");
    let there = |file: &str| cluster.directory().join(file).exists();
    kill_when(&cluster, &["certs", "rotate", "--ca"], "the new authority signed", &|| there("ca/old.crt"));
    // Killed right after the exchange, the old one has the other name still.
    let left = ["ca.previous", "ca.next"].into_iter().find(|name| there(name)).expect("the old authority");
    let files = ["ca.key", "ca.crt"].map(|file| (file, read(&cluster.directory().join(left).join(file))));
    let _ = cluster.cellar(&["down", "--destroy"]);
    assert!(!cluster.directory().exists(), "something is left");

    // The next cluster is misled neither by what was there before it nor by what comes there later.
    let previous = cluster.directory().join("ca.previous");
    let plant = || {
        std::fs::create_dir_all(&previous).expect("a directory");
        for (file, text) in &files {
            std::fs::write(previous.join(file), text).expect("a file");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(previous.join(file), private).expect("chmod");
        }
    };
    plant();
    let _ = cluster.try_up("zone1,zone2").ok();
    assert!(!previous.exists());
    plant();
    let (before, key) = (serials(&cluster), read(&cluster.directory().join("zone2/tls/server.key")));
    let _ = cluster.cellar(&["certs", "rotate"]);
    for (path, serial) in serials(&cluster) {
        assert_eq!(path.ends_with("ca/ca.crt"), serial == before[&path], "{path}");
    }
    assert_ne!(read(&cluster.directory().join("zone2/tls/server.key")), key);
    assert!(!previous.exists());
}

#[test]
fn a_new_authority_is_spread_also_when_an_earlier_run_left_etcd_stopped() {
    let cluster = Cluster::up("zone1,zone2");
    kill_hard(cluster.pid("pid/etcd.pid"));
    let _ = cluster.cellar(&["certs", "rotate", "--ca"]);
    let _ = cluster.backup("zone2", "full");
}

/// pgBackRest's server lets anybody be connected for ever, and a backup may take hours.
#[test]
fn sessions_neither_keep_new_certificates_out_nor_notice_them() {
    let cluster = Cluster::up("zone1,zone2");
    let cards = cluster.poolers().into_iter().filter_map(|view| view.pooler);
    let port = |port: u32| u16::try_from(port).expect("a port");
    let ports: Vec<u16> = cards.map(|card| port(card.pgbackrest_port)).collect();
    let stranger = |port: &u16| TcpStream::connect(("localhost", *port)).expect("a connection");
    let mut strangers: Vec<_> = ports.iter().map(stranger).collect();
    let copy = cluster.directory().join("copied");
    std::fs::create_dir(&copy).unwrap();
    for file in ["server.key", "server.crt"] {
        std::fs::copy(cluster.directory().join("zone2/tls").join(file), copy.join(file)).unwrap();
    }
    let mut reader = SlowReader::begin(&cluster, ports[0], &copy);
    let server = cluster.pid("zone1/pid/pgbackrest-server.pid");
    let path = cluster.directory().join("zone1/tls/server.crt").display().to_string();
    for _ in 0..3 {
        let (before, begun) = (serials(&cluster), std::time::Instant::now());
        let _ = cluster.cellar(&["certs", "rotate"]);
        assert!(begun.elapsed().as_secs() < 60, "it waited for sessions");
        assert_ne!(serials(&cluster)[&path], before[&path]);
    }
    assert!(reader.goes_on(), "a session broke off");
    assert_eq!(cluster.pid("zone1/pid/pgbackrest-server.pid"), server, "it was started again");
    for stranger in &mut strangers {
        stranger.set_nonblocking(true).unwrap();
        assert_eq!(stranger.read(&mut [0]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn what_is_not_taken_up_comes_back() {
    let cluster = Cluster::up("zone1,zone2");
    let tls = cluster.directory().join("zone2/tls");
    let before = serials(&cluster);
    // A set that fits and that PostgreSQL's clients would refuse: another authority's, put in as a rotation does it.
    let (spare, kept) =
        (cluster.directory().join("zone2/tls.spare"), cluster.directory().join("zone2/tls.previous"));
    std::fs::create_dir(&spare).unwrap();
    for entry in std::fs::read_dir(&tls).unwrap().flatten() {
        std::fs::copy(entry.path(), spare.join(entry.file_name())).unwrap();
    }
    std::fs::write(spare.join("server.key"), read(&cluster.directory().join("zone1/tls/server.key")))
        .unwrap();
    let owner = std::fs::metadata(&tls).unwrap();
    let mut ours: Vec<_> = std::fs::read_dir(&spare).unwrap().flatten().map(|entry| entry.path()).collect();
    ours.push(spare.clone());
    for path in ours {
        std::os::unix::fs::chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    std::fs::rename(&tls, &kept).unwrap();
    std::fs::rename(&spare, &tls).unwrap();
    eventually("the old set to come back", || {
        cluster.status("zone2").is_some_and(|status| status.message.contains("the old ones are back"))
    });
    assert_eq!(serials(&cluster), before);
    assert_ne!(read(&tls.join("server.key")), read(&cluster.directory().join("zone1/tls/server.key")));
    let _ = cluster.backup("zone2", "full");

    // A file that cannot be loaded, and no set that could come back: what is in use stays in use, also where zone2's
    // pooler asks the primary's.
    std::fs::write(tls.join("pooler.crt"), "no certificate").unwrap();
    eventually("the file to be named", || {
        cluster.status("zone2").is_some_and(|status| status.message.contains("pooler.crt"))
    });
    let _ = cluster.backup("zone2", "incr");
}

#[test]
fn what_was_interrupted_or_has_expired_is_replaced_by_the_next_rotation() {
    let cluster = Cluster::up("zone1,zone2");
    let there = |file: &str| cluster.directory().join(file).exists();
    let previous = ["zone1/tls.previous", "zone2/tls.previous", "multiadmin.previous", "etcd/tls.previous"];
    // Killed while some have their new set and others have not.
    let interrupt = || {
        kill_when(&cluster, &["certs", "rotate"], "the first set was exchanged", &|| {
            previous.into_iter().any(there)
        });
    };
    interrupt();
    let _ = cluster.backup("zone2", "full");

    // The next run finishes it, with certificates that last a minute, and is interrupted by the one after it.
    let _ = cluster.cellar(&["up", "--cert-lifetime", "60s"]);
    let _ = cluster.cellar(&["certs", "rotate"]);
    assert!(!previous.into_iter().any(there), "old keys lie about");
    interrupt();

    // Nobody renews them, and they end.
    let certificate = cluster.directory().join("multiadmin/multiadmin.crt");
    let pooler = cluster.directory().join("zone2/tls/pooler.crt");
    let ends =
        [certificate, pooler].map(|path| CertificateInfo::from_file(&path).expect("a certificate").not_after);
    wait_for("the certificates to end", std::time::Duration::from_secs(90), || {
        // Certificates end with their last second.
        let over = std::time::SystemTime::now() - std::time::Duration::from_secs(2);
        ends.iter().all(|end| *end < over).then_some(())
    });
    let said = cluster.try_cellar(&["backup", "--from", "zone2"]).refused(4);
    assert!(said.contains("expired") && said.contains("certs rotate"), "what to do next is not said: {said}");
    let _ = cluster.cellar(&["certs", "rotate"]);
    assert!(!previous.into_iter().any(there), "old keys lie about");
    cluster.wait_streaming("zone2");
    let _ = cluster.backup("zone2", "full");
}

#[test]
fn certificates_renew_themselves_before_they_end() {
    let cluster = Cluster::new();
    let arguments =
        ["up", "--cells", "zone1,zone2", "--port-offset", "auto", "--cert-lifetime", "60s", "--auto-renew"];
    let _ = cluster.try_cellar(&arguments).ok();
    cluster.load(2);
    let load = Load::begin(&cluster);
    let key = cluster.directory().join("zone2/tls/server.key");
    let pooler = cluster.directory().join("zone2/tls/pooler.crt");
    let ends = || CertificateInfo::from_file(&pooler).expect("a certificate").not_after;
    // In this order: the later ones are never older than what the end is of.
    let (first_end, first, kept) = (ends(), serials(&cluster), read(&key));
    let lasts = |path: &str| path.ends_with("/ca.crt");
    let begun = std::time::Instant::now();
    wait_for("every certificate to be renewed", std::time::Duration::from_secs(90), || {
        // The command line's own are renewed when it talks to somebody.
        let _ = cluster.cellar(&["status"]);
        let now = serials(&cluster);
        now.iter().all(|(path, serial)| lasts(path) || *serial != first[path]).then_some(())
    });
    let later = ends().duration_since(first_end).expect("a renewed certificate ends later");
    assert!(later.as_secs() >= 30, "they were renewed long before two thirds of their life: {later:?} later");
    // The first ones have ended; whatever connects now does so with what was renewed.
    wait_for("the first certificates to end", std::time::Duration::from_secs(60), || {
        (begun.elapsed().as_secs() > 60).then_some(())
    });
    let _ = cluster.cellar(&["rebuild", "zone2"]);
    let _ = cluster.backup("zone2", "full");
    cluster.wait_streaming("zone2");
    assert_eq!(read(&key), kept, "a renewal keeps the key");
    assert!(!cluster.directory().join("zone2/tls.previous").exists());
    // A process that starts now finds what is valid.
    kill_hard(cluster.pid("pid/multiadmin.pid"));
    kill_hard(cluster.pid("zone1/pid/multipooler.pid"));
    let _ = cluster.cellar(&["up"]);
    let _ = cluster.backup("zone2", "incr");
    // What signs is not revoked: a list would not keep out what it has signed.
    for file in ["ca/ca.crt", "signing/ca.crt"] {
        let serial = &serials(&cluster)[&cluster.directory().join(file).display().to_string()];
        let message = cluster.try_cellar(&["certs", "revoke", serial]).refused(2);
        assert!(message.contains("rotate --ca"), "{message}");
    }
    // Revocation goes on to work with a certificate that the delegate has signed, and spares the others.
    let path = cluster.directory().join("zone2/tls/pooler.crt").display().to_string();
    let _ = cluster.cellar(&["certs", "revoke", &serials(&cluster)[&path]]);
    let _ = cluster.cellar(&["rebuild", "zone2"]);
    let _ = cluster.backup("zone2", "incr");
    load.end();
}
