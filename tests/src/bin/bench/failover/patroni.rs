//! Patroni of Debian as a subject: three members, an etcd and an HAProxy, with the configuration of its documentation.
//!
//! Needs the Debian packages patroni and haproxy; `make bench` installs them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cellar_tests::{
    Cluster, OsUser, TABLE, as_user, is_alive, poll, postgres_programs, postgres_user, run, wait_for,
};

use crate::failover::rounds::Subject;

const MEMBERS: usize = 3;

/// The superuser's password.
const PASSWORD: &str = "zalando";

/// How long it may take until two members stream from a third: one that was lost is looked for every `loop_wait`.
const READY_TIMEOUT: Duration = Duration::from_secs(240);

/// Its `ttl`, `loop_wait` and `retry_timeout`, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    ttl: u32,
    loop_wait: u32,
    retry_timeout: u32,
}

/// What it has by itself.
pub(crate) const DEFAULTS: Times = Times { ttl: 30, loop_wait: 10, retry_timeout: 10 };

/// The smallest that it takes.
pub(crate) const FASTEST: Times = Times { ttl: 20, loop_wait: 1, retry_timeout: 3 };

/// Its cluster. It ends with this.
pub(crate) struct Patroni {
    /// A directory, and the end of all processes that work in it; nothing of Cellar runs there.
    place: Cluster,
    user: OsUser,
    /// Of each member: PostgreSQL's and its REST API's.
    ports: Vec<(u16, u16)>,
    routed: u16,
}

/// Ports that are free, all different.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).filter_map(|_| TcpListener::bind("127.0.0.1:0").ok()).collect();
    let ports: Vec<u16> = held.iter().filter_map(|held| Some(held.local_addr().ok()?.port())).collect();
    assert_eq!(ports.len(), count, "free ports");
    ports
}

fn programs() -> PathBuf {
    postgres_programs()
        .unwrap_or_else(|| panic!("PostgreSQL is missing: install the Debian package postgresql"))
}

fn write(file: &Path, text: &str) {
    if let Err(error) = std::fs::write(file, text) {
        panic!("{}: {error}", file.display());
    }
}

fn name(member: usize) -> String {
    format!("member{member}")
}

impl Patroni {
    /// A cluster that is ready.
    pub(crate) fn start(times: Times) -> Self {
        let all = free_ports(2 * MEMBERS + 3);
        let ports = (0..MEMBERS).map(|member| (all[2 * member], all[2 * member + 1])).collect();
        let [routed, etcd, peer] = all[2 * MEMBERS..] else { panic!("too few ports") };
        let this = Self { place: Cluster::new(), user: postgres_user(), ports, routed };
        this.make_directory("etcd");
        (0..MEMBERS).for_each(|member| this.make_directory(&name(member)));
        let (client, peer) = (format!("http://127.0.0.1:{etcd}"), format!("http://127.0.0.1:{peer}"));
        let data = this.place.directory().join("etcd/data");
        this.launch(
            "etcd",
            Command::new("etcd")
                .arg("--data-dir")
                .arg(data)
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")]),
        );
        for member in 0..MEMBERS {
            write(&this.config(member), &this.member_config(member, etcd, times));
            this.launch_member(member);
        }
        let haproxy = this.place.directory().join("haproxy.cfg");
        write(&haproxy, &this.haproxy_config());
        this.make_directory("haproxy");
        let program = Path::new("/usr/sbin/haproxy");
        this.launch("haproxy", Command::new(program).arg("-db").arg("-f").arg(&haproxy));
        this.wait_ready();
        let _ = run(this.client()().args(["-XAtqw", "-c", TABLE])).ok();
        this
    }

    /// A directory of the user that runs all of it.
    fn make_directory(&self, name: &str) {
        let path = self.place.directory().join(name);
        let made = std::fs::create_dir_all(&path)
            .and_then(|()| std::os::unix::fs::chown(&path, Some(self.user.uid), Some(self.user.gid)));
        if let Err(error) = made {
            panic!("{}: {error}", path.display());
        }
    }

