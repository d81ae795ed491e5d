//! Whether the primary can be moved now, and to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::election::needed;
use super::facts::Facts;
use crate::records::leadership::{Leadership, Phase};
use crate::types::lsn::Lsn;
use crate::types::name::CellName;

/// How far a standby may be behind that is to lead, or for which commits are to wait from now on, in bytes: what is written in
/// the moment of the question, and no more.
pub const MAX_LAG: u64 = 16 << 20;

/// Why the primary is not moved now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotNow {
    /// Its leader, or its cohort, is changing.
    Changing,
    /// The primary, once it has stopped, promises nothing, so others must.
    FewFollow {
        /// Who follows as a member whose acknowledgement counts.
        have: Vec<CellName>,
        /// How many must.
        need: usize,
    },
    /// The primary's multipooler does not answer.
    NoAnswer(CellName),
    /// Who is to lead does not follow as a member whose acknowledgement counts; none for any.
    DoesNotFollow(Option<CellName>),
    /// Who would lead is too far behind.
    Behind {
        /// Who.
        cell: CellName,
        /// What it has.
        has: Lsn,
        /// What the primary has.
        of: Lsn,
    },
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changing => {
                f.write_str("the leader or the cohort of the database is changing at this moment")
            }
            Self::FewFollow { have, need } => {
                let names: Vec<&str> = have.iter().map(CellName::as_str).collect();
                let who = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
                write!(
                    f,
                    "{need} standbys must follow the primary, so that one of them can be elected, and {who} does"
                )
            }
            Self::NoAnswer(cell) => write!(f, "the multipooler of the primary in {cell} does not answer"),
            Self::DoesNotFollow(to) => {
                let wanted = to.as_ref().map_or("any standby", CellName::as_str);
                write!(f, "{wanted} does not follow the primary as a member whose acknowledgement counts")
            }
            Self::Behind { cell, has, of } => write!(f, "{cell} is behind the primary: it has {has} of {of}"),
        }
    }
}

/// Who can take over: `to`, or whoever is furthest of those whose own host stays; of those who are near enough rather one of
/// `preferred`. `facts` are reports of a moment ago.
///
/// # Errors
/// When the move could not be quick, or could not succeed.
pub fn successor(
    record: &Leadership,
    facts: &BTreeMap<&CellName, &Facts>,
    to: Option<&CellName>,
    preferred: &BTreeSet<CellName>,
) -> Result<CellName, NotNow> {
    if record.phase != Phase::Steady || record.handover.is_some() || record.rules.len() != 1 {
        return Err(NotNow::Changing);
    }
    let follows = |cell: &CellName, facts: &Facts| {
        let from = facts.follows.as_ref();
        *cell != record.cell
            && from.is_some_and(|(from, term)| *from == record.cell && *term == record.term)
            && record.has(cell, facts.copy)
    };
    let follow: Vec<(&CellName, &Facts)> = facts
        .iter()
        .map(|(cell, facts)| (*cell, *facts))
        .filter(|(cell, facts)| follows(cell, facts))
        .collect();
    let need = record.rules.iter().map(needed).max().unwrap_or(0);
    if follow.len() < need {
        let have = follow.into_iter().map(|(cell, _)| cell.clone()).collect();
        return Err(NotNow::FewFollow { have, need });
    }
    let primary = facts.get(&record.cell).ok_or_else(|| NotNow::NoAnswer(record.cell.clone()))?;
    let can = |cell: &CellName, facts: &Facts| to.map_or(!facts.leaves, |to| to == cell);
    let of = primary.position.lsn;
    let is_near = |facts: &Facts| of.bytes_ahead_of(facts.position.lsn) <= MAX_LAG;
    let best = follow.into_iter().filter(|(cell, facts)| can(cell, facts)).max_by_key(|(cell, facts)| {
        let is_preferred = is_near(facts) && preferred.contains(*cell);
        // Among equals the last by name: which one does not matter, but that it is the same one each time.
        (is_preferred, facts.position.lsn, *cell)
    });
    let (cell, facts) = best.ok_or_else(|| NotNow::DoesNotFollow(to.cloned()))?;
    if !is_near(facts) {
        let has = facts.position.lsn;
        return Err(NotNow::Behind { cell: cell.clone(), has, of });
    }
    Ok(cell.clone())
}
