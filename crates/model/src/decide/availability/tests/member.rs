//! What a member may do.

use super::*;

fn name() -> CellName {
    cell("zone2")
}

fn recruiting(term: u32) -> Leadership {
    let group = Group::of(&["zone1", "zone2", "zone3"]);
    Leadership { phase: Phase::Recruiting, term: Term::new(term), ..group.record }
}

fn appointed(term: u32) -> Leadership {
    let term = Term::new(term);
    let record = recruiting(1);
    Leadership {
        phase: Phase::Appointed,
        cell: name(),
        term,
        held: term,
        since: term,
        floor: Some(at(1, 100)),
        ..record
    }
}

#[test]
fn a_promise_is_durable_before_anything_else() {
    let record = recruiting(2);
    let mut facts = standby(&cell("zone1"));
    let step = |facts: &Facts| may_promise(Rules::SAFE, &name(), facts, &record);
    assert_eq!(step(&facts), Ok(PromiseStep::Keep(Term::new(2))));
    facts.promised = Term::new(2);
    assert_eq!(step(&facts), Ok(PromiseStep::StopReceiving));
    facts.receives = false;
    assert_eq!(step(&facts), Ok(PromiseStep::Report(Term::new(2))));
    assert_eq!(may_follow(&facts, Term::new(1)), Err(Refused::Promised(Term::new(2))));
    assert_eq!(following(&name(), &facts, &record), Whom::Nobody);
    assert_eq!(
        step(&Facts { promised: Term::new(3), ..facts.clone() }),
        Err(Refused::Promised(Term::new(3)))
    );
    assert_eq!(step(&Facts { copy: CopyNumber::new(2), ..facts.clone() }), Err(Refused::Stranger));
    assert_eq!(step(&primary(1)), Err(Refused::Leads));
}

#[test]
fn a_winner_leads_from_the_floor_only() {
    let record = appointed(2);
    let ready = Facts { receives: false, promised: Term::new(2), ..standby(&cell("zone1")) };
    let ask = |facts: &Facts| may_promote(Rules::SAFE, &name(), facts, &record);
    assert_eq!(ask(&ready), Ok(Taking::Promote(Term::new(2))));
    let below = Facts { position: at(1, 99), ..ready.clone() };
    assert_eq!(ask(&below), Err(Refused::BelowFloor { at: at(1, 99), floor: at(1, 100) }));
    assert_eq!(ask(&Facts { receives: true, ..ready.clone() }), Err(Refused::Receives));
    assert_eq!(ask(&Facts { promised: Term::new(3), ..ready.clone() }), Err(Refused::Promised(Term::new(3))));
    let begun = Facts { begun: Some((Term::new(2), CopyNumber::new(1))), ..ready.clone() };
    assert!(ask(&begun).is_ok(), "it crashed while it promoted");
    assert_eq!(ask(&Facts { copy: CopyNumber::new(2), ..begun }), Err(Refused::Begun));
    assert_eq!(may_promote(Rules::SAFE, &cell("zone3"), &ready, &record), Err(Refused::NotAsked));
    let floorless = Leadership { floor: None, ..record.clone() };
    assert_eq!(may_promote(Rules::SAFE, &name(), &ready, &floorless), Err(Refused::NotAsked));
}

#[test]
fn a_primary_stops_for_a_higher_term_of_another_and_not_for_a_question() {
    let stop = |record: &Leadership, facts: &Facts| {
        must_stop(&cell("zone1"), facts, record, NOW, NOW, &Timing::default())
    };
    assert_eq!(stop(&recruiting(2), &primary(1)), None, "it may be appointed again");
    assert_eq!(stop(&appointed(2), &primary(1)), Some(Stop::Deposed(Term::new(2))));
    let own = Leadership { cell: cell("zone1"), since: Term::new(1), ..appointed(3) };
    assert_eq!(stop(&own, &primary(1)), None, "appointed again");
    let promised = Facts { promised: Term::new(4), ..primary(1) };
    assert_eq!(stop(&recruiting(2), &promised), Some(Stop::Promised(Term::new(4))));
    let record = recruiting(1);
    let cut_off =
        |etcd, quorum| must_stop(&cell("zone1"), &primary(1), &record, etcd, quorum, &Timing::default());
    assert_eq!(cut_off(LONG, LONG), Some(Stop::CutOff));
    assert_eq!((cut_off(LONG, NOW), cut_off(NOW, LONG)), (None, None), "etcd is not needed to go on");
}

