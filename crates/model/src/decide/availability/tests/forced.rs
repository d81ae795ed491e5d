//! Failovers that a person asks for.

use super::*;

fn of(group: &Group, to: &str) -> Result<Forced, CannotForce> {
    forced(&group.view(), &cell(to))
}

#[test]
fn nobody_is_forced_while_the_primary_is_well_and_only_the_furthest_member_is() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    assert_eq!(of(&group, "zone2"), Err(CannotForce::LeaderLeads));
    assert_eq!(of(&group, "zone1"), Err(CannotForce::IsLeader));
    group.lose("zone1");
    group.at("zone3").position = at(1, 900);
    assert_eq!(of(&group, "zone2"), Err(CannotForce::Behind { best: cell("zone3") }));
    group.at("zone3").copy = CopyNumber::new(9);
    assert_eq!(of(&group, "zone3"), Err(CannotForce::Stranger));
    group.lose("zone3");
    assert_eq!(of(&group, "zone3"), Err(CannotForce::Missing));
}

#[test]
fn where_enough_are_left_it_is_the_election_of_every_failover() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.lose("zone1");
    group.paused = true;
    assert!(matches!(group.next().why, Reason::Paused(Death::Silent { .. })), "{}", group.next().why);
    let forced = of(&group, "zone3").unwrap();
    assert!(!forced.may_lose);
    assert_eq!((forced.takes_part.len(), forced.missing.clone()), (2, vec![cell("zone1")]));
    group.record = forced.record;
    group.unchanged = NOW;
    assert!(matches!(group.next().why, Reason::Promises(Shortage { need: 2, .. })), "{}", group.next().why);
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone3"), floor: at(1, 100) });
}

#[test]
fn the_last_member_leads_alone_once_a_person_accepts_the_loss_and_the_old_primary_stops() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.lose("zone1");
    group.lose("zone2");
    assert!(matches!(group.next().step, Step::Wait));
    let old = primary(1);
    let forced = of(&group, "zone3").unwrap();
    assert!(forced.may_lose);
    assert_eq!(forced.missing, [cell("zone1"), cell("zone2")]);
    group.record = forced.record;
    assert_eq!((group.record.held, group.record.term), (Term::new(2), Term::new(3)));
    // Should it come back in this moment, it does not go on.
    let stop = must_stop(&cell("zone1"), &old, &group.record, NOW, NOW, &Timing::default());
    assert_eq!(stop, Some(Stop::Deposed(Term::new(2))));
    group.facts.insert(cell("zone1"), old);
    assert!(matches!(group.next().why, Reason::Promises(_)), "{}", group.next().why);
    group.promise("zone3", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone3"), floor: at(1, 100) });
    let rule = group.record.rule().unwrap().clone();
    assert_eq!((rule.cohort.len(), rule.k), (1, 0));
    // Alone, it acknowledges what it has flushed, once its row is.
    let leads = Leading { rule: rule.number, row: None, ..primary(3).leads.unwrap() };
    let none = BTreeMap::new();
    assert_eq!(gate(Rules::SAFE, &cell("zone3"), &leads, &rule, &none), Gate::NoRow);
    let row = Lsn::new(500);
    let flushed = Leading { row: Some(row), ..leads };
    assert_eq!(gate(Rules::SAFE, &cell("zone3"), &flushed, &rule, &none), Gate::Open { committed: row });
    assert_eq!(gate(Rules::SAFE, &cell("zone2"), &flushed, &rule, &none), Gate::NoRule, "another's rule");
}

#[test]
fn nobody_but_the_member_that_was_chosen_leads_though_others_that_are_left_promise_sooner() {
    let mut group = Group::of(&["zone1", "zone2", "zone3", "zone4", "zone5"]);
    ["zone1", "zone2", "zone3"].into_iter().for_each(|cell| group.lose(cell));
    group.at("zone4").position = at(1, 50);
    let forced = of(&group, "zone5").unwrap();
    assert!(forced.may_lose);
    assert_eq!(forced.takes_part, [cell("zone4"), cell("zone5")]);
    group.record = forced.record;
    group.promise("zone4", at(1, 50));
    assert_eq!(group.next().why, Reason::AwaitPromise(cell("zone5")), "it lacks what zone5 has");
    // However long it takes.
    group.unchanged = Duration::from_secs(3600);
    group.in_phase = Duration::from_secs(3600);
    assert_eq!(group.next().why, Reason::AwaitPromise(cell("zone5")));
    group.promise("zone5", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone5"), floor: at(1, 100) });
    // And nobody else before the other one has what it has.
    group.at("zone4").sees.as_mut().unwrap().of = cell("zone5");
    group.lose("zone5");
    group.in_phase = Duration::from_secs(3600);
    assert!(matches!(group.next().why, Reason::Begins(_)), "{}", group.next().why);
}
