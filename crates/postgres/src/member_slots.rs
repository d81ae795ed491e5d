//! The physical replication slots by which a primary keeps WAL for its standbys.
//!
//! The standbys stream without them, but for those that synchronise logical slots. The primary moves each slot to what its
//! member has flushed, so a member that is away finds the WAL from there on, within `max_slot_wal_keep_size`. A slot that a standby names would do the same, and would keep
//! a standby out that connects again after a cut, until the old WAL sender has timed out; and a primary that
//! has no slots yet, as a new one has not, would refuse its standbys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cellar_model::{CellName, LogicalSlot, Lsn};
use tokio_postgres::SimpleQueryMessage;

use crate::error::PostgresError;
use crate::failover_slots::{FAILOVER_SLOTS_SINCE, NOBODYS_SLOT};
use crate::member_settings::text;
use crate::roles::SUPERUSER;
use crate::session::{Endpoint, Session};

/// How the names of our slots begin. No other slot is touched.
const PREFIX: &str = "cellar_";

/// Bytes of a slot's name that PostgreSQL keeps.
const MAX_NAME: usize = 63;

/// Slots that are left to others, such as base backups, which take one each.
const SPARE: usize = 4;

/// A slot of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MemberSlot {
    name: String,
    /// Somebody streams with it.
    is_active: bool,
    /// It fell behind the bound, and keeps nothing any more.
    is_lost: bool,
    /// It keeps rows that its member once asked for, by `hot_standby_feedback`.
    holds_rows: bool,
    /// From where on it keeps WAL.
    restart: Option<Lsn>,
}

/// What a server has of slots, and how far its standbys are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SlotLook {
    is_standby: bool,
    /// As many slots as the server may have.
    max: usize,
    /// Slots that are not ours.
    others: usize,
    ours: Vec<MemberSlot>,
    /// Those that decode, and last longer than a session; those that can be kept first.
    logical: Vec<LogicalSlot>,
    /// What each standby has flushed, by its cell.
    flushed: BTreeMap<String, Lsn>,
    /// Who streams over one connection: `application_name`, the slot that it uses, and what it has flushed.
    streams: Vec<(String, String, Lsn)>,
    /// The slots that subscribers wait for, by the settings that are in force; none where PostgreSQL has no such setting.
    awaited: Option<BTreeSet<String>>,
    /// The slot that says that nobody has anything. It is not among `ours`.
    nobodys: Option<Nobodys>,
}

/// What there is of the slot that says that nobody has anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nobodys {
    /// It keeps no WAL and rows, as it is to be.
    Empty,
    /// Somebody streamed with it.
    Used,
}

impl SlotLook {
    /// Whether subscribers wait for a slot of that name.
    fn is_awaited(&self, name: &str) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| awaited.contains(name))
    }
}

/// What is to be done with a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SlotAction {
    Drop(String),
    Create(String),
    /// One that keeps nothing, and never says that anybody has anything.
    CreateEmpty(String),
    Advance(String, Lsn),
}

impl SlotAction {
    fn sql(&self) -> String {
        match self {
            Self::Drop(name) => format!("SELECT pg_drop_replication_slot({})", text(name)),
            // It keeps WAL from now on, not only once somebody streams with it.
            Self::Create(name) => {
                format!("SELECT pg_create_physical_replication_slot({}, true)", text(name))
            }
            Self::CreateEmpty(name) => {
                format!("SELECT pg_create_physical_replication_slot({}, false)", text(name))
            }
            Self::Advance(name, to) => {
                format!("SELECT pg_replication_slot_advance({}, {})", text(name), text(&to.to_string()))
            }
        }
    }
}

/// The 64-bit hash FNV-1a.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The slot of a cell at its primary. Names of slots have no `-` and end at 63 bytes; a cell whose name does not fit is told by a hash of it.
/// A cell's name begins with a letter or digit, so that the two kinds have no name in common.
#[must_use]
pub fn member_slot(cell: &CellName) -> String {
    let cell = cell.as_str();
    let plain = format!("{PREFIX}{}", cell.replace('-', "_"));
    if plain.len() <= MAX_NAME && !cell.contains('_') {
        return plain;
    }
    let mut name = format!("{PREFIX}_{:016x}_{}", hash(cell), cell.replace('-', "_"));
    // All of it is ASCII.
    name.truncate(MAX_NAME);
    name
}

