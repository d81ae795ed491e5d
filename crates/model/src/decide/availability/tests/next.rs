//! The way from one primary to the next.

use super::*;

fn lost() -> Group {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.lose("zone1");
    assert!(matches!(group.step(), Reason::Recruit(Death::Silent { .. })));
    group
}

#[test]
fn a_failover_from_evidence_to_a_new_term() {
    let mut group = lost();
    let record = group.record.clone();
    assert_eq!((record.phase, record.term, record.held), (Phase::Recruiting, Term::new(2), Term::new(1)));
    assert!(matches!(group.next().why, Reason::Promises(Shortage { need: 2, .. })), "{}", group.next().why);
    group.promise("zone2", at(1, 100));
    assert!(matches!(group.next().step, Step::Wait));
    group.promise("zone3", at(1, 101));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone3"), floor: at(1, 101) });
    let record = group.record.clone();
    assert_eq!((record.phase, record.held, record.since), (Phase::Appointed, Term::new(2), Term::new(2)));
    assert_eq!(record.floor, Some(at(1, 101)));
    let leader = Facts { sees: None, ..primary(2) };
    *group.at("zone3") = leader.clone();
    group.at("zone3").leads.as_mut().unwrap().established = false;
    assert!(matches!(group.next().step, Step::Wait), "the term row waits for its quorum");
    *group.at("zone3") = leader;
    assert_eq!(group.step(), Reason::Establish);
    assert_eq!((group.record.phase, group.record.cell.as_str()), (Phase::Steady, "zone3"));
}

#[test]
fn a_leader_that_was_asked_makes_room_for_the_one_that_a_person_named() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.record.handover = Some(cell("zone3"));
    group.unchanged = NOW;
    assert_eq!(group.next().why, Reason::AwaitStop(cell("zone3")));
    let stopped = Facts { leads: None, instance: Instance::Stopped, ..primary(1) };
    *group.at("zone1") = stopped.clone();
    assert_eq!(group.step(), Reason::HandOver(cell("zone3")));
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone3"), floor: at(1, 100) });
    assert_eq!(group.record.handover, None);

    // One that has more wins all the same: nothing is lost for a wish.
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.record.handover = Some(cell("zone3"));
    group.unchanged = NOW;
    *group.at("zone1") = stopped;
    assert_eq!(group.step(), Reason::HandOver(cell("zone3")));
    group.promise("zone2", at(1, 101));
    group.promise("zone3", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone2"), floor: at(1, 101) });
}

#[test]
fn a_planned_move_that_does_not_come_to_an_end_is_given_up_and_the_leader_goes_on() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.record.handover = Some(cell("zone3"));
    group.unchanged = LONG;
    assert_eq!(group.step(), Reason::HandoverFailed(cell("zone3")));
    assert!(matches!(group.next().why, Reason::Well(_)));
    // Also while promises are collected: then the leader comes back under a new term.
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.record.handover = Some(cell("zone3"));
    group.unchanged = NOW;
    *group.at("zone1") = Facts { leads: None, instance: Instance::Stopped, ..primary(1) };
    assert_eq!(group.step(), Reason::HandOver(cell("zone3")));
    group.unchanged = LONG;
    assert_eq!(group.step(), Reason::HandoverFailed(cell("zone3")));
    *group.at("zone1") = primary(1);
    assert!(matches!(group.step(), Reason::Reappoint { .. }));
}

#[test]
fn a_planned_move_waits_a_moment_for_the_one_that_it_is_for() {
    let mut group = Group::of(&["zone1", "zone2", "zone3", "zone4"]);
    group.record.handover = Some(cell("zone4"));
    group.unchanged = NOW;
    *group.at("zone1") = Facts { leads: None, instance: Instance::Stopped, ..primary(1) };
    assert_eq!(group.step(), Reason::HandOver(cell("zone4")));
    group.in_phase = NOW;
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert_eq!(group.next().why, Reason::AwaitPromise(cell("zone4")));
    // Not for long, and not for one that does not report.
    let mut late = group.clone();
    late.in_phase = LONG;
    assert!(matches!(late.next().why, Reason::Appoint { cell, .. } if cell.as_str() == "zone2"));
    let mut silent = group.clone();
    silent.facts.remove(&cell("zone4"));
    assert!(matches!(silent.next().why, Reason::Appoint { cell, .. } if cell.as_str() == "zone2"));
    group.promise("zone4", at(1, 100));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone4"), floor: at(1, 100) });
}

