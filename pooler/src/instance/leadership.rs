//! Recording which instance is the primary. The record follows what is observed; it is not configured.
//!
//! A promotion raises the timeline, so the record only moves to a higher timeline. A former primary that returns on its
//! old timeline cannot take the record.
//!
//! Every pooler may write the record, so a stolen certificate may have written it. A primary that is not the recorded
//! one asks the recorded one. If that answers that it is a standby, and cannot have been what the record says, the
//! record is false and is corrected.

use cellar_api::v1::LiveStatus;
use cellar_model::{Key, Leader, Role, SystemIdentifier, Timeline};
use cellar_postgres::InstanceFacts;
use cellar_topology::{StoreError, TxnOutcome};

use crate::agent::Agent;
use crate::instance::unrecorded;
use crate::peers::live_status;

/// The record that names this cell's instance as the primary.
fn record_of(cell: &cellar_model::CellName, facts: &InstanceFacts) -> Leader {
    Leader {
        cell: cell.clone(),
        term: facts.timeline,
        system_identifier: Some(facts.system_identifier),
        lsn: facts.write_lsn,
        leadership: None,
    }
}

/// The record that should replace the current one, if any. `highest` is the newest timeline on which another cell reports
/// to be: while none is recorded it may have been promoted since this one was.
fn succession(
    present: Option<&Leader>,
    highest: Option<Timeline>,
    cell: &cellar_model::CellName,
    facts: &InstanceFacts,
) -> Option<Leader> {
    if facts.role != Role::Primary {
        return None;
    }
    let mine = record_of(cell, facts);
    match present {
        None => highest.is_none_or(|highest| highest <= mine.term).then_some(mine),
        Some(leader) if leader.system_identifier.is_some_and(|id| id != facts.system_identifier) => None,
        Some(leader) if leader.cell == *cell => {
            (leader.term < mine.term || leader.system_identifier.is_none()).then_some(mine)
        }
        Some(leader) => (leader.term < mine.term).then_some(mine),
    }
}

/// Records this cell as the primary if it has just become it. Returns whether it is the recorded one.
pub(crate) async fn record(agent: &Agent, facts: &InstanceFacts) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    let (present, revision) = {
        let view = agent.mirror.view();
        (view.leaders.get(&agent.database).cloned(), view.revision(&key))
    };
    // multiadmin decides who leads a database with quorum commit, and records it.
    if agent.governing().is_some() {
        return Ok(present.is_some_and(|leader| leader.cell == agent.cell));
    }
    let highest = unrecorded::highest_of_others(agent);
    let Some(leader) = succession(present.as_ref(), highest, &agent.cell, facts) else {
        return Ok(present.is_some_and(|leader| leader.cell == agent.cell));
    };
    // Its terms are not given again.
    let leadership = present.and_then(|present| present.leadership);
    let leader = Leader { leadership, ..leader };
    tracing::info!(cell = %leader.cell, term = %leader.term, "recording the primary");
    let outcome = agent.transaction().expect(&key, revision).put(&key, &leader).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

/// Whether the record is false, seen from an instance of the database `identity` that is a primary on `timeline`, and that
/// the record does not name. `named` is what the named one answered; `None` when there is no such cell.
///
/// Two instances cannot have been primary on the same timeline, because a promotion raises the timeline; and an
/// instance that never reached a timeline was never primary on it. A record is not false when its instance was the
/// primary and has become a standby since.
fn is_false(
    leader: &Leader,
    identity: SystemIdentifier,
    timeline: Timeline,
    named: Option<&LiveStatus>,
) -> bool {
    let Some(named) = named else { return true };
    let same_database = named.system_identifier == Some(identity.to_string());
    let never_there = named.timeline.is_some_and(|timeline| timeline < leader.term.get());
    same_database && named.role() == cellar_api::v1::Role::Standby && (never_there || leader.term <= timeline)
}

/// Asks the recorded primary, of another cell, whether the record is false; see [`is_false`].
pub(crate) async fn is_denied(
    agent: &Agent,
    leader: &Leader,
    identity: SystemIdentifier,
    timeline: Timeline,
) -> bool {
    let named = match agent.card_of(&leader.cell) {
        // An instance that does not answer proves nothing.
        Some(card) => match live_status(agent, &card).await {
            Ok(live) => Some(live),
            Err(_) => return false,
        },
        None => None,
    };
    is_false(leader, identity, timeline, named.as_ref())
}

/// Corrects a false record, for a primary that it does not name. Returns whether the record was corrected.
pub(crate) async fn correct(agent: &Agent, facts: &InstanceFacts) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    let (present, revision) = {
        let view = agent.mirror.view();
        (view.leaders.get(&agent.database).cloned(), view.revision(&key))
    };
    let Some(leader) = present.filter(|leader| leader.cell != agent.cell) else { return Ok(false) };
    if agent.governing().is_some() {
        return Ok(false);
    }
    let is_primary = facts.role == Role::Primary;
    if !is_primary || !is_denied(agent, &leader, facts.system_identifier, facts.timeline).await {
        return Ok(false);
    }
    tracing::error!(
        named = %leader.cell, term = %leader.term,
        "the recorded primary answers that it is a standby: the record is false, and this primary replaces it"
    );
    let corrected = Leader { leadership: leader.leadership, ..record_of(&agent.cell, facts) };
    let outcome = agent.transaction().expect(&key, revision).put(&key, &corrected).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

