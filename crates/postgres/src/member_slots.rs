//! The physical replication slots by which a primary keeps WAL for its standbys.
//!
//! The standbys stream without them. The primary moves each slot to what its member has flushed, so a member that is away finds
//! the WAL from there on, within `max_slot_wal_keep_size`. A slot that a standby names would do the same, and would keep
//! a standby out that connects again after a cut, until the old WAL sender has timed out; and a primary that
//! has no slots yet, as a new one has not, would refuse its standbys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use cellar_model::{CellName, LogicalSlot, Lsn};
use tokio_postgres::SimpleQueryMessage;

use crate::error::PostgresError;
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
    /// From where on it keeps WAL.
    restart: Option<Lsn>,
}

/// What a server has of slots, and how far its standbys are.
#[derive(Debug, Default, PartialEq, Eq)]
struct SlotLook {
    is_standby: bool,
    /// As many slots as the server may have.
    max: usize,
    /// Slots that are not ours.
    others: usize,
    ours: Vec<MemberSlot>,
    /// Those that decode, and last longer than a session.
    logical: Vec<LogicalSlot>,
    /// What each standby has flushed, by its cell.
    flushed: BTreeMap<String, Lsn>,
}

/// What is to be done with a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SlotAction {
    Drop(String),
    Create(String),
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

/// The slot of a cell. Names of slots have no `-` and end at 63 bytes; a cell whose name does not fit is told by a hash of it.
/// A cell's name begins with a letter or digit, so that the two kinds have no name in common.
fn slot_of(cell: &CellName) -> String {
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

/// What is to be done on a server so that it keeps WAL for the members in `cells`, and for nobody who is none. A standby keeps none
/// at all: nothing would move its slots on.
fn actions(look: &SlotLook, cells: &[CellName], keep: Keep) -> Vec<SlotAction> {
    let is_kept = |cell: &&CellName| keep == Keep::ForAll || look.flushed.contains_key(cell.as_str());
    let wanted: BTreeMap<String, &CellName> = match look.is_standby {
        true => BTreeMap::new(),
        false => cells.iter().filter(is_kept).map(|cell| (slot_of(cell), cell)).collect(),
    };
    let mut actions = Vec::new();
    let mut kept = BTreeSet::new();
    for slot in &look.ours {
        let Some(cell) = wanted.get(&slot.name) else {
            actions.push(SlotAction::Drop(slot.name.clone()));
            continue;
        };
        if slot.is_lost {
            actions.push(SlotAction::Drop(slot.name.clone()));
            continue;
        }
        kept.insert(slot.name.as_str());
        let flushed = look.flushed.get(cell.as_str()).filter(|flushed| slot.restart < Some(**flushed));
        if let Some(flushed) = flushed.filter(|_| !slot.is_active) {
            actions.push(SlotAction::Advance(slot.name.clone(), *flushed));
        }
    }
    let room = look.max.saturating_sub(look.others + kept.len() + SPARE);
    let missing = wanted.keys().filter(|name| !kept.contains(name.as_str()));
    actions.extend(missing.take(room).cloned().map(SlotAction::Create));
    actions
}

/// One statement, so that it is one round trip. Of several senders to one cell an old copy's may be among them: the least
/// position counts. Some of the columns are of later versions.
const LOOK: &str = "\
SELECT 'server', CASE WHEN pg_is_in_recovery() THEN 'standby' END, current_setting('max_replication_slots'), NULL, NULL
 UNION ALL
SELECT 'slot', s.slot_name, concat_ws(' ', s.slot_type, s.wal_status, CASE WHEN s.active THEN 'active' END,
       CASE WHEN s.temporary THEN 'temporary' END, CASE WHEN j.row->>'failover' = 'true' THEN 'failover' END,
       CASE WHEN j.row->>'synced' = 'true' THEN 'synced' END,
       CASE WHEN j.row->>'invalidation_reason' <> '' OR j.row->>'conflicting' = 'true' THEN 'lost' END),
       s.restart_lsn::text, s.database
  FROM pg_replication_slots s CROSS JOIN LATERAL (SELECT to_jsonb(s) AS row) j
 UNION ALL
SELECT 'flushed', split_part(application_name, ':', 1), NULL, min(flush_lsn)::text, NULL
  FROM pg_stat_replication WHERE flush_lsn IS NOT NULL GROUP BY 2
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
            }
            Some("slot") if name.starts_with(PREFIX) && words.contains("physical") => {
                look.ours.push(MemberSlot {
                    name,
                    is_active: words.contains("active"),
                    is_lost: words.contains("lost") || lsn.is_none(),
                    restart: lsn,
                });
            }
            Some("slot") => {
                look.others += 1;
                // A standby's copy of a slot is a temporary one until it can be gone on with.
                if words.contains("logical") && !words.contains("temporary") && look.logical.len() < MAX_TOLD
                {
                    look.logical.push(LogicalSlot {
                        name,
                        database: database.unwrap_or_default(),
                        failover: words.contains("failover"),
                        synced: words.contains("synced"),
                        lost: words.contains("lost"),
                    });
                }
            }
            Some("flushed") => look.flushed.extend(lsn.map(|lsn| (name, lsn))),
            _ => return Err(unexpected()),
        }
    }
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

