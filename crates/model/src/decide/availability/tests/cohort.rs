//! Changes of the cohort, step by step.

use super::*;

fn cohort(group: &Group, at: usize) -> Vec<String> {
    group.record.rules[at].cohort.iter().map(|(cell, copy)| format!("{cell}.{copy}")).collect()
}

#[test]
fn a_member_leaves_and_comes_back_with_other_data() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone3").needs_replacing = true;
    assert!(matches!(group.step(), Reason::Cohort(Change::Begin { .. })));
    assert_eq!((cohort(&group, 0).len(), cohort(&group, 1).len()), (3, 2), "both rules hold");
    assert!(matches!(group.next().step, Step::Wait), "the leader still holds the old rule");
    let rule = rule_to_hold(&group.facts[&cell("zone1")], &group.record).unwrap().number;
    let leads = group.at("zone1").leads.as_mut().unwrap();
    (leads.rule, leads.settled) = (rule, false);
    assert!(matches!(group.next().step, Step::Wait), "nothing was committed under it yet");
    group.at("zone1").leads.as_mut().unwrap().settled = true;
    assert_eq!(group.step(), Reason::Cohort(Change::Settle { number: 2 }));
    assert_eq!(cohort(&group, 0), ["zone1.1", "zone2.1"]);
    // Behind the primary it does not join.
    let new = Facts { copy: CopyNumber::new(2), position: at(1, 99), ..standby(&cell("zone1")) };
    *group.at("zone3") = new;
    assert!(matches!(group.next().step, Step::Wait));
    group.at("zone3").position = at(1, 100);
    group.step();
    assert_eq!(cohort(&group, 1), ["zone1.1", "zone2.1", "zone3.2"]);
}

#[test]
fn a_change_is_not_begun_that_would_stop_writes() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone3").needs_replacing = true;
    group.facts.remove(&cell("zone2"));
    assert!(matches!(group.next().step, Step::Wait), "nobody could acknowledge under the new rule");
    let mut group = Group::of(&["zone1", "zone2"]);
    group.at("zone2").needs_replacing = true;
    assert!(matches!(group.next().step, Step::Wait), "the primary would be alone");
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.facts.remove(&cell("zone3"));
    assert!(matches!(group.next().step, Step::Wait), "of a silent member nobody knows anything");
}

#[test]
fn elections_need_enough_promises_under_each_rule() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.wanted.remove(&cell("zone2"));
    group.step();
    assert_eq!(cohort(&group, 1), ["zone1.1", "zone3.1"]);
    group.lose("zone1");
    group.step();
    group.promise("zone3", at(1, 100));
    let shortage = enough(Rules::SAFE, &group.view()).unwrap_err();
    assert_eq!((shortage.rule, shortage.need), (1, 2), "one promise is enough by the new rule alone");
    // A winner that is leaving is taken into a rule, for a primary must be in its cohort.
    group.promise("zone2", at(1, 101));
    group.step();
    assert_eq!(group.record.cell, cell("zone2"));
    assert_eq!(cohort(&group, 2), ["zone1.1", "zone2.1", "zone3.1"]);
}
