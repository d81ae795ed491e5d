//! The rounds that every subject plays: its primary is lost, and a client waits for its next write.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use cellar_tests::{Place, Row, Writers, is_alive, overlap, signal};
use nix::sys::signal::Signal;

use crate::figure::note;

/// The writer's pace.
const PACE: Duration = Duration::from_millis(10);

/// Nobody takes longer, or something is wrong.
const WRITES_TIMEOUT: Duration = Duration::from_secs(180);

/// How a primary is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// All processes of its host or cell are killed at once.
    Host,
    /// Its postmaster is killed.
    Postmaster,
    /// Its postmaster is stopped.
    Frozen,
}

/// Somebody's cluster of three, with synchronous replication, and a table `ledger` that a client writes through HAProxy.
pub(crate) trait Subject {
    /// Makes `psql` of the client.
    fn client(&self) -> Box<dyn Fn() -> Command + Send>;
    /// The postmaster of the member whose PostgreSQL has this port.
    fn postmaster(&self, port: u16) -> i32;
    /// Everything of that member: its agent, and PostgreSQL with all its processes.
    fn processes(&self, port: u16) -> Vec<i32>;
    /// Starts what was killed, and waits until all is as before, and the next loss is not counted as one of the last.
    fn recover(&self);
    /// Which rows are in the primary.
    fn rows(&self) -> Vec<u64>;
}

fn kill(pids: &[i32], by: Signal) {
    pids.iter().for_each(|pid| signal(*pid, by));
    if by == Signal::SIGKILL {
        cellar_tests::eventually("processes that were killed to be gone", || {
            !pids.iter().any(|pid| is_alive(*pid))
        });
    }
}

/// Loses the primary so many times. Each sample is from the loss until a write that was asked for afterwards is acknowledged.
pub(crate) fn play(
    who: &str,
    subject: &impl Subject,
    loss: Loss,
    rounds: usize,
    samples: &mut Vec<Duration>,
) {
    let writers = Writers::start(vec![Place { psql: subject.client(), pace: PACE }]);
    let write = |since, by: &dyn Fn(&Row) -> bool| match writers.first(0, since, by, WRITES_TIMEOUT) {
        Some(row) => row,
        None => panic!("no write within {WRITES_TIMEOUT:?} after {loss:?}"),
    };
    for _ in 0..rounds {
        let before = write(Instant::now(), &|_| true);
        let postmaster = subject.postmaster(before.server.port);
        let pids = if loss == Loss::Host { subject.processes(before.server.port) } else { vec![postmaster] };
        let begun = Instant::now();
        kill(&pids, if loss == Loss::Frozen { Signal::SIGSTOP } else { Signal::SIGKILL });
        // A session of the one that is lost may end its statement before it notices.
        let first = write(Instant::now(), &|row| row.server != before.server);
        let took = first.acknowledged - begun;
        // At once: a run that is interrupted has said what it has.
        note(&format!("  {who}, {loss:?}: {:.2} s", took.as_secs_f64()));
        samples.push(took);
        if loss == Loss::Frozen {
            sleep(Duration::from_secs(1));
            kill(&pids, Signal::SIGCONT);
        }
        subject.recover();
    }
    let rows = writers.end();
    let there: std::collections::BTreeSet<u64> = subject.rows().into_iter().collect();
    let lost = rows.iter().filter(|row| !there.contains(&row.id)).count();
    note(&format!(
        "  {who}, {loss:?}: {lost} of {} acknowledged rows are missing; {:?}",
        rows.len(),
        overlap(&rows)
    ));
}
