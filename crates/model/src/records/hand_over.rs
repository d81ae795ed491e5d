//! What the `cellar` of a host and its multipooler tell each other in a file, before the host stops.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::records::leadership::{Leadership, Phase};
use crate::types::name::CellName;

/// What is asked of a multipooler: that another cell has the primary; and what it has answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandOverRequest {
    /// Until when it is asked, in seconds since the host was started: a request that nobody takes back ends by itself.
    pub until: u64,
    /// What the multipooler has answered; none before it has, and while nothing has begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<HandOverAnswer>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HandOverAnswer {
    /// The database has no quorum commit: its primary is not moved.
    NoQuorumCommit,
    /// The primary is being moved.
    Begun,
    /// Another cell has the primary.
    Elsewhere,
    /// The move was given up, and is not begun again: each attempt stops writes.
    GivenUp,
}

impl HandOverRequest {
    /// Whether it still holds, at a time since the host was started.
    #[must_use]
    pub fn holds(&self, uptime: Duration) -> bool {
        uptime < Duration::from_secs(self.until)
    }
}

impl HandOverAnswer {
    /// What the multipooler of a cell answers after what it answered `before`, by the record that governs its database.
    #[must_use]
    pub fn of(cell: &CellName, record: Option<&Leadership>, before: Option<Self>) -> Option<Self> {
        let Some(record) = record else { return Some(Self::NoQuorumCommit) };
        match (record.cell == *cell, record.phase) {
            (false, Phase::Steady) => Some(Self::Elsewhere),
            (false, _) => Some(Self::Begun),
            (true, _) if record.handover.is_some() => Some(Self::Begun),
            (true, _) if matches!(before, Some(Self::Begun | Self::GivenUp)) => Some(Self::GivenUp),
            (true, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_move_that_was_given_up_is_not_begun_again() {
        let (zone1, zone2): (CellName, CellName) = ("zone1".parse().unwrap(), "zone2".parse().unwrap());
        let steady = Leadership::begin(zone1.clone(), BTreeMap::new());
        let moving = Leadership { handover: Some(zone2.clone()), ..steady.clone() };
        let of = |cell, record, before| HandOverAnswer::of(cell, Some(record), before);
        assert_eq!(of(&zone1, &steady, None), None);
        assert_eq!(of(&zone1, &moving, None), Some(HandOverAnswer::Begun));
        for before in [HandOverAnswer::Begun, HandOverAnswer::GivenUp] {
            assert_eq!(of(&zone1, &steady, Some(before)), Some(HandOverAnswer::GivenUp));
        }
        assert_eq!(of(&zone2, &steady, None), Some(HandOverAnswer::Elsewhere));
        assert_eq!(HandOverAnswer::of(&zone1, None, None), Some(HandOverAnswer::NoQuorumCommit));
    }
}
