//! The partition matrix: every cell cut off alone, every two from each other, every link in one direction, and links that
//! come and go; while nothing, a backup, each step of a restore, a change of keys or a new cell is under way. Rows are
//! written all the time, and those that were acknowledged must be there when the network is whole again.
//!
//! A part of it is a test; the whole of it runs by `make soak-hosts`, in an order that a seed gives.

mod fault;
mod round;
mod work;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use cellar_tests::{HostsCluster, Ledger};

use fault::Fault;
use round::Round;
use work::{STEPS, Work};

/// A cluster of three cells, a host for a fourth, and a ledger.
#[track_caller]
fn cluster() -> Option<(HostsCluster, Ledger)> {
    let cluster = HostsCluster::well_of(3, 4)?;
    let ledger = Ledger::create(&cluster, "db1");
    Some((cluster, ledger))
}

#[track_caller]
fn play(table: &[(Fault, Work, u64)]) {
    let Some((cluster, ledger)) = cluster() else { return };
    for (fault, work, seconds) in table {
        let round = Round { fault: *fault, work: *work, lasts: Duration::from_secs(*seconds) };
        eprintln!("{}", round.play(&cluster, &ledger));
    }
}

#[test]
fn a_restore_and_a_backup_tell_the_truth_when_the_network_fails() {
    play(&[
        (Fault::OneWay { from: "db2", to: "db1" }, Work::Backup("db2"), 10),
        (Fault::Alone("db1"), Work::Restore { onto: "db2", step: "RECOVER" }, 10),
    ]);
}

#[test]
fn keys_are_changed_and_a_cell_is_added_while_the_network_fails() {
    play(&[
        (Fault::Flapping("db3"), Work::Rotation("db1"), 6),
        (Fault::Pair("db1", "db3"), Work::Addition, 8),
    ]);
}

/// All rounds, in the order of a seed; hosts of work and durations are the seed's too.
fn matrix(chance: &mut fastrand::Rng) -> Vec<Round> {
    const HOSTS: [&str; 3] = ["db1", "db2", "db3"];
    const MOST_SECONDS: u64 = 45;
    let mut rounds = Vec::new();
    for fault in Fault::all() {
        let mut host = || HOSTS[chance.usize(..HOSTS.len())];
        let mut works = vec![Work::Nothing, Work::Backup(host()), Work::Rotation(host()), Work::Addition];
        works.extend(STEPS.map(|step| Work::Restore { onto: host(), step }));
        rounds.extend(works.into_iter().map(|work| {
            // Short ones as often as long ones.
            let most = chance.u64(2..=MOST_SECONDS);
            Round { fault, work, lasts: Duration::from_secs(chance.u64(1..=most)) }
        }));
    }
    chance.shuffle(&mut rounds);
    rounds
}

/// A number that the environment gives, such as the seed of `make soak-hosts SEED=9`.
fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
#[ignore = "the whole matrix takes hours: make soak-hosts"]
fn the_whole_matrix_again_and_again() {
    let seed = given("CELLAR_MATRIX_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000));
    let most = given("CELLAR_MATRIX_ROUNDS").map_or(usize::MAX, |most| usize::try_from(most).unwrap());
    let only = std::env::var("CELLAR_MATRIX_ONLY").unwrap_or_default();
    eprintln!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let rounds = std::iter::repeat_with(|| matrix(&mut chance)).flatten().enumerate();
    let mut rounds = rounds.filter(|(_, round)| round.to_string().contains(&only)).take(most).peekable();
    let mut failed = Vec::new();
    while rounds.peek().is_some() {
        // After a failure the next rounds have a new cluster.
        let mut at = None;
        let played = catch_unwind(AssertUnwindSafe(|| {
            let Some((cluster, ledger)) = cluster() else { return };
            for (number, round) in rounds.by_ref() {
                at = Some((number, round));
                eprintln!("{number}: {}", round.play(&cluster, &ledger));
            }
        }));
        match (played, at) {
            (Err(_), Some((number, round))) => {
                eprintln!("FAILED in round {number} of seed {seed}: {round}");
                failed.push(format!("{number}: {round}"));
            }
            (Err(panic), None) => std::panic::resume_unwind(panic),
            (Ok(()), _) => break,
        }
    }
    assert!(failed.is_empty(), "seed {seed}: {failed:#?}");
}