/// What was found of slots, and done.
#[derive(Debug)]
pub struct SlotReport {
    /// The lasting logical slots, at most 32.
    pub logical: Vec<LogicalSlot>,
    /// What the server refused last; the rest was done all the same.
    pub refused: Option<PostgresError>,
}

/// Sees to the slots of the other members in `cells`: on a primary each has one that is where the member is, on a standby
/// there are none. `cells` and `keep` are of no account on a standby.
///
/// # Errors
/// When the server does not answer within `timeout`.
pub async fn keep_member_slots(
    endpoint: &Endpoint,
    cells: &[CellName],
    keep: Keep,
    timeout: Duration,
) -> Result<SlotReport, PostgresError> {
    let work = async {
        let session = endpoint.connect(SUPERUSER, timeout).await?;
        let sorted = |error| endpoint.error(error, timeout);
        let look = read(rows(&session).await.map_err(sorted)?)?;
        let mut refused = None;
        for action in actions(&look, cells, keep) {
            match session.client.simple_query(&action.sql()).await {
                Ok(_) => tracing::debug!(?action, "replication slot"),
                Err(error) if error.is_closed() => return Err(sorted(error)),
                Err(error) => refused = Some(sorted(error)),
            }
        }
        Ok(SlotReport { logical: look.logical, refused })
    };
    endpoint.within(timeout, work).await
}

