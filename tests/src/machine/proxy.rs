//! A TCP proxy whose traffic a test holds back, swallows or cuts.
//!
//! It works on bytes, so that TLS goes through it from end to end. What it does to a connection is what a network does:
//! bytes are late, or they never arrive, or the connection is reset. Over HTTP/2 a lost answer is one whose bytes, and
//! all that follow on the connection, never arrive.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most bytes that are read at once: more than one TLS record, so that a request arrives in one piece.
const BUFFER_BYTES: usize = 64 * 1024;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the clients to the server.
    Requests,
    /// From the server to the clients.
    Answers,
}

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// They go on.
    Pass,
    /// They wait until the rule changes.
    Hold,
    /// They go on up to the first piece of at least so many bytes. From that one on they are held. A request that writes
    /// a record is larger than one that reads.
    HoldFrom(usize),
    /// They never arrive, and neither does what follows on the same connection, whatever the rule becomes.
    Swallow,
}

#[derive(Debug)]
struct Lane {
    rule: Rule,
    /// Bytes that were held or swallowed since the rule was set.
    stopped: usize,
}

#[derive(Debug)]
struct State {
    requests: Lane,
    answers: Lane,
    /// Both ends of each connection, by its number.
    open: BTreeMap<u64, [TcpStream; 2]>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A proxy that listens on a port of its own. It ends with the value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Begins to pass on what arrives to `server`, a host and a port of this machine.
    ///
    /// # Panics
    /// When no port can be listened on.
    #[must_use]
    pub fn start(server: &str) -> Self {
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { panic!("no port is free") };
        let Ok(address) = listener.local_addr() else { panic!("the listener has no address") };
        let lane = || Lane { rule: Rule::Pass, stopped: 0 };
        let state = State { requests: lane(), answers: lane(), open: BTreeMap::new(), ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (accepting, server) = (Arc::clone(&shared), server.to_owned());
        thread::spawn(move || accept(&accepting, &listener, &server));
        Self { port: address.port(), shared }
    }

    /// The port that it listens on, at 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets the rule of one direction, for the connections that there are and those to come.
    pub fn set(&self, direction: Direction, rule: Rule) {
        *self.shared.state().lane(direction) = Lane { rule, stopped: 0 };
        self.shared.changed.notify_all();
    }

    /// Lets everything through again. Connections that have lost bytes stay silent until they are closed.
    pub fn pass(&self) {
        self.set(Direction::Requests, Rule::Pass);
        self.set(Direction::Answers, Rule::Pass);
    }

    /// Lets nothing through any more, without a word to either side.
    pub fn swallow(&self) {
        self.set(Direction::Requests, Rule::Swallow);
        self.set(Direction::Answers, Rule::Swallow);
    }

    /// Closes every connection that there is now. What was held back is lost.
    pub fn cut(&self) {
        close_all(&mut self.shared.state());
        self.shared.changed.notify_all();
    }

    /// How many bytes of one direction were held or swallowed since its rule was set.
    #[must_use]
    pub fn stopped(&self, direction: Direction) -> usize {
        self.shared.state().lane(direction).stopped
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().open.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.ended = true;
        close_all(&mut state);
        drop(state);
        self.shared.changed.notify_all();
        // The listener waits for a connection.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Requests => &mut self.requests,
            Direction::Answers => &mut self.answers,
        }
    }
}

fn close_all(state: &mut State) {
    for ends in std::mem::take(&mut state.open).into_values() {
        for end in ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener, server: &str) {
    for number in 0.. {
        let Ok((client, _)) = listener.accept() else { return };
        if shared.state().ended {
            return;
        }
        // A server that is away resets the connection, as it would without a proxy.
        let Ok(server) = TcpStream::connect(server) else { continue };
        let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { continue };
        for end in [&client, &server] {
            let _ = end.set_nodelay(true);
        }
        shared.state().open.insert(number, [from, to]);
        let (Ok(client_reader), Ok(server_reader)) = (client.try_clone(), server.try_clone()) else {
            continue;
        };
        for (direction, from, to) in
            [(Direction::Requests, client_reader, server), (Direction::Answers, server_reader, client)]
        {
            let shared = Arc::clone(shared);
            thread::spawn(move || {
                pass_on(&shared, number, direction, from, to);
                let closed = shared.state().open.remove(&number);
                closed.into_iter().flatten().for_each(|end| drop(end.shutdown(Shutdown::Both)));
                shared.changed.notify_all();
            });
        }
    }
}

/// Passes on the bytes of one direction of a connection until it ends.
fn pass_on(shared: &Shared, number: u64, direction: Direction, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut has_lost_bytes = false;
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer) else { return };
        if has_lost_bytes {
            continue;
        }
        match wait(shared, number, direction, read) {
            Fate::Arrives if to.write_all(&buffer[..read]).is_err() => return,
            Fate::Arrives => {}
            Fate::Lost => has_lost_bytes = true,
            Fate::Closed => return,
        }
    }
}