/// Records that this cell is about to create the database. False when another cell is recorded already.
pub(crate) async fn record_intent(agent: &Agent) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    // Read from etcd, not from the mirror, because this decision cannot be undone.
    if let Some(present) = agent.store.get::<Leader>(&key).await? {
        return Ok(present.record.cell == agent.cell && present.record.system_identifier.is_none());
    }
    let intent = Leader {
        cell: agent.cell.clone(),
        term: Timeline::new(1),
        system_identifier: None,
        lsn: None,
        leadership: None,
    };
    let outcome = agent.transaction().expect_absent(&key).put(&key, &intent).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

/// Records the identity that initdb gave the database. After this no cell runs initdb again.
pub(crate) async fn record_identity(agent: &Agent, identity: SystemIdentifier) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    let Some(present) = agent.store.get::<Leader>(&key).await? else { return Ok(false) };
    if present.record.cell != agent.cell || present.record.system_identifier.is_some() {
        return Ok(present.record.system_identifier == Some(identity));
    }
    let leader = Leader { system_identifier: Some(identity), ..present.record };
    let outcome = agent.transaction().expect(&key, present.revision).put(&key, &leader).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use cellar_model::Lsn;

    pub(crate) fn facts(role: Role, timeline: u32, identity: u64) -> InstanceFacts {
        InstanceFacts {
            replay_paused: false,
            replays: cellar_postgres::RequiredSettings::default(),
            role,
            data_directory: "/d".into(),
            system_identifier: SystemIdentifier::new(identity),
            timeline: Timeline::new(timeline),
            checkpoint_timeline: Timeline::new(timeline),
            server_version: "15".into(),
            in_hot_standby: false,
            redo_lsn: Lsn::new(1),
            write_lsn: Some(Lsn::new(1)),
            receive_lsn: None,
            replay_lsn: None,
            wal_receiver: None,
            configured_primary: None,
            archiver: cellar_model::Archiver::default(),
            streaming_to: vec![],
        }
    }

    fn leader(cell: &str, term: u32) -> Leader {
        Leader {
            cell: cell.parse().unwrap(),
            term: Timeline::new(term),
            system_identifier: Some(SystemIdentifier::new(7)),
            lsn: None,
            leadership: None,
        }
    }

    #[test]
    fn a_record_is_false_when_the_named_instance_is_a_standby_that_never_led() {
        use cellar_api::v1;
        let live = |role: v1::Role, timeline: u32, identity: &str| v1::LiveStatus {
            role: role.into(),
            timeline: Some(timeline),
            system_identifier: Some(identity.to_owned()),
            ..v1::LiveStatus::default()
        };
        let is_false = |leader: &Leader, named: Option<&LiveStatus>| {
            is_false(leader, SystemIdentifier::new(7), Timeline::new(2), named)
        };
        let standby = live(v1::Role::Standby, 2, "7");
        assert!(is_false(&leader("zone2", 99), Some(&standby)), "it was never there");
        assert!(is_false(&leader("zone2", 2), Some(&standby)), "nobody else was primary on ours");
        assert!(is_false(&leader("zone9", 99), None), "there is no such cell");
        let led = live(v1::Role::Standby, 3, "7");
        assert!(!is_false(&leader("zone2", 3), Some(&led)), "it has led, and was made a standby since");
        let leads = live(v1::Role::Primary, 3, "7");
        assert!(!is_false(&leader("zone2", 3), Some(&leads)), "we were deposed");
        assert!(
            !is_false(&leader("zone2", 99), Some(&live(v1::Role::Standby, 2, "8"))),
            "ours is another database"
        );
    }

    #[test]
    fn the_record_moves_only_to_a_higher_timeline() {
        let me = "zone1".parse().unwrap();
        let term = |present: Option<&Leader>, facts: &InstanceFacts| {
            succession(present, None, &me, facts).map(|l| l.term.get())
        };
        let forgotten =
            |highest| succession(None, Some(Timeline::new(highest)), &me, &facts(Role::Primary, 2, 7));
        assert!(forgotten(2).is_some());
        assert_eq!(forgotten(3), None, "another cell is the one, and records itself");
        assert_eq!(term(None, &facts(Role::Primary, 1, 7)), Some(1));
        assert_eq!(term(None, &facts(Role::Standby, 1, 7)), None);
        assert_eq!(term(Some(&leader("zone2", 1)), &facts(Role::Primary, 2, 7)), Some(2));
        assert_eq!(
            term(Some(&leader("zone2", 2)), &facts(Role::Primary, 2, 7)),
            None,
            "a tie changes nothing"
        );
        assert_eq!(
            term(Some(&leader("zone2", 2)), &facts(Role::Primary, 1, 7)),
            None,
            "an old primary is not heard"
        );
        assert_eq!(term(Some(&leader("zone1", 1)), &facts(Role::Primary, 1, 7)), None, "nothing new");
        assert_eq!(term(Some(&leader("zone2", 1)), &facts(Role::Primary, 5, 8)), None, "another database");
    }
}