/// Whether a data directory has replication slots. Costs no connection.
#[must_use]
pub fn has_slots(data_directory: &Path) -> bool {
    let entries = std::fs::read_dir(data_directory.join("pg_replslot"));
    entries.is_ok_and(|mut entries| entries.next().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cells(names: &[&str]) -> Vec<CellName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn slot(name: &str, restart: u64) -> MemberSlot {
        MemberSlot {
            name: name.to_owned(),
            is_active: false,
            is_lost: false,
            restart: Some(Lsn::new(restart)),
        }
    }

    fn primary(ours: Vec<MemberSlot>, flushed: &[(&str, u64)]) -> SlotLook {
        let flushed = flushed.iter().map(|(cell, at)| ((*cell).to_owned(), Lsn::new(*at))).collect();
        SlotLook { max: 16, ours, flushed, ..SlotLook::default() }
    }

    fn drop(name: &str) -> SlotAction {
        SlotAction::Drop(name.to_owned())
    }

    fn create(name: &str) -> SlotAction {
        SlotAction::Create(name.to_owned())
    }

    #[test]
    fn each_other_member_has_a_slot_where_it_is() {
        let members = cells(&["zone2", "zone3"]);
        assert_eq!(
            actions(&primary(vec![], &[("zone2", 9)]), &members, Keep::ForAll),
            [create("cellar_zone2"), create("cellar_zone3")]
        );
        let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone3", 5)];
        let look = primary(ours.clone(), &[("zone2", 9), ("pg_basebackup", 3)]);
        let forward = SlotAction::Advance("cellar_zone2".to_owned(), Lsn::new(9));
        assert_eq!(actions(&look, &members, Keep::ForAll), [forward], "zone3 is away: its slot stays");
        for at in [4, 5] {
            assert_eq!(
                actions(&primary(ours.clone(), &[("zone2", at)]), &members, Keep::ForAll),
                [],
                "never back: {at}"
            );
        }
        let mut active = ours;
        active[0].is_active = true;
        assert_eq!(
            actions(&primary(active, &[("zone2", 9)]), &members, Keep::ForAll),
            [],
            "its user moves it"
        );
    }

    #[test]
    fn what_keeps_wal_for_nobody_is_dropped() {
        let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone9", 5)];
        let look = primary(ours, &[("zone9", 9)]);
        assert_eq!(actions(&look, &cells(&["zone2"]), Keep::ForAll), [drop("cellar_zone9")]);
        let standby = SlotLook { is_standby: true, ..look };
        assert_eq!(
            actions(&standby, &cells(&["zone2"]), Keep::ForAll),
            [drop("cellar_zone2"), drop("cellar_zone9")]
        );
    }

    #[test]
    fn a_disk_that_is_nearly_full_keeps_nothing_for_a_member_that_is_away() {
        let ours = vec![slot("cellar_zone2", 5), slot("cellar_zone3", 5)];
        let told = actions(&primary(ours, &[("zone2", 5)]), &cells(&["zone2", "zone3"]), Keep::ForStreaming);
        assert_eq!(told, [drop("cellar_zone3")]);
        let none = actions(&primary(vec![], &[]), &cells(&["zone3"]), Keep::ForStreaming);
        assert_eq!(none, []);
    }

    #[test]
    fn a_lost_one_is_made_anew() {
        let lost = MemberSlot { is_lost: true, restart: None, ..slot("cellar_zone2", 0) };
        let look = primary(vec![lost], &[("zone2", 9)]);
        assert_eq!(
            actions(&look, &cells(&["zone2"]), Keep::ForAll),
            [drop("cellar_zone2"), create("cellar_zone2")]
        );
    }

    #[test]
    fn some_slots_are_left_to_others() {
        let many: Vec<String> = (0..30).map(|number| format!("cell{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(actions(&primary(vec![], &[]), &cells(&many), Keep::ForAll).len(), 16 - SPARE);
        let crowded = SlotLook { others: 13, ..primary(vec![], &[]) };
        assert_eq!(actions(&crowded, &cells(&many), Keep::ForAll), []);
    }

    #[test]
    fn rows_are_read() {
        let row = |values: [&str; 5]| values.map(|value| Some(value.to_owned()).filter(|it| !it.is_empty()));
        let rows = [
            row(["server", "", "16", "", ""]),
            row(["slot", "cellar_zone2", "physical lost", "", ""]),
            row(["slot", "cellar_zone3", "physical reserved active", "0/9", ""]),
            row(["slot", "cellar_of_a_user", "logical reserved failover synced", "0/7", "shop"]),
            row(["slot", "passing", "logical reserved active temporary", "0/7", "shop"]),
            row(["slot", "backup", "physical", "0/5", ""]),
            row(["flushed", "zone3", "", "0/A", ""]),
        ];
        let look = read(rows).unwrap();
        assert_eq!((look.is_standby, look.max, look.others), (false, 16, 3));
        assert!(look.ours[0].is_lost && !look.ours[0].is_active && look.ours[0].restart.is_none());
        assert!(look.ours[1].is_active && !look.ours[1].is_lost && look.ours[1].restart == Some(Lsn::new(9)));
        assert_eq!(look.flushed, [("zone3".to_owned(), Lsn::new(10))].into());
        let [slot] = look.logical.as_slice() else { panic!("{look:?}") };
        assert_eq!((slot.name.as_str(), slot.database.as_str()), ("cellar_of_a_user", "shop"));
        assert!(slot.failover && slot.synced && !slot.lost);
        assert!(read([row(["server", "standby", "16", "", ""])]).unwrap().is_standby);
        for bad in [
            row(["server", "", "many", "", ""]),
            row(["slot", "a", "physical", "x", ""]),
            row(["", "", "", "", ""]),
        ] {
            assert!(read([bad]).is_err());
        }
    }

    #[test]
    fn slots_are_found_in_a_data_directory() {
        let data = tempfile::tempdir().unwrap();
        assert!(!has_slots(data.path()));
        std::fs::create_dir_all(data.path().join("pg_replslot")).unwrap();
        assert!(!has_slots(data.path()));
        std::fs::create_dir_all(data.path().join("pg_replslot/cellar_zone2")).unwrap();
        assert!(has_slots(data.path()));
    }

    proptest! {
        #[test]
        fn two_cells_never_share_a_slot(one in "[a-c0-1][ab01_-]{0,62}", other in "[a-c0-1][ab01_-]{0,62}") {
            // Some texts of this form are not names of cells: `ca` is a directory's.
            let cells = [&one, &other].map(|text| text.parse::<CellName>());
            prop_assume!(cells.iter().all(Result::is_ok));
            let names = cells.map(|cell| slot_of(&cell.unwrap()));
            for name in &names {
                prop_assert!(name.len() <= MAX_NAME && name.starts_with(PREFIX));
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
            }
            prop_assert_eq!(one == other, names[0] == names[1]);
        }
    }

    #[test]
    fn similar_cells_have_slots_of_their_own() {
        let name = |cell: &str| slot_of(&cell.parse().unwrap());
        assert_eq!(name("eu-west-1a"), "cellar_eu_west_1a");
        assert_ne!(name("a-b"), name("a_b"));
        let long = "a".repeat(62);
        assert_ne!(name(&format!("{long}a")), name(&format!("{long}b")));
        assert_ne!(name(&format!("a-{long}")[..63]), name(&format!("a_{long}")[..63]));
    }
}
