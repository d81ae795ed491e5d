//! What is evidence, and what is not.

use super::*;

#[test]
fn a_primary_that_no_standby_streams_from_is_replaced_when_its_commits_wait() {
    let mut group = Group::of(&["zone1", "zone2", "zone3"]);
    let waits = |group: &mut Group, since| {
        group.at("zone1").leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since };
    };
    waits(&mut group, LONG);
    assert!(matches!(group.next().why, Reason::Well(_)), "its standbys stream");
    for standby in ["zone2", "zone3"] {
        let sight = group.at(standby).sees.as_mut().unwrap();
        sight.stream = Link::Silent { since: LONG };
        let is_isolated = group.next().why == Reason::Recruit(Death::Isolated);
        assert_eq!(is_isolated, standby == "zone3", "as many as can elect must say so");
    }
    waits(&mut group, NOW);
    assert!(matches!(group.next().why, Reason::Well(_)), "not at once");
    // They were down together, and have come back a moment ago.
    waits(&mut group, LONG);
    let back = Duration::from_secs(5);
    group.at("zone3").sees.as_mut().unwrap().stream = Link::Silent { since: back };
    assert!(matches!(group.next().why, Reason::Well(_)), "it has not had the time to connect");
}

fn of(group: &Group) -> Result<Death, NoEvidence> {
    evidence(&group.view())
}

fn three() -> Group {
    Group::of(&["zone1", "zone2", "zone3"])
}

#[test]
fn a_lost_cell_is_dead_when_a_majority_says_so() {
    let mut group = three();
    assert_eq!(of(&group), Err(NoEvidence::Reports));
    group.lose("zone1");
    assert!(matches!(of(&group), Ok(Death::Silent { witnesses }) if witnesses.len() == 2));
}

#[test]
fn missing_information_is_no_evidence() {
    // One of the two standbys is silent, or reports too late, or has not looked long enough.
    let changes: [fn(&mut Group); 4] = [
        |group| drop(group.facts.remove(&cell("zone3"))),
        |group| group.at("zone3").age = Duration::from_secs(10),
        |group| group.at("zone3").sees = None,
        |group| {
            group.at("zone3").sees.as_mut().unwrap().stream = Link::Silent { since: Duration::from_secs(1) }
        },
    ];
    for change in changes {
        let mut group = three();
        group.lose("zone1");
        change(&mut group);
        assert_eq!(of(&group), Err(NoEvidence::FewWitnesses { have: 1, need: 2 }));
    }
    let mut alone = three();
    alone.facts.clear();
    assert_eq!(of(&alone), Err(NoEvidence::FewWitnesses { have: 0, need: 2 }), "a decider that is cut off");
}

#[test]
fn where_connections_are_refused_it_is_noticed_sooner() {
    let second = Duration::from_secs(1);
    let lose = |refused_by: &[&str], silent_for| {
        let mut group = three();
        group.at("zone1").age = silent_for;
        for name in ["zone2", "zone3"] {
            let silent = Link::Silent { since: silent_for };
            let refused = refused_by.contains(&name);
            let sight = group.at(name).sees.as_mut().unwrap();
            *sight = Sight { stream: silent, pooler: silent, refused, ..sight.clone() };
        }
        group
    };
    let both = ["zone2", "zone3"];
    assert!(matches!(of(&lose(&both, second)), Ok(Death::Silent { witnesses }) if witnesses.len() == 2));
    // Not at once, not by one member's word, and not while something streams.
    assert_eq!(of(&lose(&both, second - Duration::from_millis(1))), Err(NoEvidence::Reports));
    assert_eq!(of(&lose(&["zone3"], second)), Err(NoEvidence::Reports));
    let mut reported_since = lose(&both, second);
    reported_since.at("zone1").age = NOW;
    assert_eq!(of(&reported_since), Err(NoEvidence::Reports), "the receiver has heard it since");
    let mut streams = lose(&both, second);
    streams.at("zone2").sees.as_mut().unwrap().stream = Link::Heard { ago: NOW };
    assert_eq!(of(&streams), Err(NoEvidence::Reports));
    // Its multipooler is being started again, and an idle primary says little without it.
    let mut idle = lose(&both, second);
    for name in both {
        idle.at(name).sees.as_mut().unwrap().stream = Link::Heard { ago: Duration::from_millis(1600) };
        idle.at(name).age = Duration::from_millis(500);
    }
    assert_eq!(of(&idle), Err(NoEvidence::Reports));
    idle.at("zone1").age = LONG;
    assert_eq!(of(&idle), Err(NoEvidence::FewWitnesses { have: 0, need: 2 }));
    // A packet filter that refuses its pooler only.
    streams.at("zone1").age = LONG;
    assert_eq!(of(&streams), Err(NoEvidence::Vetoed(cell("zone2"))));
}

