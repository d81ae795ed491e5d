//! Namespaces, links and rules, made with `ip` and `nft`.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::machine::process::signal;
use crate::machine::run::Finished;
use crate::machine::shared_memory;

/// Where `ip` keeps namespaces by name.
const NAMESPACES: &str = "/run/netns";

/// Files below a namespace's name here stand in for those in `/etc` for what `ip netns exec` runs.
const FILES: &str = "/etc/netns";

/// How many times the processes of a namespace are looked for and killed until it is given up: some ten seconds.
const ROUNDS: u32 = 500;

/// What passes the bridge is looked up in two sets of pairs: whose packets to whom are lost, and who gets no answer from
/// whom when it opens a connection. Dropped here, neither end is told.
const RULES: &str = "
table bridge cellar {
    set packets { type ipv4_addr . ipv4_addr; }
    set connections { type ipv4_addr . ipv4_addr; }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ip saddr . ip daddr @packets drop
        ip saddr . ip daddr @connections tcp flags & (syn | ack) == syn drop
    }
}
";

/// The file that stands for a namespace.
pub(super) fn file_of(namespace: &str) -> PathBuf {
    Path::new(NAMESPACES).join(namespace)
}

/// The file that is `/etc/hosts` in a namespace.
pub(super) fn hosts_file_of(namespace: &str) -> PathBuf {
    Path::new(FILES).join(namespace).join("hosts")
}

/// The names of all namespaces, and of those that only have files left.
pub(super) fn known() -> BTreeSet<String> {
    let entries = [NAMESPACES, FILES].into_iter().filter_map(|place| std::fs::read_dir(place).ok());
    entries.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Fails with what is missing, before anything is made.
#[track_caller]
pub(super) fn check_programs() {
    let _ = fed("ip", "iproute2", &["-V"], "").ok();
    let _ = fed("nft", "nftables", &["--version"], "").ok();
}

/// A namespace in which the hosts file is this one.
#[track_caller]
pub(super) fn add_namespace(name: &str, hosts: &str) {
    ip(&["netns", "add", name], "");
    let files = Path::new(FILES).join(name);
    if let Err(error) =
        std::fs::create_dir_all(&files).and_then(|()| std::fs::write(files.join("hosts"), hosts))
    {
        panic!("{} cannot be written: {error}", files.display());
    }
}

/// Makes a namespace a bridge that has a link to each of these, named as the host, and the rules for what passes it.
#[track_caller]
pub(super) fn join(bridge: &str, links: &[(String, String)]) {
    let mut batch = "link add bridge type bridge\nlink set bridge up\n".to_owned();
    for (host, namespace) in links {
        batch.push_str(&format!(
            "link add {host} type veth peer name eth0 netns {namespace}\nlink set {host} master bridge up\n"
        ));
    }
    ip(&["-netns", bridge, "-batch", "-"], &batch);
    rules(bridge, RULES);
}

/// Gives a namespace its address, in a network of 256.
#[track_caller]
pub(super) fn set_address(namespace: &str, address: Ipv4Addr) {
    let batch = format!("link set lo up\nlink set eth0 up\naddress add {address}/24 dev eth0\n");
    ip(&["-netns", namespace, "-batch", "-"], &batch);
}

/// Changes the rules of a bridge, all at once.
#[track_caller]
pub(super) fn rules(bridge: &str, change: &str) {
    ip(&["netns", "exec", bridge, "nft", "-f", "-"], change);
}

/// The processes in a namespace; none when there is no such namespace.
pub(super) fn processes(namespace: &str) -> Vec<i32> {
    let listed = fed("ip", "iproute2", &["netns", "pids", namespace], "");
    listed.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

/// Kills all processes in a namespace, also those that begin meanwhile.
pub(super) fn kill_all(namespace: &str) {
    for _ in 0..ROUNDS {
        let left = processes(namespace);
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|pid| shared_memory::remember(*pid));
        left.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Removes a namespace with its processes, links, rules and files; what is gone is fine.
pub(super) fn remove(namespace: &str) {
    kill_all(namespace);
    let _ = fed("ip", "iproute2", &["netns", "delete", namespace], "");
    let _ = std::fs::remove_dir_all(Path::new(FILES).join(namespace));
}

#[track_caller]
fn ip(arguments: &[&str], input: &str) {
    let done = fed("ip", "iproute2", arguments, input);
    assert!(
        done.code == 0,
        "`ip {}` failed: hosts of a test's own take root with CAP_SYS_ADMIN and CAP_NET_ADMIN, the Debian packages iproute2 \
         and nftables, and a kernel with network namespaces, veth, bridges and nf_tables for bridges: {}",
        arguments.join(" "),
        done.stderr.trim()
    );
}

/// Runs a program of a package to its end, with this input.
#[track_caller]
fn fed(program: &str, package: &str, arguments: &[&str], input: &str) -> Finished {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = command.spawn().and_then(|mut child| {
        // One that ends without reading its input says why.
        let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
        child.wait_with_output()
    });
    match ended {
        Ok(output) => output.into(),
        Err(error) => panic!("{program} cannot be run ({error}): install the Debian package {package}"),
    }
}
