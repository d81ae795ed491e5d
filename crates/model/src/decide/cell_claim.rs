//! Whether a pooler process may run its cell: two machines may have the keys of one.
//!
//! The machine that ran a cell last goes on to run it. Another one takes the cell over only if it never ran it, so an
//! operator has just installed it there, and only when the one before has been silent for so long that its work has
//! ended (see [`claim_times`](crate::decide::claim_times)). A machine whose cell was taken over never takes it back by
//! itself: its data may be old, and it cannot know what the other one has done since.

use std::time::Duration;

use crate::decide::claim_times::LOST_TIMEOUT;
use crate::records::cell_claim::{CellClaim, OwnClaims};

/// What is known of a cell.
#[derive(Debug, Clone, Copy)]
pub struct CellScene<'a> {
    /// What this machine remembers.
    pub own: &'a OwnClaims,
    /// The claim in etcd.
    pub claim: Option<&'a CellClaim>,
    /// The process whose status is in etcd: it lives, or has died within the last lease.
    pub reporting: Option<&'a str>,
    /// For how long this process has seen no other machine's process report, since it began to look.
    pub quiet: Duration,
    /// Whether this process has seen another machine's process report.
    pub heard: bool,
}

/// What a process does about its cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CellDecision {
    /// Claim it with this number.
    Claim(u32),
    /// Nothing as yet: another machine's process runs it, or did a moment ago.
    Wait,
    /// Nothing until an operator gives the cell to this machine: another one has taken it over, with this claim.
    TakenOver(CellClaim),
}

