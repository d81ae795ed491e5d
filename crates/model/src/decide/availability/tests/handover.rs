use super::*;
use crate::decide::availability::handover::MAX_LAG;

fn chosen(group: &Group, to: Option<&str>, preferred: &[&str]) -> Result<String, NotNow> {
    let facts = group.facts.iter().collect();
    let to = to.map(cell);
    let preferred = preferred.iter().map(|name| cell(name)).collect();
    let chosen = successor(&group.record, &facts, to.as_ref(), &preferred);
    chosen.map(|cell| cell.to_string())
}

#[test]
fn whoever_is_furthest_takes_over_and_of_those_who_are_near_one_that_is_preferred() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    let chosen_of = |group: &Group, preferred: &[&str]| chosen(group, None, preferred).unwrap();
    assert_eq!(chosen_of(&group, &[]), "zone3", "equals");
    assert_eq!(chosen_of(&group, &["zone2"]), "zone2");
    let end = 100 + 2 * MAX_LAG;
    group.at("zone1").position = at(1, end);
    group.at("zone3").position = at(1, end);
    group.at("zone2").position = at(1, end - 100);
    assert_eq!(chosen_of(&group, &["zone2"]), "zone2", "a little behind");
    assert_eq!(chosen(&group, Some("zone3"), &["zone2"]).unwrap(), "zone3", "what is asked for counts");
    group.at("zone2").position = at(1, end - MAX_LAG - 1);
    assert_eq!(chosen_of(&group, &["zone2"]), "zone3", "too far behind to be preferred");
    let behind = chosen(&group, Some("zone2"), &["zone2"]).unwrap_err();
    assert!(matches!(behind, NotNow::Behind { .. }), "{behind}");
    group.at("zone2").position = at(1, end);
    group.at("zone2").leaves = true;
    assert_eq!(chosen_of(&group, &["zone2"]), "zone3", "its host stops, too");
}

#[test]
fn nobody_takes_over_while_too_few_follow_or_something_changes() {
    let group = Group::of(&["zone1", "zone2", "zone3"]);
    let mut few = group.clone();
    few.at("zone2").follows = None;
    few.at("zone3").follows = None;
    assert!(matches!(chosen(&few, None, &[]), Err(NotNow::FewFollow { .. })));
    let mut changing = group.clone();
    changing.record.handover = Some(cell("zone2"));
    assert_eq!(chosen(&changing, None, &[]), Err(NotNow::Changing));
    let mut silent = group.clone();
    silent.facts.remove(&cell("zone1"));
    assert_eq!(chosen(&silent, None, &[]), Err(NotNow::NoAnswer(cell("zone1"))));
    assert_eq!(chosen(&group, Some("zone1"), &[]), Err(NotNow::DoesNotFollow(Some(cell("zone1")))));
}
