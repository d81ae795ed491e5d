//! What would happen at each loss.

use super::*;

fn outcomes(group: &Group) -> BTreeMap<String, String> {
    let all = explain(Rules::SAFE, &group.view());
    all.into_iter().map(|(loss, outcome)| (loss.to_string(), outcome.to_string())).collect()
}

#[test]
fn each_loss_of_three_cells_has_its_outcome() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone3").position = at(1, 200);
    let all = outcomes(&group);
    assert_eq!(all["zone1"], "zone3 is promoted (term 1 at 0/C8)");
    assert_eq!(all["zone2"], "the primary goes on");
    assert_eq!(all["zone2 and zone3"], "writes wait until 1 more standbys stream");
    assert!(all["zone1 and zone2"].starts_with("nobody is promoted: "), "{all:?}");
    assert_eq!(all["etcd"], "the primary goes on, and nobody can be promoted meanwhile");
    assert_eq!(all.len(), 7);
}

#[test]
fn five_cells_bear_the_loss_of_two() {
    let all = outcomes(&Group::of(&["zone1", "zone2", "zone3", "zone4", "zone5"]));
    assert_eq!(all["zone1 and zone2"], "zone3 is promoted (term 1 at 0/64)");
    assert_eq!(all["zone4 and zone5"], "the primary goes on");
}

#[test]
fn a_member_that_is_silent_already_counts_as_lost() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.facts.remove(&cell("zone3"));
    let all = outcomes(&group);
    assert!(all["zone1"].starts_with("nobody is promoted: "), "{all:?}");
    assert_eq!(all["zone2"], "writes wait until 1 more standbys stream");
}

#[test]
fn a_standby_that_does_not_stream_acknowledges_nothing_and_a_planned_move_hides_no_loss() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone3").follows = None;
    assert_eq!(outcomes(&group)["zone2"], "writes wait until 1 more standbys stream");
    group.record.handover = Some(cell("zone2"));
    assert!(outcomes(&group)["zone1"].contains("is promoted"), "{:?}", outcomes(&group));
}