    /// Starts a program in one of these directories, with its log there.
    fn launch(&self, directory: &str, command: &mut Command) {
        let directory = self.place.directory().join(directory);
        let log = || match File::options().create(true).append(true).open(directory.join("log")) {
            Ok(file) => file,
            Err(error) => panic!("{}: {error}", directory.display()),
        };
        // Left to init: nobody here waits for it.
        let mut launcher = as_user(&self.user, "setsid");
        launcher.arg("--fork").arg(command.get_program()).args(command.get_args());
        launcher.current_dir(&directory).stdin(Stdio::null()).stdout(log()).stderr(log());
        match launcher.status() {
            Ok(status) if status.success() => {}
            other => panic!("{:?} cannot be started: {other:?}", command.get_program()),
        }
    }

    fn launch_member(&self, member: usize) {
        self.launch(&name(member), Command::new("patroni").arg(self.config(member)));
    }

    fn config(&self, member: usize) -> PathBuf {
        self.place.directory().join(name(member)).join("patroni.yml")
    }

    fn member_config(&self, member: usize, etcd: u16, times: Times) -> String {
        let (postgres, rest) = self.ports[member];
        let Times { ttl, loop_wait, retry_timeout } = times;
        let directory = self.place.directory().join(name(member)).display().to_string();
        let programs = programs().display().to_string();
        format!(
            "scope: bench
name: {}
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
etcd3:
  host: 127.0.0.1:{etcd}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
  initdb:
  - encoding: UTF8
  - data-checksums
  pg_hba:
  - host replication replicator 127.0.0.1/32 md5
  - host all all 127.0.0.1/32 md5
postgresql:
  listen: 127.0.0.1:{postgres}
  connect_address: 127.0.0.1:{postgres}
  data_dir: {directory}/data
  bin_dir: {programs}
  pgpass: {directory}/pgpass
  authentication:
    replication:
      username: replicator
      password: rep-pass
    superuser:
      username: postgres
      password: {PASSWORD}
    rewind:
      username: rewind_user
      password: rewind_password
  parameters:
    unix_socket_directories: '{directory}'
",
            name(member)
        )
    }

    fn haproxy_config(&self) -> String {
        let mut text = format!(
            "global
    maxconn 100
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind 127.0.0.1:{}
    option httpchk
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
",
            self.routed
        );
        for (member, (postgres, rest)) in self.ports.iter().enumerate() {
            text +=
                &format!("    server {} 127.0.0.1:{postgres} maxconn 100 check port {rest}\n", name(member));
        }
        text
    }

    fn member(&self, port: u16) -> usize {
        let found = self.ports.iter().position(|(postgres, _)| *postgres == port);
        found.unwrap_or_else(|| panic!("no member has the port {port}"))
    }

    /// Waits until the others stream from the primary, and one of them is its synchronous standby.
    fn wait_ready(&self) {
        wait_for("Patroni's members to stream", READY_TIMEOUT, || {
            let asked = run(self.client()().env("PGCONNECT_TIMEOUT", "5").args([
                "-XAtqw",
                "-c",
                "SELECT count(*) FILTER (WHERE state = 'streaming'), \
                 count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')) FROM pg_stat_replication",
            ]));
            let (streaming, synchronous) = asked.stdout.trim().split_once('|')?;
            (streaming == (MEMBERS - 1).to_string() && synchronous != "0").then_some(())
        });
    }

    fn pid(&self, member: usize) -> Option<i32> {
        let file = self.place.directory().join(name(member)).join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).ok()?;
        text.lines().next()?.trim().parse().ok().filter(|pid| is_alive(*pid))
    }
}

impl Subject for Patroni {
    fn client(&self) -> Box<dyn Fn() -> Command + Send> {
        let uri = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.routed);
        Box::new(move || {
            let mut command = Command::new("psql");
            command.args(["-d", &uri]).env("PGPASSWORD", PASSWORD);
            command
        })
    }

    fn postmaster(&self, port: u16) -> i32 {
        let member = self.member(port);
        match poll(READY_TIMEOUT, || self.pid(member)) {
            Some(pid) => pid,
            None => panic!("{} has no postmaster", name(member)),
        }
    }

    fn processes(&self, port: u16) -> Vec<i32> {
        self.place.processes_of_cell(&name(self.member(port)))
    }

    fn recover(&self) {
        for member in 0..MEMBERS {
            if cellar_tests::processes_with("patroni", &self.config(member).display().to_string()).is_empty()
            {
                self.launch_member(member);
            }
        }
        self.wait_ready();
    }

    fn rows(&self) -> Vec<u64> {
        let asked = run(self.client()().args(["-XAtqw", "-c", "SELECT id FROM ledger"])).ok();
        asked.lines().filter_map(|line| line.parse().ok()).collect()
    }
}
