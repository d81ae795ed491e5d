//! etcd's command line, for the one member of a local cluster and for each of several on hosts. Pure.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use cellar_tls::REVOCATIONS;

/// Largest database, in bytes: etcd's recommended default, set here so that another version cannot change it.
const MAX_DATABASE_BYTES: u64 = 2 << 30;

/// Transactions between snapshots. etcd keeps that many in memory, and its default of 100,000 costs
/// hundreds of megabytes on a machine that a person works on.
const SNAPSHOT_COUNT: u32 = 10_000;

/// How often a leader says that it lives, and how long the others wait before they elect another, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Election {
    heartbeat: u32,
    timeout: u32,
}

/// A single member elects itself; waiting for others would only delay every restart.
const ALONE: Election = Election { heartbeat: 50, timeout: 250 };

/// etcd wants a heartbeat of about one round trip and an election timeout of ten at least: these allow for 150 ms, more
/// than between regions of a continent. The timeout must also be longer than the pauses of a healthy member, which waits
/// for fsync on a disk that PostgreSQL and pgBackRest use too: half a second is common there, so the default of one
/// second is doubtful and a second and a half is not. It is not longer, because members elect after one to two of these
/// timeouts: three seconds at most, within the five that every call to etcd may take, so that a lost leader costs one
/// call. Leases are no reason for a shorter one: none ends without a leader, and a new leader starts them all again.
const WITH_OTHERS: Election = Election { heartbeat: 150, timeout: 1500 };

/// Whether a member begins a new cluster with the others or joins one that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdInitialState {
    /// All members are new and have no data. Also right for every later start: etcd then goes by its data.
    New,
    /// The member was added to a cluster that runs, and has no data yet.
    Existing,
}

/// One member as the others know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdPeer {
    /// Its name.
    pub name: String,
    /// Where it is reached by the other members, such as `https://db1.example.net:12380`.
    pub peer_url: String,
}

/// All that the command line of a member depends on.
#[derive(Debug, Clone)]
pub struct EtcdMemberOptions<'a> {
    /// Its name, which must be among `members`.
    pub name: &'a str,
    /// The host by which clients and members reach it; its two certificates must name it.
    ///
    /// A member also checks who connects to it: the address that a peer comes from must be in that peer's certificate,
    /// or the one that a DNS name in it leads to. So each host must send from the address that its name has.
    pub host: &'a str,
    /// The addresses that it listens at.
    pub listen: &'a [IpAddr],
    /// The port for clients.
    pub client_port: u16,
    /// The port for the other members.
    pub peer_port: u16,
    /// Directory with `server.{crt,key}`, `peer.crt`, `ca.crt` and the revocation list.
    pub tls: &'a Path,
    /// Its data directory.
    pub data: &'a Path,
    /// All members, itself among them, in the same order on every host.
    pub members: &'a [EtcdPeer],
    /// What tells this cluster from any other whose members might be reached by mistake.
    pub token: &'a str,
    /// Whether the cluster is new.
    pub state: EtcdInitialState,
}

/// The members as etcd's programs are told them.
pub(crate) fn initial_cluster(members: &[EtcdPeer]) -> String {
    let peer = |one: &EtcdPeer| format!("{}={}", one.name, one.peer_url);
    members.iter().map(peer).collect::<Vec<_>>().join(",")
}