#[test]
fn a_primary_that_restarts_serves_once_its_canary_has_its_quorum() {
    let deposed = appointed(2);
    let ask = |facts: &Facts, record| may_write_after_restart(&cell("zone1"), facts, record);
    assert_eq!(ask(&primary(1), None), Restarted::Serve);
    let mut waiting = primary(1);
    waiting.leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since: NOW };
    assert_eq!(ask(&waiting, None), Restarted::AwaitQuorum);
    assert_eq!(ask(&primary(1), Some(&deposed)), Restarted::Stop);
    assert_eq!(ask(&Facts { promised: Term::new(2), ..primary(1) }, None), Restarted::Stop);
    assert_eq!(ask(&standby(&cell("zone3")), None), Restarted::Stop);
}

#[test]
fn only_what_has_its_quorum_is_archived() {
    let deposed = appointed(2);
    let ask = |facts: &Facts, record, end: u64, committed: Option<u64>| {
        may_archive(&cell("zone1"), facts, record, Lsn::new(end), committed.map(Lsn::new))
    };
    assert_eq!(ask(&primary(1), None, 100, Some(100)), Archiving::Archive);
    assert_eq!(ask(&primary(1), None, 101, Some(100)), Archiving::Later);
    assert_eq!(ask(&primary(1), None, 1, None), Archiving::Later);
    assert_eq!(ask(&primary(1), Some(&deposed), 1, Some(100)), Archiving::Never);
    assert_eq!(ask(&standby(&cell("zone2")), None, 1, Some(100)), Archiving::Never);
}

#[test]
fn data_that_counts_is_not_replaced() {
    let record = Leadership { phase: Phase::Steady, ..appointed(2) };
    let mut leader = primary(2);
    let old = Facts { needs_replacing: true, ..standby(&cell("zone2")) };
    let ask = |facts: &Facts, leader: &Facts| {
        may_replace_data(Rules::SAFE, &cell("zone1"), facts, &record, Some(leader))
    };
    assert_eq!(ask(&old, &leader), Err(Refused::InUse), "it leaves the cohort first");
    assert_eq!(ask(&Facts { copy: CopyNumber::new(2), ..old.clone() }, &leader), Ok(Replacing::Left));
    leader.leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since: NOW };
    assert_eq!(
        ask(&old, &leader),
        Ok(Replacing::GivesUp),
        "without it the leader has no quorum, and it cannot follow"
    );
    assert_eq!(ask(&Facts { needs_replacing: false, ..old }, &leader), Err(Refused::InUse));
    assert_eq!(ask(&primary(1), &leader), Err(Refused::Leads));
}

#[test]
fn the_gate_opens_when_k_standbys_have_the_term_row() {
    let rule = Group::of(&["zone1", "zone2", "zone3", "zone4", "zone5"]).record.rules.remove(0);
    let gate = |leads: &Leading, flushed: &[(&str, u32, u64)]| {
        let flushed =
            flushed.iter().map(|(name, copy, lsn)| ((cell(name), CopyNumber::new(*copy)), Lsn::new(*lsn)));
        gate(Rules::SAFE, &cell("zone1"), leads, &rule, &flushed.collect())
    };
    let leads = Leading { row: Some(Lsn::new(50)), ..primary(1).leads.unwrap() };
    assert_eq!(gate(&Leading { row: None, ..leads }, &[("zone2", 1, 90), ("zone3", 1, 90)]), Gate::NoRow);
    assert_eq!(gate(&leads, &[("zone2", 1, 90), ("zone3", 1, 49)]), Gate::RowAwaitsQuorum);
    assert_eq!(gate(&leads, &[("zone2", 1, 90), ("zone3", 2, 90)]), Gate::RowAwaitsQuorum, "a stranger");
    assert_eq!(gate(&leads, &[("zone2", 1, 90), ("zone1", 1, 90)]), Gate::RowAwaitsQuorum, "itself");
    let open = gate(&leads, &[("zone2", 1, 90), ("zone3", 1, 60), ("zone4", 1, 70)]);
    assert_eq!(open, Gate::Open { committed: Lsn::new(70) });
    assert_eq!(gate(&Leading { rule: 2, ..leads }, &[("zone2", 1, 90), ("zone3", 1, 90)]), Gate::NoRule);
}
