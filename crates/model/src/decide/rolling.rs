//! The order in which the members of a database are restarted.
//!
//! One after the other, standbys first: a setting that replay compares has to be raised there before the primary has more. Only
//! the start of a primary lowers one, and its standbys can follow when they have replayed that. Nobody is restarted while another
//! member is not well.

use std::collections::BTreeMap;
use std::fmt;

use crate::types::name::CellName;

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartMember {
    /// Its cell.
    pub cell: CellName,
    /// Why it is not well: it does not answer, or does not stream. None for one that is.
    pub unwell: Option<String>,
    /// Whether a restart puts something in force: a setting, or another version of PostgreSQL.
    pub needs_restart: bool,
    /// Whether that makes a setting smaller that replay compares.
    pub lowers: bool,
    /// Whether a setting of it waits for other members.
    pub waits: bool,
}

/// What a step is decided from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartScene {
    /// Every member.
    pub members: Vec<RestartMember>,
    /// The recorded primary.
    pub primary: CellName,
    /// Whether quorum commit is in force, under which the primary is moved rather than restarted.
    pub has_quorum: bool,
    /// How often this run has restarted each member.
    pub restarted: BTreeMap<CellName, u32>,
    /// Whether members are restarted once that need none.
    pub all: bool,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RestartStep {
    /// Restart this member where it is.
    Restart(CellName),
    /// Have a standby lead; this member, the primary, restarts while it becomes a standby.
    Move(CellName),
    /// Look again: somebody is about to see what the others have.
    Wait(WaitReason),
    /// All is done.
    Done,
}

/// Why nothing is done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitReason {
    /// This member is not well.
    Unwell(CellName, String),
    /// A restart of this member did not help.
    StillNeeds(CellName),
    /// Settings of this member wait for others that need no restart.
    Waits(CellName),
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unwell(cell, why) => write!(f, "{cell} is not well: {why}"),
            Self::StillNeeds(cell) => write!(f, "{cell} was restarted and would need another restart"),
            Self::Waits(cell) => {
                write!(f, "a setting of {cell} waits for what another member has or has not yet")
            }
        }
    }
}

/// A standby may need a second one: first what is raised, and what is lowered behind the primary.
const MOST_RESTARTS: u32 = 2;

