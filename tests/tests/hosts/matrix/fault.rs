//! What the network between the three cells does in a round.

use std::fmt;
use std::time::{Duration, Instant};

use cellar_tests::Hosts;

const HOSTS: [&str; 3] = ["db1", "db2", "db3"];

/// For how long a flapping host is cut off, and is there again, in turns.
const FLAPS: [(Duration, Duration); 4] = [
    (Duration::from_millis(1000), Duration::from_millis(500)),
    (Duration::from_millis(3000), Duration::from_millis(1000)),
    (Duration::from_millis(200), Duration::from_millis(2000)),
    (Duration::from_millis(6000), Duration::from_millis(200)),
];

/// A failure of the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A host is cut off from all others, the operator's too.
    Alone(&'static str),
    /// Two hosts are cut off from each other.
    Pair(&'static str, &'static str),
    /// No packet of one host arrives at another.
    OneWay { from: &'static str, to: &'static str },
    /// A host is cut off and is there again, over and over.
    Flapping(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alone(host) => write!(f, "{host} alone"),
            Self::Pair(one, other) => write!(f, "{one} and {other} apart"),
            Self::OneWay { from, to } => write!(f, "nothing from {from} to {to}"),
            Self::Flapping(host) => write!(f, "{host} flapping"),
        }
    }
}

impl Fault {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let pairs = || HOSTS.into_iter().flat_map(|from| HOSTS.map(|to| (from, to)));
        let alone = HOSTS.map(Self::Alone).into_iter().chain(HOSTS.map(Self::Flapping));
        let apart = pairs().filter(|(one, other)| one < other).map(|(one, other)| Self::Pair(one, other));
        let one_way = pairs().filter(|(from, to)| from != to).map(|(from, to)| Self::OneWay { from, to });
        alone.chain(apart).chain(one_way).collect()
    }

    /// Begins, lasts for so long, and is over.
    pub(super) fn strike(self, hosts: &Hosts, lasts: Duration) {
        let begun = Instant::now();
        match self {
            Self::Alone(host) => hosts.isolate(host),
            Self::Pair(one, other) => hosts.cut(one, other),
            Self::OneWay { from, to } => hosts.cut_one_way(from, to),
            Self::Flapping(host) => {
                for (cut, whole) in FLAPS.into_iter().cycle() {
                    hosts.isolate(host);
                    std::thread::sleep(cut.min(lasts.saturating_sub(begun.elapsed())));
                    hosts.heal_all();
                    if begun.elapsed() + whole >= lasts {
                        return;
                    }
                    std::thread::sleep(whole);
                }
            }
        }
        // How long a failure lasts is what a round is about; nothing is awaited here.
        std::thread::sleep(lasts.saturating_sub(begun.elapsed()));
        hosts.heal_all();
    }
}