/// Decides whether a process may run its cell.
#[must_use]
pub fn decide_cell(scene: CellScene<'_>) -> CellDecision {
    let CellScene { own, claim, reporting, quiet, heard } = scene;
    if let Some(by) = &own.taken_over_by {
        return CellDecision::TakenOver(by.clone());
    }
    let others = claim.filter(|claim| !own.has(&claim.epoch));
    // A record with a lower number than this machine's own was put back with etcd: it does not know of this machine.
    if let Some(by) = others.filter(|claim| own.number > 0 && claim.number >= own.number) {
        return CellDecision::TakenOver(by.clone());
    }
    if reporting.is_some_and(|epoch| !own.has(epoch)) || (others.is_some() || heard) && quiet < LOST_TIMEOUT {
        return CellDecision::Wait;
    }
    let recorded = claim.map_or(0, |claim| claim.number);
    let next = own.number.max(recorded).saturating_add(u32::from(others.is_some()));
    CellDecision::Claim(next.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(number: u32, epochs: &[&str]) -> OwnClaims {
        OwnClaims { number, epochs: epochs.iter().map(ToString::to_string).collect(), taken_over_by: None }
    }

    fn claim(number: u32, epoch: &str) -> CellClaim {
        CellClaim { number, epoch: epoch.to_owned(), machine: "m".to_owned() }
    }

    fn lost(to: &CellClaim) -> CellDecision {
        CellDecision::TakenOver(to.clone())
    }

    fn decide(
        own: &OwnClaims,
        claim: Option<&CellClaim>,
        reporting: Option<&str>,
        quiet: u64,
    ) -> CellDecision {
        let quiet = Duration::from_secs(quiet);
        decide_cell(CellScene { own, claim, reporting, quiet, heard: false })
    }

    #[test]
    fn cell_goes_on_at_once_on_the_machine_that_ran_it_last() {
        assert_eq!(decide(&OwnClaims::default(), None, None, 0), CellDecision::Claim(1), "a new cell");
        let (first, mine) = (own(1, &["a1", "a2"]), claim(1, "a1"));
        for reporting in [None, Some("a1"), Some("a2")] {
            assert_eq!(decide(&first, Some(&mine), reporting, 0), CellDecision::Claim(1), "{reporting:?}");
        }
        assert_eq!(decide(&first, None, None, 0), CellDecision::Claim(1), "etcd lost its data");
        assert_eq!(decide(&OwnClaims::of_older_build(), None, None, 0), CellDecision::Claim(1));
    }

    #[test]
    fn new_machine_waits_until_the_work_of_the_one_before_has_ended() {
        let (new, old) = (OwnClaims::default(), claim(3, "a1"));
        assert_eq!(decide(&new, Some(&old), Some("a1"), 3600), CellDecision::Wait, "it lives");
        assert_eq!(decide(&new, Some(&old), None, LOST_TIMEOUT.as_secs() - 1), CellDecision::Wait);
        assert_eq!(decide(&new, Some(&old), None, LOST_TIMEOUT.as_secs()), CellDecision::Claim(4));
        // One of an older build makes no claim, and is known by its status only.
        assert_eq!(decide(&new, None, Some("a1"), 3600), CellDecision::Wait);
        let heard = |quiet| {
            let quiet = Duration::from_secs(quiet);
            decide_cell(CellScene { own: &new, claim: None, reporting: None, quiet, heard: true })
        };
        assert_eq!(heard(LOST_TIMEOUT.as_secs() - 1), CellDecision::Wait);
        assert_eq!(heard(LOST_TIMEOUT.as_secs()), CellDecision::Claim(1));
    }

    #[test]
    fn machine_whose_cell_was_taken_over_never_takes_it_back() {
        let (before, theirs) = (own(1, &["a1"]), claim(2, "b1"));
        for reporting in [None, Some("b1"), Some("a1")] {
            assert_eq!(decide(&before, Some(&theirs), reporting, 3600), lost(&theirs));
        }
        assert_eq!(decide(&OwnClaims::of_older_build(), Some(&theirs), None, 3600), lost(&theirs));
        // etcd is put back to a state from before, or has lost the claim: this machine remembers it.
        let told = OwnClaims { taken_over_by: Some(theirs.clone()), ..before.clone() };
        for known in [None, Some(&claim(1, "a1")), Some(&theirs)] {
            assert_eq!(decide(&told, known, None, 3600), lost(&theirs), "{known:?}");
        }
        // Two that took it over at the same time: one of the claims was written.
        assert_eq!(decide(&own(2, &["c1"]), Some(&theirs), None, 3600), lost(&theirs));
        // A copy of the machine, with all that it remembers, knows the processes of its original until it was made.
        let copy = own(1, &["a1", "c1"]);
        assert_eq!(decide(&copy, Some(&claim(1, "a2")), None, 3600), lost(&claim(1, "a2")));
        // An operator gives the cell to it.
        assert_eq!(decide(&OwnClaims::default(), Some(&theirs), None, 3600), CellDecision::Claim(3));
    }

    #[test]
    fn claim_that_was_put_back_with_etcd_does_not_hold_up_the_machine_that_has_the_cell() {
        let (later, put_back) = (own(2, &["b1"]), claim(1, "a1"));
        assert_eq!(decide(&later, Some(&put_back), Some("a1"), 3600), CellDecision::Wait, "both live");
        assert_eq!(decide(&later, Some(&put_back), None, 3600), CellDecision::Claim(3));
        // The number is above all that any machine remembers, so the other one stays out.
        assert_eq!(decide(&own(1, &["a1"]), Some(&claim(3, "b2")), None, 3600), lost(&claim(3, "b2")));
    }

    proptest::proptest! {
        /// Two machines in any order of starts, deaths and takeovers: a process that has lost its cell never decides to
        /// claim it again, whatever it is told of who reports.
        #[test]
        fn what_was_taken_over_stays_so(
            number in 1_u32..5, ahead in 0_u32..5, quiet in 0_u64..100, heard: bool, reports in 0_u8..3,
        ) {
            let (mine, theirs) = (own(number, &["a1"]), claim(number + ahead, "b1"));
            let reporting = [None, Some("a1"), Some("b1")][usize::from(reports)];
            let quiet = Duration::from_secs(quiet);
            let scene = CellScene { own: &mine, claim: Some(&theirs), reporting, quiet, heard };
            proptest::prop_assert_eq!(decide_cell(scene), CellDecision::TakenOver(theirs.clone()));
        }

        /// Nobody claims a cell while another machine's process reports for it.
        #[test]
        fn nobody_claims_a_cell_for_which_another_machine_reports(
            number in 0_u32..5, recorded in 0_u32..5, is_mine: bool, quiet in 0_u64..100, heard: bool,
        ) {
            let mine = own(number, &["a1"]);
            let record = (recorded > 0).then(|| claim(recorded, if is_mine { "a1" } else { "b1" }));
            let quiet = Duration::from_secs(quiet);
            let scene = CellScene { own: &mine, claim: record.as_ref(), reporting: Some("b1"), quiet, heard };
            proptest::prop_assert!(!matches!(decide_cell(scene), CellDecision::Claim(_)));
        }
    }
}