/// For whom WAL is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For every member, also one that is away.
    ForAll,
    /// For those that stream: the disk is nearly full, and a primary that has no room ends.
    ForStreaming,
}

/// What the slots of a server are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotWork {
    /// The other members. Of no account on a standby.
    pub cells: Vec<CellName>,
    /// For which of them WAL is kept.
    pub keep: Keep,
    /// Slots of members that keep rows for nobody, and are made anew: nothing else has them let the rows go, for a copy of a slot
    /// has its rows, too.
    pub let_rows_go: BTreeSet<String>,
    /// The failover slots of the primary that a standby follows. What it has of the same name from when it led itself hinders their
    /// synchronisation, and is of no use.
    pub superseded: BTreeSet<String>,
}

/// What is to be done on a server so that it keeps WAL for the members, and for nobody who is none. A standby keeps none
/// at all: nothing would move its slots on.
fn actions(look: &SlotLook, work: &SlotWork) -> Vec<SlotAction> {
    let is_kept = |cell: &&CellName| work.keep == Keep::ForAll || look.flushed.contains_key(cell.as_str());
    let wanted: BTreeMap<String, &CellName> = match look.is_standby {
        true => BTreeMap::new(),
        false => work.cells.iter().filter(is_kept).map(|cell| (member_slot(cell), cell)).collect(),
    };
    let mut actions = Vec::new();
    let left = |slot: &&LogicalSlot| slot.failover && !slot.synced && work.superseded.contains(&slot.name);
    // A slot that says that nobody has anything takes a place, too.
    let others = look.others + usize::from(look.awaited.is_some());
    if look.is_standby {
        actions.extend(look.logical.iter().filter(left).map(|slot| SlotAction::Drop(slot.name.clone())));
    }
    let mut kept = BTreeSet::new();
    for slot in &look.ours {
        let Some(cell) = wanted.get(&slot.name) else {
            actions.push(SlotAction::Drop(slot.name.clone()));
            continue;
        };
        let lets_go = slot.holds_rows && !slot.is_active && work.let_rows_go.contains(&slot.name);
        if slot.is_lost || lets_go {
            actions.push(SlotAction::Drop(slot.name.clone()));
            continue;
        }
        kept.insert(slot.name.as_str());
        let flushed = look.flushed.get(cell.as_str()).filter(|flushed| slot.restart < Some(**flushed));
        if let Some(flushed) = flushed.filter(|_| !slot.is_active) {
            actions.push(SlotAction::Advance(slot.name.clone(), *flushed));
        }
    }
    match (&look.awaited, look.nobodys) {
        (Some(_), None) => actions.push(SlotAction::CreateEmpty(NOBODYS_SLOT.to_owned())),
        (Some(_), Some(Nobodys::Empty)) | (None, None) => {}
        (_, Some(_)) => actions.push(SlotAction::Drop(NOBODYS_SLOT.to_owned())),
    }
    let room = look.max.saturating_sub(others + kept.len() + SPARE);
    // A new one is where the primary's last checkpoint is, which its member may not have: no subscriber may go by it.
    let is_missing = |name: &&String| !kept.contains(name.as_str()) && !look.is_awaited(name);
    let missing = wanted.keys().filter(is_missing);
    actions.extend(missing.take(room).cloned().map(SlotAction::Create));
    actions
}

/// The members' slots that are neither there nor to be made.
fn without_room(look: &SlotLook, work: &SlotWork, actions: &[SlotAction]) -> BTreeSet<String> {
    if look.is_standby || work.keep != Keep::ForAll {
        return BTreeSet::new();
    }
    let is_there = |name: &String| look.ours.iter().any(|slot| slot.name == *name);
    let is_made = |name: &String| actions.contains(&SlotAction::Create(name.clone()));
    let slots = work.cells.iter().map(member_slot);
    slots.filter(|name| !is_there(name) && !is_made(name) && !look.is_awaited(name)).collect()
}