#[test]
fn a_sight_of_another_leader_and_another_copy_say_nothing() {
    let mut group = three();
    group.lose("zone1");
    group.at("zone3").sees.as_mut().unwrap().of = cell("zone2");
    assert_eq!(of(&group), Err(NoEvidence::FewWitnesses { have: 1, need: 2 }));
    let mut group = three();
    group.lose("zone1");
    group.at("zone3").copy = CopyNumber::new(2);
    assert_eq!(of(&group), Err(NoEvidence::FewWitnesses { have: 1, need: 2 }));
}

#[test]
fn one_standby_that_streams_vetoes() {
    let mut group = Group::of(&["zone1", "zone2", "zone3", "zone4", "zone5"]);
    group.lose("zone1");
    assert!(of(&group).is_ok());
    group.at("zone5").sees.as_mut().unwrap().stream = Link::Heard { ago: Duration::from_millis(500) };
    assert_eq!(of(&group), Err(NoEvidence::Vetoed(cell("zone5"))));
    // The age of the report counts, too.
    group.at("zone5").age = Duration::from_millis(1500);
    assert!(matches!(of(&group), Ok(Death::Silent { .. })), "{:?}", of(&group));
    group.at("zone5").sees.as_mut().unwrap().pooler = Link::Heard { ago: NOW };
    assert_eq!(of(&group), Err(NoEvidence::Reached(cell("zone5"))));
}

#[test]
fn the_leaders_own_word_counts_at_once() {
    for (instance, expected) in [
        (Instance::Gone, Ok(Death::Gone)),
        (Instance::Restarting, Err(NoEvidence::Restarting)),
        (Instance::Stopped, Err(NoEvidence::StoppedOnPurpose)),
        (Instance::Frozen { since: LONG }, Ok(Death::Frozen)),
        (Instance::Frozen { since: Duration::from_secs(1) }, Err(NoEvidence::Reports)),
        (Instance::Saturated, Err(NoEvidence::Reports)),
    ] {
        let mut group = three();
        group.at("zone1").instance = instance;
        // Connections to an instance that ended are closed; to a frozen one they stand, and bring nothing new.
        for standby in ["zone2", "zone3"] {
            let sight = group.at(standby).sees.as_mut().unwrap();
            sight.new_wal = Some(LONG);
        }
        assert_eq!(of(&group), expected, "{instance:?}");
    }
}

#[test]
fn a_hung_disk_counts_although_keep_alives_come_and_new_wal_disproves_it() {
    let mut group = three();
    group.at("zone1").leads.as_mut().unwrap().canary = Canary::Hung { since: LONG };
    assert_eq!(of(&group), Err(NoEvidence::Vetoed(cell("zone2"))), "new WAL comes");
    for standby in ["zone2", "zone3"] {
        group.at(standby).sees.as_mut().unwrap().new_wal = Some(LONG);
    }
    assert_eq!(of(&group), Ok(Death::Hung));
    group.at("zone1").leads.as_mut().unwrap().canary = Canary::AwaitsQuorum { since: LONG };
    assert_eq!(of(&group), Err(NoEvidence::CommitsWait { since: LONG }), "all standbys lost: writes wait");
}

#[test]
fn a_leader_that_runs_as_a_standby_leads_no_more() {
    let mut group = three();
    group.at("zone1").leads = None;
    assert_eq!(of(&group), Ok(Death::LeadsNoMore));
    group.record.phase = Phase::Appointed;
    group.in_phase = NOW;
    assert_eq!(of(&group), Err(NoEvidence::Reports), "it has not promoted yet");
    group.in_phase = LONG;
    assert_eq!(of(&group), Ok(Death::NeverEstablished), "nor ever will");
    group.facts.remove(&cell("zone3"));
    assert_eq!(of(&group), Err(NoEvidence::Reports), "nobody else could be elected");
    group.at("zone1").cannot_lead = true;
    assert_eq!(of(&group), Ok(Death::CannotLead));
}

#[test]
fn a_primary_that_has_lost_its_term_does_not_lead() {
    let mut group = three();
    group.record.held = Term::new(1);
    group.at("zone1").leads.as_mut().unwrap().term = Term::default();
    assert_eq!(of(&group), Ok(Death::LeadsNoMore));
}