enum Fate {
    Arrives,
    Lost,
    Closed,
}

/// Waits until the rule says what becomes of some bytes.
fn wait(shared: &Shared, number: u64, direction: Direction, bytes: usize) -> Fate {
    let mut state = shared.state();
    let mut held = false;
    loop {
        if !state.open.contains_key(&number) {
            return Fate::Closed;
        }
        let lane = state.lane(direction);
        match lane.rule {
            Rule::Pass => return Fate::Arrives,
            Rule::HoldFrom(least) if bytes < least => return Fate::Arrives,
            Rule::Swallow => {
                lane.stopped += bytes;
                return Fate::Lost;
            }
            Rule::Hold | Rule::HoldFrom(_) => {
                lane.rule = Rule::Hold;
                if !held {
                    lane.stopped += bytes;
                    held = true;
                }
            }
        }
        state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::machine::wait::eventually;

    /// A server that answers each byte with the next one.
    fn server() -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).is_ok() {
                        let _ = stream.write_all(&[byte[0] + 1]);
                    }
                });
            }
        });
        address
    }

    fn client(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    fn answer(client: &mut TcpStream) -> Option<u8> {
        let mut byte = [0];
        client.read_exact(&mut byte).ok().map(|()| byte[0])
    }

    #[test]
    fn held_bytes_arrive_in_their_order_when_they_are_let_go() {
        let proxy = Proxy::start(&server());
        let mut client = client(&proxy);
        client.write_all(b"a").unwrap();
        assert_eq!(answer(&mut client), Some(b'b'));
        proxy.set(Direction::Requests, Rule::HoldFrom(2));
        client.write_all(b"c").unwrap();
        assert_eq!(answer(&mut client), Some(b'd'));
        client.write_all(b"ef").unwrap();
        eventually("two bytes to be held", || proxy.stopped(Direction::Requests) == 2);
        client.write_all(b"g").unwrap();
        proxy.pass();
        for expected in b"fgh" {
            assert_eq!(answer(&mut client), Some(*expected));
        }
    }

    #[test]
    fn a_connection_that_lost_an_answer_stays_silent_and_another_one_does_not() {
        let proxy = Proxy::start(&server());
        let mut silent = client(&proxy);
        proxy.set(Direction::Answers, Rule::Swallow);
        silent.write_all(b"a").unwrap();
        eventually("an answer to be swallowed", || proxy.stopped(Direction::Answers) == 1);
        proxy.pass();
        silent.write_all(b"c").unwrap();
        let mut other = client(&proxy);
        other.write_all(b"e").unwrap();
        assert_eq!(answer(&mut other), Some(b'f'));
        silent.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(answer(&mut silent), None);
    }

    #[test]
    fn a_cut_closes_what_is_open_and_loses_what_is_held() {
        let proxy = Proxy::start(&server());
        let mut cut = client(&proxy);
        proxy.set(Direction::Answers, Rule::Hold);
        cut.write_all(b"a").unwrap();
        eventually("an answer to be held", || proxy.stopped(Direction::Answers) == 1);
        proxy.cut();
        assert_eq!(answer(&mut cut), None);
        eventually("the connection to be gone", || proxy.connections() == 0);
        proxy.pass();
        let mut other = client(&proxy);
        other.write_all(b"e").unwrap();
        assert_eq!(answer(&mut other), Some(b'f'));
    }
}
