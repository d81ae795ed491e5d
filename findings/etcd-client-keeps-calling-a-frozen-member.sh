#!/usr/bin/env bash
# etcd-client 0.21.1: of three endpoints one is frozen, and a third of all calls goes on being lost to it.
#
# A client is given the endpoints of three healthy members. Then one of them is stopped (SIGSTOP), as a host is whose
# disk hangs: its kernel takes connections, and nothing answers. A majority is there, so every call could be answered at
# once. But etcd-client hands its endpoints to tonic's balanced channel, which chooses by load, and tonic's load of an
# endpoint is always 0 (read in its source): each call goes to a random one. So does the repetition of a call, with the
# same chance to be lost, and several in a row are. What avoids it: one client for each endpoint, and another one used
# after a failure.
#
# Needs: bash, etcd, cargo, python3, the package index.
set -euo pipefail

work=$(mktemp -d /tmp/finding.XXXXXX)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

free_ports() {
    python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*[one.getsockname()[1] for one in held])
PYTHON
}
read -r -a ports <<< "$(free_ports 6)"
url() { echo "http://127.0.0.1:${ports[$1]}"; }
peers="m0=$(url 3),m1=$(url 4),m2=$(url 5)"
for n in 0 1 2; do
    etcd --name "m$n" --data-dir "$work/m$n" --initial-cluster "$peers" --log-level error \
        --listen-client-urls "$(url $n)" --advertise-client-urls "$(url $n)" \
        --listen-peer-urls "$(url $((n + 3)))" --initial-advertise-peer-urls "$(url $((n + 3)))" > "$work/log$n" 2>&1 &
    pids+=($!)
done

mkdir "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
etcd-client = { version = "=0.21.1", default-features = false }
tokio = { version = "1", features = ["macros", "rt-multi-thread", "time", "io-std", "io-util"] }
[workspace]
TOML
cat > "$work/src/main.rs" <<'RUST'
use std::time::Duration;
use etcd_client::{Client, ConnectOptions};
use tokio::time::timeout;

async fn calls(client: &mut Client, count: u32) -> (u32, u32) {
    let (mut lost, mut in_a_row, mut longest) = (0, 0, 0);
    for _ in 0..count {
        match timeout(Duration::from_millis(500), client.get("k", None)).await {
            Ok(Ok(_)) => in_a_row = 0,
            _ => { lost += 1; in_a_row += 1; longest = longest.max(in_a_row); }
        }
    }
    (lost, longest)
}

#[tokio::main]
async fn main() {
    let endpoints: Vec<String> = std::env::args().skip(2).collect();
    let options = ConnectOptions::new().with_connect_timeout(Duration::from_secs(3));
    let mut client = Client::connect(endpoints, Some(options)).await.unwrap();
    // All connections stand once sixty calls in a row were answered.
    while calls(&mut client, 60).await.0 > 0 {}
    let frozen = std::env::args().nth(1).unwrap();
    let status = std::process::Command::new("kill").args(["-STOP", &frozen]).status().unwrap();
    assert!(status.success());
    // A new leader is elected by the two others, if it was the leader.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (lost, longest) = calls(&mut client, 60).await;
    println!("{lost} {longest}");
}
RUST
cargo build --quiet --manifest-path "$work/Cargo.toml"
read -r lost longest <<< "$(timeout 120 "$work/target/debug/finding" "${pids[0]}" "$(url 0)" "$(url 1)" "$(url 2)")"
echo "version: $(etcd --version | head -1)"
echo "calls lost of 60 while two of three members are healthy: $lost, $longest of them in a row"
# A command each: in a list with && a failure of any but the last ends nothing.
[ "$lost" -ge 5 ]
[ "$longest" -ge 2 ]
echo "as described"
