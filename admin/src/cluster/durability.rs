//! Turning quorum commit on and off.

use cellar_api::v1;
use cellar_model::{
    CellName, Code, Database, DatabaseName, Durability, Key, Leader, Leadership, Phase, Protocol, Refusal,
    check_in_use,
};
use cellar_topology::View;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::tries::Tries;

/// The fewest members: with two, the loss of either stops writes.
const MIN_MEMBERS: usize = 3;

/// Bytes of a cell's name as a member: a standby is told apart by its cell and the number of its copy, of which PostgreSQL shows
/// 63 bytes (`NAMEDATALEN`).
const MAX_MEMBER_NAME: usize = 52;

/// Refuses a cell whose name is too long for quorum commit.
pub(super) fn check_member_name(cell: &CellName) -> Result<(), Refusal> {
    if cell.as_str().len() <= MAX_MEMBER_NAME {
        return Ok(());
    }
    let message = format!(
        "the name of cell {cell} is too long for quorum commit: PostgreSQL would cut the standby's name, and commits would wait for it"
    );
    Err(Refusal::new(Code::Unsupported, message)
        .hint(format!(
            "give the cell a name of at most {MAX_MEMBER_NAME} bytes: add one, and remove this one"
        ))
        .about("cell", cell))
}

/// Refuses what would not work, before anything is changed.
fn check(view: &View, database: &Database, durability: Durability) -> Result<(), Refusal> {
    let name = &database.name;
    if durability == Durability::Async {
        return view.leaders.get(name).map_or(Ok(()), |leader| check_nobody_else_was_appointed(leader, name));
    }
    let members = view.poolers.keys().filter(|(of, _)| of == name).count();
    if members < MIN_MEMBERS {
        let message = format!(
            "database {name} has {members} members, and quorum commit needs {MIN_MEMBERS}: with fewer, the loss of one stops writes"
        );
        return Err(Refusal::new(Code::Unsupported, message)
            .hint("add a cell with `cellar cells add`")
            .about("database", name));
    }
    let mut cells = view.poolers.keys().filter(|(of, _)| of == name).map(|(_, cell)| cell);
    cells.try_for_each(check_member_name)?;
    if database.minimum_protocol < Protocol::QUORUM_COMMIT {
        let message =
            format!("not every multipooler of database {name} is known to be new enough for quorum commit");
        return Err(Refusal::new(Code::Unsupported, message)
            .hint("`cellar status` shows which do not report; update those that are older, and ask again")
            .about("database", name));
    }
    if view.leaders.get(name).is_none_or(|leader| leader.system_identifier.is_none()) {
        return Err(Refusal::new(Code::NoPrimary, format!("no primary of database {name} is recorded"))
            .hint("`cellar status` shows what its cells are doing")
            .about("database", name));
    }
    check_in_use(view.incarnations.get(name), view.leaders.get(name), name)
}

/// Refuses to give quorum commit up while another member than the recorded primary may have acknowledged commits already: it was
/// appointed, and nobody knows yet what became of that. The recorded primary would go on without them.
fn check_nobody_else_was_appointed(leader: &Leader, name: &DatabaseName) -> Result<(), Refusal> {
    let appointed = leader.leadership.as_ref().filter(|leadership| {
        !leadership.ended && leadership.phase != Phase::Steady && leadership.cell != leader.cell
    });
    let Some(appointed) = appointed else { return Ok(()) };
    let message = format!(
        "{} was told to lead database {name} under term {} in the place of {}, and may have acknowledged commits",
        appointed.cell, appointed.held, leader.cell
    );
    Err(Refusal::new(Code::Lagging, message)
        .hint(format!(
            "ask again when one of them leads; `cellar explain` says what is awaited. Where too many are lost: `cellar failover --to {} --accept-loss`",
            appointed.cell
        ))
        .about("database", name))
}

impl Admin {
    /// Turns quorum commit on or off. It has begun once the database's record of its leader says so.
    pub(crate) async fn set_durability(
        &self,
        database: Option<&DatabaseName>,
        durability: Durability,
        deadline: Deadline,
    ) -> Result<v1::DatabaseView, Refusal> {
        let mut tries = Tries::of("the database's record", deadline);
        loop {
            let _ = tries.begin()?;
            self.fresh(deadline).await?;
            let (present, leader, keys, revisions) = {
                let view = self.view();
                let present = view.snapshot().database(database)?.clone();
                check(&view, &present, durability)?;
                let keys = [Key::Database(present.name.clone()), Key::Leader(present.name.clone())];
                let revisions = keys.clone().map(|key| view.revision(&key));
                (present.clone(), view.leaders.get(&present.name).cloned(), keys, revisions)
            };
            let name = present.name.clone();
            if present.durability == durability {
                return self.database(Some(&name), deadline).await;
            }
            let [database_key, leader_key] = &keys;
            let record = Database { durability, ..present };
            let mut transaction = self
                .store
                .transaction()
                .expect(database_key, revisions[0])
                .expect(leader_key, revisions[1])
                .put(database_key, &record);
            // What was acknowledged so far stays so; what comes is acknowledged by the primary alone.
            let ended = leader.and_then(|leader| {
                let leadership = Leadership { ended: true, ..leader.leadership.clone()? };
                Some(Leader { leadership: Some(leadership), ..leader })
            });
            if let Some(ended) = &ended {
                transaction = transaction.put(leader_key, ended);
            }
            if self.commit(&mut tries, transaction, Some((database_key, revisions[0]))).await? {
                tracing::warn!(database = %name, durability = durability.as_str(), "another durability");
                return self.database(Some(&name), deadline).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quorum_commit_is_not_given_up_while_somebody_else_may_have_acknowledged() {
        let name = "app".parse().unwrap();
        let refused = |led_by: &str, phase, ended| {
            let leadership =
                Leadership { phase, ended, ..Leadership::begin("zone2".parse().unwrap(), [].into()) };
            let leader = Leader {
                cell: led_by.parse().unwrap(),
                term: cellar_model::Timeline::new(1),
                system_identifier: None,
                lsn: None,
                leadership: Some(leadership),
            };
            check_nobody_else_was_appointed(&leader, &name).is_err()
        };
        for phase in [Phase::Appointed, Phase::Recruiting] {
            assert!(refused("zone1", phase, false), "{phase:?}");
            assert!(!refused("zone2", phase, false), "it is the recorded primary itself");
            assert!(!refused("zone1", phase, true), "it was given up before");
        }
        assert!(!refused("zone1", Phase::Steady, false));
    }

    #[test]
    fn the_longest_name_of_a_cell_leaves_room_for_the_number_of_its_copy() {
        let of = |length: usize| check_member_name(&"z".repeat(length).parse().unwrap());
        assert_eq!("z".repeat(MAX_MEMBER_NAME).len() + format!(":{}", u32::MAX).len(), 63);
        assert!(of(MAX_MEMBER_NAME).is_ok());
        assert_eq!(of(MAX_MEMBER_NAME + 1).unwrap_err().code, Code::Unsupported);
    }
}