/// The next step of a rolling restart.
#[must_use]
pub fn next_restart(scene: &RestartScene) -> RestartStep {
    if let Some((member, why)) =
        scene.members.iter().find_map(|member| Some((member, member.unwell.as_ref()?)))
    {
        return RestartStep::Wait(WaitReason::Unwell(member.cell.clone(), why.clone()));
    }
    let times = |member: &RestartMember| scene.restarted.get(&member.cell).copied().unwrap_or(0);
    let is_due = |member: &&RestartMember| member.needs_restart || (scene.all && times(member) == 0);
    let is_primary = |member: &RestartMember| member.cell == scene.primary;
    let due: Vec<&RestartMember> = scene.members.iter().filter(is_due).collect();
    let standby = due.iter().find(|member| !is_primary(member));
    let next = standby.or_else(|| due.iter().find(|member| is_primary(member)));
    let Some(next) = next else {
        let waits = scene.members.iter().find(|member| member.waits);
        return waits
            .map_or(RestartStep::Done, |member| RestartStep::Wait(WaitReason::Waits(member.cell.clone())));
    };
    if times(next) >= MOST_RESTARTS {
        return RestartStep::Wait(WaitReason::StillNeeds(next.cell.clone()));
    }
    // It has all of it with one restart, when it has seen that its standbys can follow.
    if is_primary(next) && next.waits {
        return RestartStep::Wait(WaitReason::Waits(next.cell.clone()));
    }
    // One that becomes a standby has what its primary has, so a move makes nothing smaller.
    if is_primary(next) && scene.has_quorum && !next.lowers && scene.members.len() > 1 {
        return RestartStep::Move(next.cell.clone());
    }
    RestartStep::Restart(next.cell.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(name: &str) -> CellName {
        name.parse().unwrap()
    }

    fn member(name: &str) -> RestartMember {
        RestartMember { cell: cell(name), unwell: None, needs_restart: false, lowers: false, waits: false }
    }

    fn scene(members: [RestartMember; 3], has_quorum: bool) -> RestartScene {
        RestartScene {
            members: members.into(),
            primary: cell("zone1"),
            has_quorum,
            restarted: BTreeMap::new(),
            all: false,
        }
    }

    fn needs(name: &str) -> RestartMember {
        RestartMember { needs_restart: true, ..member(name) }
    }

    #[test]
    fn standbys_go_first_and_the_primary_is_moved_where_that_loses_nothing() {
        let all = [needs("zone1"), needs("zone2"), needs("zone3")];
        assert_eq!(next_restart(&scene(all, true)), RestartStep::Restart(cell("zone2")));
        let last = || [needs("zone1"), member("zone2"), member("zone3")];
        assert_eq!(next_restart(&scene(last(), true)), RestartStep::Move(cell("zone1")));
        assert_eq!(next_restart(&scene(last(), false)), RestartStep::Restart(cell("zone1")));
        let none = || [member("zone1"), member("zone2"), member("zone3")];
        assert_eq!(next_restart(&scene(none(), true)), RestartStep::Done);
        let asked = RestartScene { all: true, ..scene(none(), true) };
        assert_eq!(next_restart(&asked), RestartStep::Restart(cell("zone2")));
        let restarted = ["zone1", "zone2", "zone3"].map(|name| (cell(name), 1)).into();
        assert_eq!(next_restart(&RestartScene { restarted, ..asked }), RestartStep::Done);
    }

    #[test]
    fn what_is_lowered_is_lowered_by_the_primary_and_then_by_its_standbys() {
        let waits = |name: &str| RestartMember { waits: true, ..member(name) };
        let primary = RestartMember { lowers: true, ..needs("zone1") };
        let first = scene([primary, waits("zone2"), waits("zone3")], true);
        assert_eq!(next_restart(&first), RestartStep::Restart(cell("zone1")), "a move would lower nothing");
        let then = scene([member("zone1"), needs("zone2"), waits("zone3")], true);
        assert_eq!(next_restart(&then), RestartStep::Restart(cell("zone2")));
        let first = scene(
            [RestartMember { lowers: true, waits: true, ..needs("zone1") }, needs("zone2"), waits("zone3")],
            true,
        );
        assert_eq!(next_restart(&first), RestartStep::Restart(cell("zone2")), "what is raised");
        let seen_by_no_primary =
            scene([RestartMember { waits: true, ..needs("zone1") }, member("zone2"), member("zone3")], true);
        assert_eq!(next_restart(&seen_by_no_primary), RestartStep::Wait(WaitReason::Waits(cell("zone1"))));
        let not_yet = scene([member("zone1"), member("zone2"), waits("zone3")], true);
        assert_eq!(next_restart(&not_yet), RestartStep::Wait(WaitReason::Waits(cell("zone3"))));
    }

    #[test]
    fn nobody_is_restarted_while_another_is_not_well_nor_without_end() {
        let silent = RestartMember { unwell: Some("it does not answer".into()), ..member("zone3") };
        let stopped = next_restart(&scene([needs("zone1"), needs("zone2"), silent], true));
        assert!(
            matches!(&stopped, RestartStep::Wait(why) if why.to_string() == "zone3 is not well: it does not answer")
        );
        let again = RestartScene {
            restarted: [(cell("zone2"), 2)].into(),
            ..scene([member("zone1"), needs("zone2"), member("zone3")], true)
        };
        assert_eq!(next_restart(&again), RestartStep::Wait(WaitReason::StillNeeds(cell("zone2"))));
    }
}
