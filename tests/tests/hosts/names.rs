//! Names, addresses, ports and directories of hosts.

use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use cellar_tests::{Hosts, postgres_user};

#[test]
fn hosts_know_each_other_by_name_and_this_machine_does_not() {
    let Some(hosts) = Hosts::new(3) else { return };
    assert_eq!(hosts.names().collect::<Vec<_>>(), ["db1", "db2", "db3", "operator"]);
    let listeners: Vec<TcpListener> = hosts
        .names()
        // The same port on each, on every address.
        .map(|host| hosts.within(host, || TcpListener::bind("0.0.0.0:5432").unwrap()))
        .collect();
    for to in hosts.names() {
        for from in hosts.names() {
            let connect = format!("exec 3<>/dev/tcp/{to}.test/5432");
            let _ = hosts.run(from, &["timeout", "10", "bash", "-c", &connect]).ok();
        }
        let found = hosts.run("db1", &["getent", "ahostsv4", to]).ok();
        assert!(found.starts_with(&hosts.address(to).to_string()), "{found}");
    }
    for (listener, host) in listeners.iter().zip(hosts.names()) {
        listener.set_nonblocking(true).unwrap();
        let from: Vec<_> = std::iter::from_fn(|| listener.accept().ok()).map(|(_, from)| from.ip()).collect();
        assert_eq!(from.len(), 4);
        assert!(hosts.names().all(|other| from.contains(&hosts.address(other).into())), "{host}: {from:?}");
    }
    let here = std::process::Command::new("getent").args(["hosts", "db1.test"]).output().unwrap();
    assert_eq!(here.stdout, b"");
}

#[test]
fn two_tests_have_nothing_in_common() {
    let Some(one) = Hosts::new(1) else { return };
    let other = Hosts::new(1).unwrap();
    assert_ne!(one.address("db1"), other.address("db1"));
    assert_ne!(one.directory("db1"), other.directory("db1"));
    assert_ne!(one.namespace("db1"), other.namespace("db1"));
    let _listener = other.within("db1", || TcpListener::bind((other.address("db1"), 5432)).unwrap());
    let connect = format!("exec 3<>/dev/tcp/{}/5432", other.address("db1"));
    let _ = other.run("operator", &["timeout", "10", "bash", "-c", &connect]).ok();
    let failed = one.run("operator", &["timeout", "10", "bash", "-c", &connect]).refused(1);
    assert!(failed.contains("Network is unreachable"), "{failed}");
}

#[test]
fn commands_run_in_a_directory_of_the_hosts_own_that_postgres_may_write() {
    let Some(hosts) = Hosts::new(2) else { return };
    let user = postgres_user();
    for host in ["db1", "db2"] {
        let write = format!("echo {host} >file");
        let mut command = hosts.command_as(host, &user, "sh");
        assert!(command.args(["-c", &write]).status().unwrap().success());
        let file = hosts.directory(host).join("file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{host}\n"));
        assert_eq!(file.metadata().unwrap().uid(), user.uid);
    }
    assert_eq!(hosts.run("db1", &["id", "--user"]).ok(), "0\n");
    // Of this build, if it has one of that name.
    let found = hosts.run("db1", &["sh", "-c", "echo $PATH"]).ok();
    assert!(found.starts_with(&cellar_tests::bin_dir().display().to_string()), "{found}");
}
