//! What becomes of the logical replication slots of a database when another member leads.

use std::collections::BTreeSet;

use crate::records::pooler::{LogicalSlot, PoolerStatus};
use crate::types::name::CellName;

/// The first version that can keep slots for another member to go on with.
const WITH_FAILOVER: u32 = 17;

/// The first version that decodes on a standby.
const DECODES_ON_STANDBYS: u32 = 16;

const AGAIN: &str = "its subscriber must be set up again then";

/// The major version of PostgreSQL that a member runs, if that is known.
fn version(status: &PoolerStatus) -> Option<u32> {
    let digits: String = status.versions.postgres.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What becomes of each logical slot when another member leads; where it is lost, why and what to do. `members` are what the poolers of
/// the database say, that of `leader` among them.
#[must_use]
pub fn slot_notes<'a>(
    leader: &CellName,
    members: impl IntoIterator<Item = &'a PoolerStatus> + Clone,
) -> Vec<String> {
    let mut notes = Vec::new();
    let standbys: Vec<&PoolerStatus> =
        members.clone().into_iter().filter(|member| member.cell != *leader).collect();
    if let Some(primary) = members.into_iter().find(|member| member.cell == *leader) {
        notes.extend(primary.logical_slots.iter().map(|slot| of_primary(slot, primary, &standbys)));
    }
    for member in standbys {
        let left = member.logical_slots.iter().filter(|slot| !slot.synced);
        notes.extend(left.map(|slot| of_standby(slot, member)));
    }
    notes
}

/// The members in which no logical slot is lost that can be kept, when one of them leads.
#[must_use]
pub fn keepers_of_slots<'a>(
    leader: &CellName,
    members: impl IntoIterator<Item = &'a PoolerStatus> + Clone,
) -> BTreeSet<CellName> {
    let primary = members.clone().into_iter().find(|member| member.cell == *leader);
    let slots = primary.map(|primary| primary.logical_slots.as_slice()).unwrap_or_default();
    let kept: Vec<&LogicalSlot> = slots.iter().filter(|slot| slot.failover && !slot.lost).collect();
    let standbys = members.into_iter().filter(|member| member.cell != *leader);
    let keeps = |member: &&PoolerStatus| kept.iter().all(|slot| has_copy(member, slot));
    standbys.filter(keeps).map(|member| member.cell.clone()).collect()
}

/// Whether a member can go on with a slot of the primary.
fn has_copy(member: &PoolerStatus, slot: &LogicalSlot) -> bool {
    member.logical_slots.iter().any(|copy| copy.synced && !copy.lost && copy.name == slot.name)
}

fn of_primary(slot: &LogicalSlot, primary: &PoolerStatus, standbys: &[&PoolerStatus]) -> String {
    let named = format!("logical slot {} of {:?}", slot.name, slot.database);
    if slot.lost {
        return format!(
            "{named} fell behind max_slot_wal_keep_size and is of no use: drop it (SELECT pg_drop_replication_slot('{}')), and set its subscriber up again",
            slot.name
        );
    }
    let lost = format!("{named} is lost when another member leads");
    match version(primary) {
        Some(version) if version < WITH_FAILOVER => {
            return format!("{lost}: PostgreSQL {version} keeps none, {WITH_FAILOVER} can; {AGAIN}");
        }
        _ if !slot.failover => {
            return format!("{lost}: it was made without failover, which its maker has to ask for; {AGAIN}");
        }
        _ => {}
    }
    let (with, without): (Vec<&PoolerStatus>, Vec<&PoolerStatus>) =
        standbys.iter().partition(|member| has_copy(member, slot));
    let cells = |members: &[&PoolerStatus]| {
        members.iter().map(|member| member.cell.as_str()).collect::<Vec<_>>().join(" or ")
    };
    if with.is_empty() {
        return format!("{lost}: no standby has a synchronised copy of it; {AGAIN}");
    }
    let kept = format!("{named} is kept when {} leads", cells(&with));
    if without.is_empty() {
        return kept;
    }
    format!("{kept}, and lost when {} leads, without a synchronised copy of it; {AGAIN}", cells(&without))
}

