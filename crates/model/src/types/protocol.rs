//! What processes of different builds may expect of each other.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of what the processes of a cluster rely on in each other. Every process says its own; what a build writes
/// for others, and what it takes for granted of them, goes by the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Protocol(u32);

impl Protocol {
    /// Builds from before protocols had numbers say none.
    pub const UNNUMBERED: Self = Self(0);

    /// From here on a pooler's work ends by itself when its claim's lease is not renewed, fields and jobs of a newer build
    /// are left alone, and the minimum is kept to.
    pub const ENDS_LOST_WORK: Self = Self(1);

    /// From here on a pooler goes by the terms of a database with quorum commit.
    pub const QUORUM_COMMIT: Self = Self(2);

    /// From here on a pooler gives PostgreSQL the settings of the database's record, and restarts it as a job.
    pub const SETTINGS: Self = Self(3);

    /// This build's.
    pub const OURS: Self = Self::SETTINGS;

    /// A number, as records and messages have it.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Whether there is none to be written.
    #[must_use]
    pub const fn is_unnumbered(&self) -> bool {
        self.0 == Self::UNNUMBERED.0
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