/// The arguments of a member. Those of a single member stay as they were when running clusters were made.
#[must_use]
pub fn etcd_arguments(member: &EtcdMemberOptions<'_>) -> Vec<String> {
    let file = |name: &str| member.tls.join(name).display().to_string();
    let listen = |port| {
        let urls = member.listen.iter().map(|address| format!("https://{}", SocketAddr::new(*address, port)));
        urls.collect::<Vec<_>>().join(",")
    };
    let alone = member.members.len() == 1;
    let election = if alone { ALONE } else { WITH_OTHERS };
    let own = |port| format!("https://{}:{port}", member.host);
    let mut flags = vec![
        ("--name", member.name.to_owned()),
        ("--data-dir", member.data.display().to_string()),
        ("--listen-client-urls", listen(member.client_port)),
        ("--advertise-client-urls", own(member.client_port)),
        ("--listen-peer-urls", listen(member.peer_port)),
        ("--initial-advertise-peer-urls", own(member.peer_port)),
        ("--initial-cluster", initial_cluster(member.members)),
        ("--initial-cluster-token", member.token.to_owned()),
        ("--cert-file", file("server.crt")),
        ("--key-file", file("server.key")),
        ("--trusted-ca-file", file("ca.crt")),
        ("--client-crl-file", file(REVOCATIONS)),
        ("--peer-cert-file", file("peer.crt")),
        ("--peer-key-file", file("server.key")),
        ("--peer-trusted-ca-file", file("ca.crt")),
        ("--peer-crl-file", file(REVOCATIONS)),
        // Without it any certificate of the cluster could be used as a member's.
        ("--peer-cert-allowed-cn", "etcd-peer".to_owned()),
        ("--auto-compaction-mode", "periodic".to_owned()),
        ("--auto-compaction-retention", "1h".to_owned()),
        ("--quota-backend-bytes", MAX_DATABASE_BYTES.to_string()),
        ("--snapshot-count", SNAPSHOT_COUNT.to_string()),
        ("--heartbeat-interval", election.heartbeat.to_string()),
        ("--election-timeout", election.timeout.to_string()),
        ("--logger", "zap".to_owned()),
        ("--log-level", "warn".to_owned()),
        ("--log-outputs", "stderr".to_owned()),
    ];
    if !alone {
        let state = match member.state {
            EtcdInitialState::New => "new",
            EtcdInitialState::Existing => "existing",
        };
        flags.extend([
            ("--initial-cluster-state", state.to_owned()),
            // A member that comes back from behind a cut would else depose a healthy leader with its higher term. The
            // default from etcd 3.5 on.
            ("--pre-vote", "true".to_owned()),
        ]);
    }
    let mut arguments: Vec<String> =
        flags.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
    arguments.extend(["--client-cert-auth".to_owned(), "--peer-client-cert-auth".to_owned()]);
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(names: &[&str], state: EtcdInitialState) -> Vec<String> {
        let members: Vec<EtcdPeer> = names
            .iter()
            .map(|name| EtcdPeer {
                name: (*name).to_owned(),
                peer_url: format!("https://{}:12380", host_of(name)),
            })
            .collect();
        let listen: Vec<IpAddr> = match names {
            [_] => vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            _ => vec!["0.0.0.0".parse().unwrap()],
        };
        etcd_arguments(&EtcdMemberOptions {
            name: names[0],
            host: &host_of(names[0]),
            listen: &listen,
            client_port: 12379,
            peer_port: 12380,
            tls: Path::new("/c/etcd/tls"),
            data: Path::new("/c/etcd/data"),
            members: &members,
            token: "cellar-demo",
            state,
        })
    }

    fn host_of(name: &str) -> String {
        if name == "localhost" { name.to_owned() } else { format!("{name}.example.net") }
    }

    /// As running local clusters were started: a process is found by `--data-dir`, and its data have its name.
    const LOCAL: &str = "\
--name=localhost
--data-dir=/c/etcd/data
--listen-client-urls=https://127.0.0.1:12379,https://[::1]:12379
--advertise-client-urls=https://localhost:12379
--listen-peer-urls=https://127.0.0.1:12380,https://[::1]:12380
--initial-advertise-peer-urls=https://localhost:12380
--initial-cluster=localhost=https://localhost:12380
--initial-cluster-token=cellar-demo
--cert-file=/c/etcd/tls/server.crt
--key-file=/c/etcd/tls/server.key
--trusted-ca-file=/c/etcd/tls/ca.crt
--client-crl-file=/c/etcd/tls/ca.crl
--peer-cert-file=/c/etcd/tls/peer.crt
--peer-key-file=/c/etcd/tls/server.key
--peer-trusted-ca-file=/c/etcd/tls/ca.crt
--peer-crl-file=/c/etcd/tls/ca.crl
--peer-cert-allowed-cn=etcd-peer
--auto-compaction-mode=periodic
--auto-compaction-retention=1h
--quota-backend-bytes=2147483648
--snapshot-count=10000
--heartbeat-interval=50
--election-timeout=250
--logger=zap
--log-level=warn
--log-outputs=stderr
--client-cert-auth
--peer-client-cert-auth";

    #[test]
    fn arguments_of_the_one_member_of_a_local_cluster_stay_as_they_are() {
        assert_eq!(arguments(&["localhost"], EtcdInitialState::New).join("\n"), LOCAL);
    }

    #[test]
    fn several_members_know_each_other_and_wait_longer_before_they_elect() {
        let of = |state| arguments(&["zone1", "zone2", "zone3"], state);
        let peers =
            ["zone1", "zone2", "zone3"].map(|name| format!("{name}=https://{name}.example.net:12380"));
        let new = of(EtcdInitialState::New);
        for wanted in [
            "--name=zone1",
            "--listen-client-urls=https://0.0.0.0:12379",
            "--advertise-client-urls=https://zone1.example.net:12379",
            "--initial-advertise-peer-urls=https://zone1.example.net:12380",
            &format!("--initial-cluster={}", peers.join(",")),
            "--initial-cluster-state=new",
            "--pre-vote=true",
            "--heartbeat-interval=150",
            "--election-timeout=1500",
            "--peer-cert-allowed-cn=etcd-peer",
            "--peer-client-cert-auth",
        ] {
            assert!(new.iter().any(|argument| argument == wanted), "{wanted} is not in {new:#?}");
        }
        let differing: Vec<(String, String)> =
            new.into_iter().zip(of(EtcdInitialState::Existing)).filter(|(new, other)| new != other).collect();
        let states = ("--initial-cluster-state=new".into(), "--initial-cluster-state=existing".into());
        assert_eq!(differing, [states]);
    }

    /// etcd refuses an election timeout below five heartbeats, and above 50 seconds.
    #[test]
    fn election_is_over_within_the_time_of_one_call() {
        const CALL_TIMEOUT_MS: u32 = 5000;
        for (election, longest_round_trip_ms) in [(ALONE, 0), (WITH_OTHERS, 150)] {
            assert!(election.timeout >= 5 * election.heartbeat);
            assert!(election.timeout >= 10 * longest_round_trip_ms);
            assert!(2 * election.timeout + 1000 < CALL_TIMEOUT_MS);
        }
    }
}