#[test]
fn what_promises_while_wal_comes_in_or_is_no_member_does_not_count() {
    let changes: [fn(&mut Facts); 4] = [
        |facts| facts.receives = true,
        |facts| facts.copy = CopyNumber::new(2),
        |facts| facts.promised = Term::new(1),
        |facts| facts.leads = primary(1).leads,
    ];
    for change in changes {
        let mut group = lost();
        group.promise("zone2", at(1, 100));
        group.promise("zone3", at(1, 100));
        assert!(enough(Rules::SAFE, &group.view()).is_ok());
        change(group.at("zone3"));
        assert!(enough(Rules::SAFE, &group.view()).is_err(), "{:?}", group.facts);
    }
}

#[test]
fn among_equals_preference_decides_then_the_name() {
    let mut group = lost();
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    let name = |group: &Group| winner(Rules::SAFE, &group.view()).unwrap().0.to_string();
    assert_eq!(name(&group), "zone2");
    group.preference = vec![cell("zone3"), cell("zone2")];
    assert_eq!(name(&group), "zone3");
    group.promise("zone2", at(2, 50));
    assert_eq!(name(&group), "zone2", "a later term goes before everything");
}

#[test]
fn a_leader_that_is_back_in_time_leads_on_under_a_term_of_its_own() {
    let mut group = lost();
    group.promise("zone2", at(1, 100));
    // What it said before it was missed: where connections are refused, that is not old yet.
    group.facts.insert(cell("zone1"), Facts { age: Duration::from_secs(1), ..primary(1) });
    assert!(matches!(group.next().why, Reason::Promises(_)), "{}", group.next().why);
    group.facts.insert(cell("zone1"), primary(1));
    assert_eq!(group.step(), Reason::Reappoint { cell: cell("zone1"), term: Term::new(3) });
    let record = &group.record;
    assert_eq!((record.phase, record.held, record.since), (Phase::Appointed, Term::new(3), Term::new(1)));
    assert_eq!(
        may_promote(Rules::SAFE, &cell("zone1"), &group.facts[&cell("zone1")], record),
        Ok(Taking::Continue(Term::new(3)))
    );
    // With enough promises it is too late for it: it may not have what its successor's standbys acknowledge.
    let mut group = lost();
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    group.facts.insert(cell("zone1"), primary(1));
    assert!(matches!(group.step(), Reason::Appoint { .. }));
}

#[test]
fn an_appointed_member_that_dies_is_not_special() {
    let mut group = lost();
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    group.step();
    group.facts.insert(cell("zone1"), standby(&cell("zone2")));
    group.at("zone3").sees = standby(&cell("zone2")).sees;
    group.lose("zone2");
    assert!(matches!(group.next().why, Reason::BackingOff(_) | Reason::Recruit(_)));
    group.in_phase = Duration::from_secs(1);
    assert!(matches!(group.next().why, Reason::BackingOff(_)), "the first attempt did not hold");
    group.in_phase = Duration::from_secs(10);
    assert!(matches!(group.step(), Reason::Recruit(_)));
    assert_eq!((group.record.term, group.record.attempts), (Term::new(3), 2));
    // The primary of before counts as any other member, once it has stopped and promised.
    group.promise("zone1", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert!(matches!(group.step(), Reason::Appoint { .. }));
}

#[test]
fn a_term_that_held_makes_the_next_failover_the_first_again() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.record.attempts = 4;
    group.in_phase = HOLDS_AFTER - Duration::from_secs(1);
    group.lose("zone1");
    assert!(matches!(group.next().why, Reason::BackingOff(_)));
    group.in_phase = HOLDS_AFTER;
    group.step();
    assert_eq!(group.record.attempts, 1);
}

#[test]
fn a_record_without_a_rule_decides_nothing() {
    let mut group = lost();
    group.record.rules.clear();
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert_eq!(group.next(), Decision { step: Step::Wait, why: Reason::NoRule });
    assert!(enough(Rules::SAFE, &group.view()).is_err());
}

#[test]
fn a_single_member_is_never_succeeded() {
    let mut group = Group::of(&["zone1"]);
    group.lose("zone1");
    assert!(matches!(group.next().why, Reason::Well(NoEvidence::FewWitnesses { have: 0, need: 1 })));
}

#[test]
fn an_isolated_primary_that_reports_on_is_not_taken_for_one_that_is_back() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone1").leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since: LONG };
    for standby in ["zone2", "zone3"] {
        group.at(standby).sees.as_mut().unwrap().stream = Link::Silent { since: LONG };
    }
    assert_eq!(group.step(), Reason::Recruit(Death::Isolated));
    assert!(matches!(group.next().why, Reason::Promises(_)), "{}", group.next().why);
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 100));
    assert!(matches!(group.step(), Reason::Appoint { .. }));
    // One whose standbys can no longer stream for another reason is appointed again at once.
    let mut group = lost();
    group.facts.insert(cell("zone1"), primary(1));
    group.at("zone1").leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since: NOW };
    assert!(matches!(group.next().why, Reason::Reappoint { .. }), "{}", group.next().why);
}

