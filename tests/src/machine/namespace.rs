//! A view of this machine with another hosts file, another directory, or a network of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Namespaces of the kernel in which the hosts file is another one. They last as long as this value or a process in them.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
    own_network: bool,
    hosts: tempfile::NamedTempFile,
}

impl Namespace {
    /// The machine as it is, with this hosts file.
    ///
    /// # Panics
    /// When it cannot be made; the message says what is missing. It takes root.
    #[must_use]
    #[track_caller]
    pub fn with_hosts(hosts: &str) -> Self {
        Self::new(hosts, false, "true")
    }

    /// The machine as it is, with this directory in place of another one.
    ///
    /// # Panics
    /// As [`Namespace::with_hosts`].
    #[must_use]
    #[track_caller]
    pub fn with_directory(directory: &Path, in_place_of: &Path) -> Self {
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        let mount = format!("mount --bind {} {}", directory.display(), in_place_of.display());
        Self::new(&hosts, false, &mount)
    }

    /// The same, with a network of its own whose loopback interface has `127.0.0.1` and no `::1`.
    ///
    /// # Panics
    /// As [`Namespace::with_hosts`].
    #[must_use]
    #[track_caller]
    pub fn without_ipv6_loopback(hosts: &str) -> Self {
        Self::new(hosts, true, "ip link set lo up && ip -6 addr flush dev lo")
    }

    /// Whether its ports are not this machine's.
    pub(crate) fn has_own_network(&self) -> bool {
        self.own_network
    }

    #[track_caller]
    fn new(hosts: &str, own_network: bool, setup: &str) -> Self {
        let Ok(mut file) = tempfile::NamedTempFile::new() else { panic!("no temporary file") };
        if let Err(error) = file.write_all(hosts.as_bytes()) {
            panic!("no hosts file: {error}");
        }
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        if let Err(error) = std::fs::set_permissions(file.path(), readable) {
            panic!("no hosts file: {error}");
        }
        // It ends with this process, whose end of the pipe it reads.
        let script =
            format!("mount --bind {} /etc/hosts && {setup} && echo ready && exec cat", file.path().display());
        let mut command = Command::new("unshare");
        command.arg("--mount").args(own_network.then_some("--net")).args(["sh", "-c", &script]);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut holder = match spawned {
            Ok(holder) => holder,
            Err(error) => panic!("unshare cannot be run ({error}): install the Debian package util-linux"),
        };
        let mut line = String::new();
        let _ = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        if line != "ready\n" {
            let mut reason = String::new();
            let _ = holder.stderr.take().map(|mut err| err.read_to_string(&mut reason));
            let _ = holder.wait();
            panic!(
                "this test needs a mount namespace{} with a hosts file of its own: run it as root (CAP_SYS_ADMIN), with \
                 the Debian packages util-linux, mount and iproute2: {}",
                if own_network { " and a network namespace" } else { "" },
                reason.trim()
            );
        }
        Self { holder, own_network, hosts: file }
    }

    /// Replaces the hosts file, also for the processes that run there.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_hosts(&self, hosts: &str) {
        if let Err(error) = std::fs::write(self.hosts.path(), hosts) {
            panic!("no hosts file: {error}");
        }
    }

    /// The words before a command that is to run there.
    #[must_use]
    pub fn prefix(&self) -> Vec<String> {
        let mut words =
            vec!["nsenter".to_owned(), format!("--target={}", self.holder.id()), "--mount".to_owned()];
        words.extend(self.own_network.then(|| "--net".to_owned()));
        words.push("--".to_owned());
        words
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Closes its input.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}
