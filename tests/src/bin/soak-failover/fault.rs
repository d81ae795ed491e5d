//! What is done to the primary, and what else is the matter meanwhile.

use std::fmt;
use std::str::FromStr;

/// What ends a primary's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// All processes of its cell are killed at once.
    Cell,
    /// Its multipooler and PostgreSQL with all its processes are killed; pgBackRest's server goes on.
    PoolerAndPostgres,
    /// Its postmaster is killed. Whether it comes back or is replaced is the cluster's choice.
    Postmaster,
    /// All processes of its cell are stopped, and go on after a while.
    Frozen,
    /// It is moved on request.
    Switchover,
}

/// What else is the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beside {
    /// Nothing.
    Nothing,
    /// The postmaster of a standby was killed shortly before.
    Standby,
    /// etcd ends at the same moment, and is started again after some seconds.
    Etcd,
    /// The lost one is there again after some seconds, whether it has been replaced or not.
    Early,
    /// The last failover was less than half a minute ago, so the next one waits for 10 s or more on purpose.
    Soon,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Cell, Self::PoolerAndPostgres, Self::Postmaster, Self::Frozen, Self::Switchover];
}

impl Beside {
    const ALL: [Self; 5] = [Self::Nothing, Self::Standby, Self::Etcd, Self::Early, Self::Soon];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cell => "cell",
            Self::PoolerAndPostgres => "pooler-and-postgres",
            Self::Postmaster => "postmaster",
            Self::Frozen => "frozen",
            Self::Switchover => "switchover",
        })
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "-",
            Self::Standby => "standby",
            Self::Etcd => "etcd",
            Self::Early => "early",
            Self::Soon => "soon",
        })
    }
}

impl FromStr for Fault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|fault| fault.to_string() == text).ok_or(())
    }
}

impl FromStr for Beside {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|beside| beside.to_string() == text).ok_or(())
    }
}

/// One at random, of ten as many as its number says.
fn weighted<T: Copy>(chance: &mut fastrand::Rng, of: &[(T, u32)], otherwise: T) -> T {
    let total: u32 = of.iter().map(|(_, weight)| weight).sum();
    let mut at = chance.u32(..total);
    for (one, weight) in of {
        if at < *weight {
            return *one;
        }
        at -= weight;
    }
    otherwise
}

/// The next ones.
pub(crate) fn pick(chance: &mut fastrand::Rng, only: Option<Fault>) -> (Fault, Beside) {
    let faults = [
        (Fault::Cell, 7),
        (Fault::PoolerAndPostgres, 3),
        (Fault::Postmaster, 3),
        (Fault::Frozen, 4),
        (Fault::Switchover, 3),
    ];
    let fault = only.unwrap_or_else(|| weighted(chance, &faults, Fault::Cell));
    let mut besides = vec![(Beside::Nothing, 12), (Beside::Soon, 1)];
    // A switchover is refused without etcd or a standby, and nobody is away who could come back.
    if fault != Fault::Switchover {
        besides.extend([(Beside::Standby, 2), (Beside::Etcd, 2)]);
    }
    if matches!(fault, Fault::Cell | Fault::PoolerAndPostgres | Fault::Frozen) {
        besides.push((Beside::Early, 2));
    }
    (fault, weighted(chance, &besides, Beside::Nothing))
}
