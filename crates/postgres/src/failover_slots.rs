//! What PostgreSQL 17 and later are told so that logical slots outlive a change of the primary.
//!
//! A standby synchronises them while it streams with its own physical slot. It is told so only while it streams steadily, and told
//! otherwise as soon as it does not: PostgreSQL refuses a slot that an old connection still holds, and one that is missing.

use std::fmt::Write as _;

use crate::error::PostgresError;
use crate::setting_value::quoted;

/// The first major version that synchronises slots.
pub const FAILOVER_SLOTS_SINCE: u32 = 17;

/// The database through which a standby asks for slots. They are those of all databases.
pub(crate) const SYNC_DATABASE: &str = "postgres";

/// A slot with which nobody streams: who waits for it waits until another is named. No cell's slot has this name.
///
/// It is there. A name without a slot would do for who waits, but before 17.7 and 18.1 PostgreSQL looks a slot up in each process
/// that takes the setting: parallel workers fail without it, and WAL senders that run keep the setting that they had.
pub const NOBODYS_SLOT: &str = "cellar__nobody";

/// What an instance is told of them. Versions before 17 are told nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailoverSlots {
    /// The physical slot with which it streams and synchronises; none to stream without and to synchronise nothing.
    pub own: Option<String>,
    /// The physical slots, with commas between them, that must have what a subscriber gets from a failover slot.
    pub awaited: String,
}

impl FailoverSlots {
    /// The lines of `cellar.conf`. `gives_feedback` is whether `hot_standby_feedback` was given by somebody else.
    pub(crate) fn lines(&self, gives_feedback: bool) -> Result<String, PostgresError> {
        let mut lines = String::new();
        let mut line = |name: &str, value: &str| {
            let value = quoted(name, value)?;
            let _ = writeln!(lines, "{name} = {value}");
            Ok::<_, PostgresError>(())
        };
        line("synchronized_standby_slots", &self.awaited)?;
        line("sync_replication_slots", if self.own.is_some() { "on" } else { "off" })?;
        if let Some(own) = &self.own {
            line("primary_slot_name", own)?;
            if !gives_feedback {
                line("hot_standby_feedback", "on")?;
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_that_synchronises_is_told_all_that_postgresql_demands() {
        let none = FailoverSlots::default().lines(false).unwrap();
        assert_eq!(none, "synchronized_standby_slots = ''\nsync_replication_slots = 'off'\n");
        let own = FailoverSlots { own: Some("cellar_zone2".into()), awaited: "a,b".into() };
        let lines = own.lines(false).unwrap();
        for line in [
            "synchronized_standby_slots = 'a,b'",
            "sync_replication_slots = 'on'",
            "primary_slot_name = 'cellar_zone2'",
            "hot_standby_feedback = 'on'",
        ] {
            assert!(lines.contains(&format!("{line}\n")), "{lines}");
        }
        assert!(!own.lines(true).unwrap().contains("feedback"), "what was given counts");
    }
}
