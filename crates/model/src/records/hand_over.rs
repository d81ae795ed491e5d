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
}

impl HandOverRequest {
    /// Whether it still holds, at a time since the host was started.
    #[must_use]
    pub fn holds(&self, uptime: Duration) -> bool {
        uptime < Duration::from_secs(self.until)
    }
}

impl HandOverAnswer {
    /// What the multipooler of a cell answers, by the record that leads its database; none for one that does not govern.
    #[must_use]
    pub fn of(cell: &CellName, record: Option<&Leadership>) -> Option<Self> {
        let Some(record) = record else { return Some(Self::NoQuorumCommit) };
        match (record.cell == *cell, record.phase) {
            (false, Phase::Steady) => Some(Self::Elsewhere),
            (false, _) => Some(Self::Begun),
            (true, _) if record.handover.is_some() => Some(Self::Begun),
            (true, _) => None,
        }
    }
}
