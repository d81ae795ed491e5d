//! The changes of a database's primary that were begun, for people to read. Nothing is decided by them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::records::leadership::{Position, Term};
use crate::types::json;
use crate::types::name::CellName;

/// As many are kept of one database.
const KEPT: usize = 100;

/// Who wanted another primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailoverKind {
    /// The primary was lost.
    #[serde(rename = "FAILOVER_KIND_LOST")]
    Lost,
    /// A person moved it.
    #[serde(rename = "FAILOVER_KIND_PLANNED")]
    Planned,
    /// A person asked for a failover.
    #[serde(rename = "FAILOVER_KIND_FORCED")]
    Forced,
}

/// One change of the primary. Spans are milliseconds by the monotonic clocks of the multiadmins that wrote the steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The term that promises were asked for; of a forced one that had to accept a loss, the one after it.
    pub term: Term,
    /// Who wanted it.
    pub kind: FailoverKind,
    /// Who led until then.
    pub from: CellName,
    /// Why, with those who saw it.
    pub why: String,
    /// When it began, by the clock of the multiadmin that decided.
    #[serde(with = "json::time")]
    pub begin_time: Timestamp,
    /// For how long nobody had heard of the primary as one when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unheard: Option<u32>,
    /// Who was appointed; none yet, or never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<CellName>,
    /// From where it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Position>,
    /// How many bytes of WAL the primary had when it was last heard that the new one has not. None of it was acknowledged, but
    /// where a person accepted a loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_behind: Option<u32>,
    /// How long promises were collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promises: Option<u32>,
    /// How long it took from the appointment until its first commit had its quorum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion: Option<u32>,
}

impl Failover {
    /// One that begins now; what comes of it is not known yet.
    #[must_use]
    pub fn begun(term: Term, kind: FailoverKind, from: CellName, why: String, begin_time: Timestamp) -> Self {
        Self {
            term,
            kind,
            from,
            why,
            begin_time,
            unheard: None,
            to: None,
            floor: None,
            left_behind: None,
            promises: None,
            promotion: None,
        }
    }

    /// From the last sign of life of the primary to the first commit of the next one, in milliseconds; none unless it came to
    /// its end.
    #[must_use]
    pub fn took(&self) -> Option<u32> {
        let rest = self.promises?.saturating_add(self.promotion?);
        Some(self.unheard.unwrap_or(0).saturating_add(rest))
    }
}

/// The last ones of a database, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailoverHistory {
    /// At most a hundred.
    pub failovers: Vec<Failover>,
}

impl FailoverHistory {
    /// With one more; the oldest goes when there are too many.
    #[must_use]
    pub fn with(&self, failover: Failover) -> Self {
        let all = self.failovers.iter().cloned().chain([failover]);
        let surplus = (self.failovers.len() + 1).saturating_sub(KEPT);
        Self { failovers: all.skip(surplus).collect() }
    }

    /// With the newest one changed, if it is that of `term`.
    #[must_use]
    pub fn changed(&self, term: Term, change: impl FnOnce(&mut Failover)) -> Self {
        let mut after = self.clone();
        if let Some(newest) = after.failovers.last_mut().filter(|newest| newest.term == term) {
            change(newest);
        }
        after
    }

    /// How long the last failovers of a lost primary took, in the middle; none before the first.
    #[must_use]
    pub fn typical(&self) -> Option<u32> {
        let lost = self.failovers.iter().rev().filter(|it| it.kind == FailoverKind::Lost);
        let mut took: Vec<u32> = lost.filter_map(Failover::took).take(9).collect();
        took.sort_unstable();
        took.get(took.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover(term: u32) -> Failover {
        let why = "its PostgreSQL ended and does not come back".to_owned();
        let from = "zone1".parse().unwrap();
        let begun = Failover::begun(Term::new(term), FailoverKind::Lost, from, why, Timestamp::UNIX_EPOCH);
        Failover { unheard: Some(2000), ..begun }
    }

    #[test]
    fn a_hundred_are_kept_and_only_the_newest_is_changed() {
        let mut history = FailoverHistory::default();
        for term in 1..=101 {
            history = history.with(failover(term));
        }
        assert_eq!(history.failovers.len(), 100);
        assert_eq!(history.failovers[0].term, Term::new(2));
        let same = history.changed(Term::new(7), |it| it.promises = Some(1));
        assert_eq!(same, history, "one that was overtaken");
        let after = history.changed(Term::new(101), |it| it.promises = Some(1));
        assert_eq!(after.failovers[99].promises, Some(1));
        assert_eq!(
            serde_json::from_str::<FailoverHistory>(&serde_json::to_string(&after).unwrap()).unwrap(),
            after
        );
    }

    #[test]
    fn what_is_typical_is_told_by_those_that_came_to_their_end() {
        let mut history = FailoverHistory::default().with(failover(1));
        assert_eq!(history.typical(), None);
        for (term, ms) in [(2, 900), (3, 100), (4, 500)] {
            let ended = Failover { promises: Some(ms), promotion: Some(50), ..failover(term) };
            history = history.with(ended).with(Failover { kind: FailoverKind::Planned, ..failover(term) });
        }
        assert_eq!(history.typical(), Some(2550));
    }
}