/// A slot that nothing moves on in a standby.
fn of_standby(slot: &LogicalSlot, member: &PoolerStatus) -> String {
    let unless = match version(member) {
        Some(version) if version < DECODES_ON_STANDBYS => "",
        _ => ", unless somebody reads from it there",
    };
    format!(
        "{} has the logical slot {} of {:?} from when it led: it keeps WAL, and what a subscriber would get from it is not whole. Drop it there{unless}: SELECT pg_drop_replication_slot('{}')",
        member.cell, slot.name, slot.database, slot.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cell: &str, version: &str, slots: &[LogicalSlot]) -> PoolerStatus {
        let status = format!(r#"{{"database":"app","cell":"{cell}","epoch":"1"}}"#);
        let mut status: PoolerStatus = serde_json::from_str(&status).unwrap();
        version.clone_into(&mut status.versions.postgres);
        status.logical_slots = slots.to_vec();
        status
    }

    fn slot(failover: bool, synced: bool) -> LogicalSlot {
        LogicalSlot { name: "sub".into(), database: "shop".into(), failover, synced, lost: false }
    }

    fn notes(members: &[PoolerStatus]) -> Vec<String> {
        slot_notes(&"zone1".parse().unwrap(), members)
    }

    #[test]
    fn before_17_every_slot_is_lost() {
        let told = notes(&[member("zone1", "15.18", &[slot(false, false)]), member("zone2", "15.18", &[])]);
        assert_eq!(
            told,
            [
                "logical slot sub of \"shop\" is lost when another member leads: PostgreSQL 15 keeps none, 17 can; its subscriber must be set up again then"
            ]
        );
        assert!(notes(&[member("zone1", "15.18", &[]), member("zone2", "15.18", &[])]).is_empty());
    }

    #[test]
    fn from_17_on_a_slot_is_kept_where_a_copy_of_it_is() {
        let of = |slots: &[LogicalSlot], second: &[LogicalSlot], third: &[LogicalSlot]| {
            let [a, b, c] = [("zone1", slots), ("zone2", second), ("zone3", third)];
            notes(&[a, b, c].map(|(cell, slots)| member(cell, "17.6 (Debian)", slots))).join("\n")
        };
        let (made, copy) = (slot(true, false), slot(true, true));
        assert!(of(&[slot(false, false)], &[], &[]).contains("made without failover"));
        assert!(of(std::slice::from_ref(&made), &[], &[]).contains("no standby has a synchronised copy"));
        let some = of(std::slice::from_ref(&made), std::slice::from_ref(&copy), &[]);
        assert!(some.contains("is kept when zone2 leads, and lost when zone3 leads"), "{some}");
        assert_eq!(
            of(std::slice::from_ref(&made), std::slice::from_ref(&copy), std::slice::from_ref(&copy)),
            "logical slot sub of \"shop\" is kept when zone2 or zone3 leads"
        );
    }

    #[test]
    fn members_with_all_copies_keep_the_slots() {
        let named = |name: &str, slot: LogicalSlot| LogicalSlot { name: name.into(), ..slot };
        let (made, copy) = (slot(true, false), slot(true, true));
        let keepers = |second: &[LogicalSlot]| {
            let primary = [made.clone(), named("other", made.clone()), named("plain", slot(false, false))];
            let members = [member("zone1", "17.6", &primary), member("zone2", "17.6", second)];
            keepers_of_slots(&"zone1".parse().unwrap(), &members).len()
        };
        assert_eq!(keepers(&[copy.clone(), named("other", copy.clone())]), 1);
        assert_eq!(keepers(std::slice::from_ref(&copy)), 0);
        let lost = LogicalSlot { lost: true, ..named("other", copy.clone()) };
        assert_eq!(keepers(&[copy, lost]), 0);
    }

    #[test]
    fn what_was_left_in_a_standby_and_what_fell_behind_is_told() {
        let left = notes(&[member("zone1", "15.18", &[]), member("zone2", "15.18", &[slot(false, false)])]);
        assert!(left[0].starts_with("zone2 has") && !left[0].contains("unless"), "{left:?}");
        let decodes = notes(&[member("zone2", "16.1", &[slot(false, false)])]);
        assert!(decodes[0].contains("unless somebody reads"), "{decodes:?}");
        let lost = LogicalSlot { lost: true, ..slot(true, false) };
        assert!(notes(&[member("zone1", "17.6", &[lost])])[0].contains("max_slot_wal_keep_size"));
    }
}
