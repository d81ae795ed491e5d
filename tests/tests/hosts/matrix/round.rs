//! One round: the network fails while something is under way, is whole again, and everything must be well.

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use cellar_tests::{HostsCluster, Ledger, cell_of, has_ended, wait_until};

use super::fault::Fault;
use super::work::{self, Work};

/// How long everything may take to be well after the network is whole, on a busy machine.
const WELL_TIMEOUT: Duration = Duration::from_secs(120);

/// A fault, what it meets, and for how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) fault: Fault,
    pub(super) work: Work,
    pub(super) lasts: Duration,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.0} s during {}", self.fault, self.lasts.as_secs_f64(), self.work)
    }
}

impl Round {
    /// Plays it, and checks what must hold afterwards. Gives what is worth knowing.
    ///
    /// # Panics
    /// When something does not hold.
    #[track_caller]
    pub(super) fn play(&self, cluster: &HostsCluster, ledger: &Ledger) -> String {
        eprintln!("{self} ...");
        let (begun, rows) = (Instant::now(), ledger.len());
        let primary = cluster.wait_streaming(WELL_TIMEOUT);
        let ((told, gone), _) = ledger.while_writing(cluster, || self.meet(cluster, ledger, &primary));
        assert!(ledger.len() > rows || !gone.is_empty(), "nothing was written");
        check(cluster, ledger, &gone);
        format!("{self}: {told}, {:.0} s", begun.elapsed().as_secs_f64())
    }

    /// The fault meets the work, and both end; what is to be told, and the rows that must be gone.
    #[track_caller]
    fn meet(&self, cluster: &HostsCluster, ledger: &Ledger, primary: &str) -> (String, BTreeSet<u64>) {
        let strike = || self.fault.strike(&cluster.hosts, self.lasts);
        let (mut told, mut gone) = (String::new(), BTreeSet::new());
        match self.work {
            Work::Nothing => strike(),
            Work::Backup(host) => {
                let id = work::begin_backup(cluster, host);
                strike();
                told = work::check_backup(cluster, host, &id);
            }
            Work::Restore { onto, step } => {
                let restore = work::begin_restore(cluster, ledger, primary, onto, step);
                strike();
                (told, gone) = work::check_restore(cluster, ledger, (primary, onto), &restore);
            }
            Work::Rotation(host) => told = self.during(cluster, || work::rotate(cluster, host)),
            Work::Addition => {
                told = self.during(cluster, || work::add(cluster));
                work::check_added(cluster);
            }
        }
        let healed = Instant::now();
        let _ = cluster.wait_streaming(WELL_TIMEOUT);
        (format!("{told}, all streamed after {:.1} s", healed.elapsed().as_secs_f64()), gone)
    }

    /// Does something while the fault lasts, and once more when it is over, if it failed.
    #[track_caller]
    fn during(&self, cluster: &HostsCluster, work: impl Fn() -> Result<(), String>) -> String {
        let first = std::thread::scope(|scope| {
            let _ = scope.spawn(|| self.fault.strike(&cluster.hosts, self.lasts));
            work()
        });
        match first {
            Ok(()) => "done at once".to_owned(),
            Err(error) => {
                wait_until("the same to be done when the network is whole", WELL_TIMEOUT, &work);
                format!("repeated after: {}", error.trim().replace('\n', " "))
            }
        }
    }
}

/// Everything is well: each host has what was acknowledged, one has the primary, all stream, all jobs have ended, and a
/// backup of a standby works. Nobody writes.
#[track_caller]
fn check(cluster: &HostsCluster, ledger: &Ledger, gone: &BTreeSet<u64>) {
    let _ = cluster.wait().ok();
    let primary = cluster.wait_streaming(WELL_TIMEOUT);
    wait_until("every pooler to report its role", WELL_TIMEOUT, || {
        let wrong = cluster.database_hosts().into_iter().find_map(|host| {
            let role = if host == primary { "ROLE_PRIMARY" } else { "ROLE_STANDBY" };
            let status = cluster.status(&cell_of(&host));
            let is_so = status.as_ref().is_some_and(|status| status["role"] == role);
            (!is_so).then(|| format!("{host} is not {role}: {status:?}"))
        });
        wrong.map_or(Ok(()), Err)
    });
    ledger.wait_for_all(cluster, gone, WELL_TIMEOUT);
    let jobs = cluster.json(&["jobs", "list", "--steps", "--limit", "500"]);
    for job in jobs["jobs"].as_array().unwrap() {
        assert!(has_ended(job), "has not ended: {job:#}");
    }
    let hosts = cluster.database_hosts();
    let standby = hosts.iter().find(|host| **host != primary).unwrap();
    let _ = cluster.back_up(&cell_of(standby));
}