/// One statement, so that it is one round trip. Of several senders to one cell an old copy's may be among them: the least
/// position counts. Some of the columns are of later versions.
const LOOK: &str = "\
SELECT 'server', CASE WHEN pg_is_in_recovery() THEN 'standby' END, current_setting('max_replication_slots'), NULL,
       current_setting('synchronized_standby_slots', true)
 UNION ALL
SELECT 'slot', s.slot_name, concat_ws(' ', s.slot_type, s.wal_status, CASE WHEN s.active THEN 'active' END,
       CASE WHEN s.temporary THEN 'temporary' END, CASE WHEN j.row->>'failover' = 'true' THEN 'failover' END,
       CASE WHEN j.row->>'synced' = 'true' THEN 'synced' END,
       CASE WHEN coalesce(s.xmin, s.catalog_xmin) IS NOT NULL THEN 'rows' END,
       CASE WHEN j.row->>'invalidation_reason' <> '' OR j.row->>'conflicting' = 'true' THEN 'lost' END),
       s.restart_lsn::text, s.database
  FROM pg_replication_slots s CROSS JOIN LATERAL (SELECT to_jsonb(s) AS row) j
 UNION ALL
SELECT 'flushed', split_part(application_name, ':', 1), NULL, min(flush_lsn)::text, NULL
  FROM pg_stat_replication WHERE flush_lsn IS NOT NULL GROUP BY 2
 UNION ALL
SELECT 'streams', r.application_name, max(s.slot_name), min(r.flush_lsn)::text, NULL
  FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid
 GROUP BY 2 HAVING count(*) = 1 AND bool_and(r.state = 'streaming' AND r.flush_lsn IS NOT NULL)
 ORDER BY 1, 2";

/// Logical slots that are told of. Each is some bytes of the status in etcd.
const MAX_TOLD: usize = 32;

fn read(rows: impl IntoIterator<Item = [Option<String>; 5]>) -> Result<SlotLook, PostgresError> {
    let unexpected = || PostgresError::UnexpectedAnswer("of replication slots".to_owned());
    let mut look = SlotLook::default();
    for [kind, name, state, lsn, database] in rows {
        let lsn = lsn.map(|text| text.parse().map_err(|_| unexpected())).transpose()?;
        let (name, state) = (name.unwrap_or_default(), state.unwrap_or_default());
        let words: BTreeSet<&str> = state.split(' ').collect();
        match kind.as_deref() {
            Some("server") => {
                look.is_standby = name == "standby";
                look.max = state.parse().map_err(|_| unexpected())?;
                look.awaited =
                    database.map(|list| list.split(',').map(|name| name.trim().to_owned()).collect());
            }
            Some("slot") if name == NOBODYS_SLOT && words.contains("physical") => {
                let is_empty = lsn.is_none() && !words.contains("rows") && !words.contains("lost");
                look.nobodys = Some(if is_empty { Nobodys::Empty } else { Nobodys::Used });
            }
            Some("slot") if name.starts_with(PREFIX) && words.contains("physical") => {
                look.ours.push(MemberSlot {
                    name,
                    is_active: words.contains("active"),
                    is_lost: words.contains("lost") || lsn.is_none(),
                    holds_rows: words.contains("rows"),
                    restart: lsn,
                });
            }
            Some("slot") => {
                look.others += 1;
                // A standby's copy of a slot is a temporary one until it can be gone on with.
                if words.contains("logical") && !words.contains("temporary") {
                    look.logical.push(LogicalSlot {
                        name,
                        database: database.unwrap_or_default(),
                        failover: words.contains("failover"),
                        synced: words.contains("synced"),
                        lost: words.contains("lost"),
                    });
                }
            }
            Some("streams") => look.streams.extend(lsn.map(|lsn| (name, state, lsn))),
            Some("flushed") => look.flushed.extend(lsn.map(|lsn| (name, lsn))),
            _ => return Err(unexpected()),
        }
    }
    look.logical.sort_by_key(|slot| !slot.failover);
    Ok(look)
}