#[test]
fn an_appointed_member_that_never_gets_its_quorum_gives_way_to_another_one() {
    let mut group = lost();
    group.promise("zone2", at(1, 100));
    group.promise("zone3", at(1, 101));
    assert_eq!(group.step(), Reason::Appoint { cell: cell("zone3"), floor: at(1, 101) });
    // It hangs in its promotion, and the lost one is back.
    let back = Facts { leads: None, ..standby(&cell("zone3")) };
    group.facts.insert(cell("zone1"), back);
    group.in_phase = NOW;
    assert!(matches!(group.next().step, Step::Wait));
    group.in_phase = LONG;
    assert_eq!(group.step(), Reason::Recruit(Death::NeverEstablished));
    group.promise("zone1", at(1, 101));
    group.promise("zone2", at(1, 101));
    assert!(matches!(group.step(), Reason::Appoint { .. }));
}

#[test]
fn nobody_is_recruited_for_a_frozen_leader_while_nobody_else_could_lead() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone1").instance = Instance::Frozen { since: LONG };
    for standby in ["zone2", "zone3"] {
        group.at(standby).sees.as_mut().unwrap().new_wal = None;
        group.at(standby).sees.as_mut().unwrap().stream = Link::Silent { since: LONG };
    }
    let gone = group.facts.remove(&cell("zone3")).unwrap();
    assert_eq!(group.next().why, Reason::NobodyToElect(Death::Frozen), "zone2 alone cannot be elected");
    group.facts.insert(cell("zone3"), gone);
    assert_eq!(group.step(), Reason::Recruit(Death::Frozen));
}

#[test]
fn nobody_else_leads_until_quorum_commit_has_begun() {
    // What was acknowledged before is on the leader alone: whoever it is that is elected may lack it.
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    let cohort = group.record.rules[0].cohort.clone();
    group.record =
        Leadership::take_up(Some(&group.record), Term::new(1), cell("zone1"), cohort, at(1, 100), 0);
    let standbys = ["zone2", "zone3"];
    for standby in standbys {
        group.at(standby).sees.as_mut().unwrap().stream = Link::Silent { since: LONG };
    }
    group.at("zone1").leads.as_mut().unwrap().established = false;
    assert_eq!(group.next().why, Reason::Begins(Death::NeverEstablished));
    let leader = group.facts.remove(&cell("zone1")).unwrap();
    for standby in standbys {
        group.at(standby).sees.as_mut().unwrap().pooler = Link::Silent { since: LONG };
    }
    assert!(matches!(group.next().why, Reason::Begins(Death::Silent { .. })), "{}", group.next().why);
    // Its first commit has a majority, and with it everything before.
    group.facts.insert(cell("zone1"), leader);
    let term = group.record.term;
    let leads = group.at("zone1").leads.as_mut().unwrap();
    (leads.term, leads.established) = (term, true);
    assert_eq!(group.step(), Reason::Establish);
    assert!(!group.record.begins);
    group.lose("zone1");
    assert!(matches!(group.step(), Reason::Recruit(Death::Silent { .. })));
}

#[test]
fn a_leader_whose_host_is_about_to_stop_makes_room_if_somebody_can_lead() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    group.at("zone1").leaves = true;
    // The other host stops, too.
    group.at("zone3").leaves = true;
    assert_eq!(group.next().why, Reason::Leaves(cell("zone2")));
    // While one of the others is down the rest could not elect: the leader goes on until it is stopped.
    let gone = group.facts.remove(&cell("zone3")).unwrap();
    assert!(matches!(group.next().why, Reason::Well(_)), "{}", group.next().why);
    group.facts.insert(cell("zone3"), gone);
    group.at("zone2").follows = None;
    assert!(matches!(group.next().why, Reason::Well(_)), "{}", group.next().why);
    group.at("zone2").follows = Some((cell("zone1"), Term::new(1)));
    group.at("zone1").position = at(1, 1 << 30);
    assert!(matches!(group.next().why, Reason::Well(_)), "too far behind: {}", group.next().why);
    group.at("zone1").position = at(1, 100);
    assert_eq!(group.step(), Reason::Leaves(cell("zone2")));
    assert_eq!(group.record.handover, Some(cell("zone2")));
    group.unchanged = NOW;
    assert!(matches!(group.next().why, Reason::AwaitStop(_)));
}
