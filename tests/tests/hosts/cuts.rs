//! What arrives when the network is cut, on real connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use cellar_tests::{Hosts, eventually};

/// What arrives, arrives within this time; longer than a busy machine and TCP's next attempts take.
const DEADLINE: Duration = Duration::from_secs(20);

/// What arrives without a cut takes less than a millisecond of it.
const LOST_AFTER: Duration = Duration::from_millis(300);

const PORT: u16 = 5432;

struct Network {
    hosts: Hosts,
    _listeners: Vec<TcpListener>,
    /// From `db2` to `db1`: what `db2` has of it, and what `db1` has.
    client: TcpStream,
    server: TcpStream,
}

impl Network {
    /// Three hosts that listen, and a connection.
    fn new() -> Option<Self> {
        let hosts = Hosts::new(3)?;
        let listen = |host: &str| hosts.within(host, || TcpListener::bind(("0.0.0.0", PORT)).unwrap());
        let listeners: Vec<TcpListener> = hosts.names().map(listen).collect();
        let client = connect(&hosts, "db2", "db1", DEADLINE).unwrap();
        let (server, _) = listeners[0].accept().unwrap();
        Some(Self { hosts, _listeners: listeners, client, server })
    }

    /// Asserts which of all the pairs cannot connect; neither can then, whoever begins.
    #[track_caller]
    fn assert_cut(&self, wanted: &[(&str, &str)]) {
        let mut cut = Vec::new();
        for from in self.hosts.names() {
            for to in self.hosts.names() {
                let expected = wanted.contains(&(from, to));
                let deadline = if expected { LOST_AFTER } else { DEADLINE };
                match connect(&self.hosts, from, to, deadline) {
                    Ok(_) => {}
                    // Nobody is told: the attempt is not refused.
                    Err(error) if error.kind() == ErrorKind::TimedOut => cut.push((from, to)),
                    Err(error) => panic!("{from} to {to}: {error}"),
                }
            }
        }
        assert_eq!(cut, wanted);
    }
}

fn connect(hosts: &Hosts, from: &str, to: &str, deadline: Duration) -> std::io::Result<TcpStream> {
    let address = (hosts.address(to), PORT).into();
    hosts.within(from, || TcpStream::connect_timeout(&address, deadline))
}

fn send(mut stream: &TcpStream, byte: u8) {
    stream.write_all(&[byte]).unwrap();
}

/// The next byte, if one comes.
#[track_caller]
fn next(mut stream: &TcpStream, deadline: Duration) -> Option<u8> {
    stream.set_read_timeout(Some(deadline)).unwrap();
    let mut byte = [0];
    match stream.read_exact(&mut byte) {
        Ok(()) => Some(byte[0]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn arrives(from: &TcpStream, to: &TcpStream, byte: u8) {
    send(from, byte);
    assert_eq!(next(to, DEADLINE), Some(byte));
}

#[test]
fn a_one_way_cut_loses_what_goes_one_way() {
    let Some(network) = Network::new() else { return };
    let Network { hosts, client, server, .. } = &network;
    arrives(client, server, 1);
    arrives(server, client, 2);
    hosts.cut_one_way("db1", "db2");
    arrives(client, server, 3);
    send(server, 4);
    assert_eq!(next(client, LOST_AFTER), None);
    // An answer to the first packet is lost, or the first packet is.
    network.assert_cut(&[("db1", "db2"), ("db2", "db1")]);
    hosts.heal_all();
    assert_eq!(next(client, DEADLINE), Some(4));
    network.assert_cut(&[]);
}

#[test]
fn a_cut_loses_all_between_two_hosts() {
    let Some(network) = Network::new() else { return };
    let Network { hosts, client, server, .. } = &network;
    hosts.cut("db1", "db2");
    send(client, 1);
    send(server, 2);
    assert_eq!(next(server, LOST_AFTER), None);
    assert_eq!(next(client, LOST_AFTER), None);
    network.assert_cut(&[("db1", "db2"), ("db2", "db1")]);
    hosts.heal_all();
    assert_eq!(next(server, DEADLINE), Some(1));
    assert_eq!(next(client, DEADLINE), Some(2));
}

#[test]
fn a_cut_of_new_connections_leaves_the_open_ones_and_the_other_way() {
    let Some(network) = Network::new() else { return };
    let Network { hosts, client, server, .. } = &network;
    for (from, to) in [("db2", "db1"), ("db1", "db2")] {
        hosts.cut_new_connections(from, to);
        network.assert_cut(&[(from, to)]);
        arrives(client, server, 1);
        arrives(server, client, 2);
        hosts.heal_all();
    }
    network.assert_cut(&[]);
}

#[test]
fn an_isolated_host_has_only_itself() {
    let Some(network) = Network::new() else { return };
    let Network { hosts, .. } = &network;
    hosts.isolate("db2");
    network.assert_cut(&[
        ("db1", "db2"),
        ("db2", "db1"),
        ("db2", "db3"),
        ("db2", "operator"),
        ("db3", "db2"),
        ("operator", "db2"),
    ]);
    hosts.heal_all();
    network.assert_cut(&[]);
    // A second cut adds to the first.
    hosts.cut("db1", "db3");
    hosts.cut("operator", "db1");
    network.assert_cut(&[("db1", "db3"), ("db1", "operator"), ("db3", "db1"), ("operator", "db1")]);
}

#[test]
fn a_program_sees_a_cut_as_a_network_that_does_not_answer() {
    let Some(network) = Network::new() else { return };
    let hosts = &network.hosts;
    hosts.isolate("db1");
    let connect = |seconds: &str| {
        let words = ["timeout", seconds, "bash", "-c", "exec 3<>/dev/tcp/db1.test/5432"];
        hosts.run("operator", &words).code
    };
    // 124 is that of `timeout`.
    assert_eq!(connect("0.3"), 124);
    hosts.heal_all();
    eventually("the program to connect", || connect("5") == 0);
}
