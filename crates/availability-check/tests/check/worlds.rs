//! The worlds that are explored.

use cellar_model::Phase;
use cellar_model::availability::Rules;
use stateright::{Checker, HasDiscoveries, Model};

use crate::facts::number;
use crate::model::World;
use crate::state::{Budget, State};

/// What must be reached in a world, so that it is not safe only because nothing happens in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// Another member is established, in the last term of the world.
    Failover,
    /// The leader of before is appointed again after a failover was called off, and established.
    Reappointment,
    /// A change of the cohort is settled.
    CohortChange,
    /// A copy that was made anew is in the cohort, and only one rule is left.
    Rejoin,
}

impl Aim {
    pub(crate) fn is_reached(self, world: &World, state: &State) -> bool {
        let record = &state.record;
        let is_steady = record.phase == Phase::Steady && record.rules.len() == 1;
        let is_last = number(record.term) == world.last_term;
        is_steady
            && match self {
                Self::Failover => is_last && record.cell.as_str() != "a",
                Self::Reappointment => is_last && record.cell.as_str() == "a" && record.since < record.term,
                Self::CohortChange => record.rules[0].number > 1,
                Self::Rejoin => record.rules[0].cohort.values().any(|copy| copy.get() > 1),
            }
    }
}

/// A failure of each kind can happen so often.
pub(crate) fn budget(writes: u8, crashes: u8, stops: u8, losses: u8) -> Budget {
    Budget { writes, crashes, stops, losses }
}

/// Three members, the first of them the primary, and terms up to `last_term`.
pub(crate) fn world(budget: Budget, last_term: u8) -> World {
    World {
        rules: Rules::SAFE,
        cohort: &[0, 1, 2],
        wanted: &[0, 1, 2],
        budget,
        last_term,
        last_rule: 1,
        longest: 6,
        last_copy: 1,
        with_old_leaders: false,
        must_recover: false,
        aim: Aim::Failover,
    }
}

/// Explores a world to its end: all properties hold, and its aim is reached.
pub(crate) fn holds(name: &str, world: &World) {
    let checker = world.clone().checker().spawn_bfs().join();
    eprintln!("{name}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

/// Explores a world in which a rule is broken until a property is, and prints how that came about.
pub(crate) fn breaks(name: &str, world: &World) {
    let first = HasDiscoveries::AnyFailures;
    let checker = world.clone().checker().finish_when(first).spawn_bfs().join();
    eprintln!("without {name}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    let mut broken: Vec<_> = checker.discoveries().into_iter().collect();
    broken.retain(|(property, _)| world.property(property).expectation.discovery_is_failure());
    assert!(
        !broken.is_empty(),
        "without {name} nothing breaks: the rule is not needed, or the checker is blind"
    );
    for (property, path) in broken {
        eprintln!("  {property}:");
        for (state, action) in path.into_vec() {
            let logs: Vec<_> = state.members.iter().map(|member| member.log).collect();
            eprintln!("    {logs:?} acknowledged {:?}", state.acked);
            if state.is_lost || state.is_split || state.is_broken {
                break;
            }
            eprintln!("  {}", action.map_or_else(String::new, |action| format!("{action:?}")));
        }
    }
}