async fn rows(session: &Session) -> Result<Vec<[Option<String>; 5]>, tokio_postgres::Error> {
    let answer = session.client.simple_query(LOOK).await?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some([0, 1, 2, 3, 4].map(|at| row.try_get(at).ok().flatten().map(str::to_owned)))
        }
        _ => None,
    };
    Ok(answer.iter().filter_map(row).collect())
}

/// The standbys of which a slot says what they have: they use their own, or nobody does and it follows them. One whose slot an
/// old connection holds is none of them, as its slot does not move.
fn with_slots(look: &SlotLook) -> BTreeSet<String> {
    let says_it = |(name, used, flushed): &&(String, String, Lsn)| {
        let cell = name.split(':').next().and_then(|cell| cell.parse().ok());
        let Some(own) = cell.map(|cell| member_slot(&cell)) else { return false };
        let follows = |slot: &MemberSlot| {
            !slot.is_active && !slot.is_lost && slot.restart.is_some_and(|restart| restart <= *flushed)
        };
        *used == own || look.ours.iter().any(|slot| slot.name == own && follows(slot))
    };
    look.streams.iter().filter(says_it).map(|(name, _, _)| name.clone()).collect()
}

/// What was found of slots, and done.
#[derive(Debug)]
pub struct SlotReport {
    /// The lasting logical slots, at most 32; those that can be kept first.
    pub logical: Vec<LogicalSlot>,
    /// The standbys whose own slots move with them and are not ahead of them, by their names.
    pub with_slots: BTreeSet<String>,
    /// The slots of members that keep rows, and nobody streams with them.
    pub idle_with_rows: BTreeSet<String>,
    /// What the server refused last; the rest was done all the same.
    pub refused: Option<PostgresError>,
    /// Slots for which `max_replication_slots` leaves no room.
    pub without_room: BTreeSet<String>,
}

/// Sees to the slots of the other members: on a primary each has one that is where the member is, on a standby
/// there are none. From version 17 on both have [`NOBODYS_SLOT`].
///
/// # Errors
/// When the server does not answer within `timeout`.
pub async fn keep_member_slots(
    endpoint: &Endpoint,
    work: &SlotWork,
    timeout: Duration,
) -> Result<SlotReport, PostgresError> {
    let doing = async {
        let session = endpoint.connect(SUPERUSER, timeout).await?;
        let sorted = |error| endpoint.error(error, timeout);
        let mut look = read(rows(&session).await.map_err(sorted)?)?;
        let mut refused = None;
        let actions = actions(&look, work);
        let without_room = without_room(&look, work, &actions);
        for action in actions {
            match session.client.simple_query(&action.sql()).await {
                Ok(_) => tracing::debug!(?action, "replication slot"),
                Err(error) if error.is_closed() => return Err(sorted(error)),
                Err(error) => refused = Some(sorted(error)),
            }
        }
        let with_slots = with_slots(&look);
        look.logical.truncate(MAX_TOLD);
        let idle = look.ours.into_iter().filter(|slot| slot.holds_rows && !slot.is_active);
        Ok(SlotReport {
            logical: look.logical,
            with_slots,
            idle_with_rows: idle.map(|slot| slot.name).collect(),
            refused,
            without_room,
        })
    };
    endpoint.within(timeout, doing).await
}

/// Whether there is something to look at in a standby's data directory: a slot other than the one that it is to have, or from
/// version 17 on not that one. Costs no connection.
#[must_use]
pub fn has_slots_to_see_to(data_directory: &Path, major: u32) -> bool {
    let entries = std::fs::read_dir(data_directory.join("pg_replslot"));
    let names: Vec<_> = entries.into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
    let has_nobodys = names.iter().any(|name| name == NOBODYS_SLOT);
    names.len() != usize::from(has_nobodys) || has_nobodys != (major >= FAILOVER_SLOTS_SINCE)
}

#[cfg(test)]
mod tests;
