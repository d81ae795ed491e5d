//! Recording who is the primary: observed, never configured.
//!
//! A promotion raises the timeline, so the record only ever moves to a higher
//! one. An old primary that comes back on its old timeline cannot take it.

use cellar_model::{Key, Leader, Role, SystemIdentifier, Timeline};
use cellar_postgres::InstanceFacts;
use cellar_topology::{StoreError, TxnOutcome};

use crate::agent::Agent;

/// The record that should replace the present one, if any.
fn succession(
    present: Option<&Leader>,
    cell: &cellar_model::CellName,
    facts: &InstanceFacts,
) -> Option<Leader> {
    if facts.role != Role::Primary {
        return None;
    }
    let mine = Leader {
        cell: cell.clone(),
        term: facts.timeline,
        system_identifier: Some(facts.system_identifier),
        lsn: facts.write_lsn,
    };
    match present {
        None => Some(mine),
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
    let Some(leader) = succession(present.as_ref(), &agent.cell, facts) else {
        return Ok(present.is_some_and(|leader| leader.cell == agent.cell));
    };
    tracing::info!(cell = %leader.cell, term = %leader.term, "recording the primary");
    let outcome = agent.store.transaction().expect(&key, revision).put(&key, &leader).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

/// Records that this cell is about to make the database. False when somebody else was faster.
pub(crate) async fn record_intent(agent: &Agent) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    // Read from etcd, not from the mirror: this is the one decision that cannot be taken back.
    if let Some(present) = agent.store.get::<Leader>(&key).await? {
        return Ok(present.record.cell == agent.cell && present.record.system_identifier.is_none());
    }
    let intent =
        Leader { cell: agent.cell.clone(), term: Timeline::new(1), system_identifier: None, lsn: None };
    let outcome = agent.store.transaction().expect_absent(&key).put(&key, &intent).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

/// Records the identity that initdb gave the database. From here on nobody may run initdb again.
pub(crate) async fn record_identity(agent: &Agent, identity: SystemIdentifier) -> Result<bool, StoreError> {
    let key = Key::Leader(agent.database.clone());
    let Some(present) = agent.store.get::<Leader>(&key).await? else { return Ok(false) };
    if present.record.cell != agent.cell || present.record.system_identifier.is_some() {
        return Ok(present.record.system_identifier == Some(identity));
    }
    let leader = Leader { system_identifier: Some(identity), ..present.record };
    let outcome =
        agent.store.transaction().expect(&key, present.revision).put(&key, &leader).commit().await?;
    Ok(outcome != TxnOutcome::Conflict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::Lsn;

    fn facts(role: Role, timeline: u32, identity: u64) -> InstanceFacts {
        InstanceFacts {
            role,
            data_directory: "/d".into(),
            system_identifier: SystemIdentifier::new(identity),
            timeline: Timeline::new(timeline),
            server_version: "15".into(),
            in_hot_standby: false,
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
        }
    }

    #[test]
    fn the_record_moves_only_to_a_higher_timeline() {
        let me = "zone1".parse().unwrap();
        let term = |present: Option<&Leader>, facts: &InstanceFacts| {
            succession(present, &me, facts).map(|l| l.term.get())
        };
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
