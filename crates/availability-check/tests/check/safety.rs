//! With all rules, nothing breaks.

use crate::model::World;
use crate::worlds::{Aim, budget, holds, world};

#[test]
fn two_failovers_with_commits_at_any_moment() {
    holds("two failovers", &world(budget(1, 0, 0, 0), 3));
}

#[test]
fn a_failover_that_is_called_off_leaves_the_primary_in_a_new_term() {
    holds("called off", &World { aim: Aim::Reappointment, ..world(budget(0, 0, 0, 0), 3) });
}

#[test]
fn a_crash_and_a_fence_around_a_failover() {
    holds("crash and fence", &world(budget(1, 1, 1, 0), 2));
}

#[test]
fn a_lost_disk_and_a_crash_around_a_failover() {
    holds("lost disk and crash", &world(budget(1, 1, 0, 1), 2));
}

#[test]
fn a_member_leaves_the_cohort_while_the_primary_is_lost() {
    let world = World {
        wanted: &[0, 2],
        last_rule: 2,
        with_old_leaders: true,
        aim: Aim::CohortChange,
        ..world(budget(1, 1, 0, 0), 2)
    };
    holds("leave", &world);
}

#[test]
fn a_member_joins_the_cohort_while_the_primary_is_lost() {
    let world = World {
        cohort: &[0, 1],
        last_rule: 2,
        with_old_leaders: true,
        aim: Aim::CohortChange,
        ..world(budget(1, 1, 0, 0), 2)
    };
    holds("join", &world);
}

#[test]
fn an_old_primary_is_rewound_and_joins_again() {
    let world = World {
        last_rule: 3,
        last_copy: 2,
        with_old_leaders: true,
        aim: Aim::Rejoin,
        ..world(budget(1, 0, 0, 0), 2)
    };
    holds("rewind", &world);
}

#[test]
fn a_lost_disk_is_filled_again_and_joins() {
    let world = World { last_rule: 3, last_copy: 2, aim: Aim::Rejoin, ..world(budget(1, 0, 0, 1), 2) };
    holds("lost disk", &world);
}

#[test]
fn from_every_state_a_majority_recovers() {
    let world = World { must_recover: true, last_rule: 3, last_copy: 2, ..world(budget(1, 0, 0, 0), 2) };
    holds("recovery", &world);
}

#[test]
fn from_every_state_of_a_change_of_the_cohort_a_majority_recovers() {
    let world = World {
        must_recover: true,
        wanted: &[0, 2],
        last_rule: 2,
        with_old_leaders: true,
        aim: Aim::CohortChange,
        ..world(budget(1, 0, 0, 0), 2)
    };
    holds("recovery of a change", &world);
}

#[test]
#[ignore = "takes minutes: make check-availability"]
fn wider_bounds() {
    holds("all faults", &world(budget(1, 1, 1, 1), 2));
    holds("two failovers and faults", &world(budget(1, 1, 1, 0), 3));
    holds("three commits", &world(budget(3, 0, 0, 0), 3));
    holds("three failovers", &world(budget(1, 0, 0, 0), 4));
    holds(
        "two lost disks",
        &World { last_rule: 3, last_copy: 2, aim: Aim::Rejoin, ..world(budget(1, 0, 0, 2), 2) },
    );
    let recovery = World { must_recover: true, last_rule: 3, last_copy: 2, ..world(budget(1, 0, 1, 0), 2) };
    holds("recovery after a fence", &recovery);
    holds("recovery after a lost disk", &World { budget: budget(1, 0, 0, 1), ..recovery });
}
