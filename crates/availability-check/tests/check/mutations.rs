//! Without any one of the rules, the checker finds what breaks. The rule is taken from the functions themselves.

use cellar_model::availability::Rules;

use crate::model::World;
use crate::worlds::{breaks, budget, world};

const SAFE: Rules = Rules::SAFE;

#[test]
fn promises_must_be_durable() {
    breaks(
        "durable promises",
        &World { rules: SAFE.without_durable_promise(), ..world(budget(1, 1, 0, 0), 2) },
    );
}

#[test]
fn promises_must_be_enough() {
    breaks(
        "enough promises",
        &World { rules: SAFE.without_enough_promises(), ..world(budget(1, 0, 0, 0), 2) },
    );
}

#[test]
fn the_term_goes_before_the_position() {
    breaks("(term, LSN)", &World { rules: SAFE.without_term_before_lsn(), ..world(budget(1, 0, 0, 0), 3) });
}

#[test]
fn the_winner_must_be_at_the_floor() {
    breaks("the floor", &World { rules: SAFE.without_floor(), ..world(budget(1, 0, 0, 1), 2) });
}

#[test]
fn a_term_is_begun_once() {
    breaks("terms begun once", &World { rules: SAFE.without_begun_once(), ..world(budget(1, 0, 0, 1), 2) });
}

#[test]
fn the_cohort_changes_in_steps() {
    let world = World { wanted: &[0, 2], last_rule: 2, ..world(budget(1, 0, 0, 0), 2) };
    breaks("cohort steps", &World { rules: SAFE.without_cohort_steps(), ..world });
}

#[test]
fn a_replaced_copy_does_not_count() {
    breaks("amnesia", &World { rules: SAFE.without_amnesia(), ..world(budget(1, 0, 0, 1), 2) });
}

#[test]
fn nothing_is_acknowledged_before_the_term_row() {
    let rules = SAFE.without_term_row_first();
    breaks("the term row first", &World { rules, longest: 4, ..world(budget(2, 0, 0, 0), 3) });
}

#[test]
fn a_report_of_an_older_rule_does_not_count() {
    let rules = SAFE.without_numbered_rules();
    breaks("numbered rules", &World { rules, wanted: &[0, 2], last_rule: 2, ..world(budget(1, 0, 0, 0), 2) });
}

#[test]
fn an_old_primary_gives_its_copy_up_for_a_leader_without_a_quorum() {
    let recovery = World { must_recover: true, last_rule: 3, last_copy: 2, ..world(budget(1, 0, 0, 0), 2) };
    breaks("giving a copy up", &World { rules: SAFE.without_giving_up(), ..recovery });
}
