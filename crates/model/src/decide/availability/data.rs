//! What a member may do with its data and with the archive.

use super::facts::{Canary, Facts};
use super::member::Refused;
use super::rules::Rules;
use crate::records::leadership::{Leadership, Phase};
use crate::types::lsn::Lsn;
use crate::types::name::CellName;

/// What a primary does that runs again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    /// Its canary found its quorum: its term is unbroken, and it serves.
    Serve,
    /// It runs and acknowledges nothing until the canary has its quorum. Nobody is sent to it.
    AwaitQuorum,
    /// It does not run as a primary: it follows.
    Stop,
}

/// Whether a primary that was started again may write. `record` is the last that it knows: none while etcd is away, when the
/// quorum alone decides. k standbys that acknowledge under its term have promised no higher one, so nobody else was elected.
#[must_use]
pub fn may_write_after_restart(cell: &CellName, facts: &Facts, record: Option<&Leadership>) -> Restarted {
    let Some(leads) = facts.leads else { return Restarted::Stop };
    let is_deposed = record.is_some_and(|record| {
        record.held > leads.term && !(record.cell == *cell && record.since <= leads.term)
    });
    if is_deposed || facts.promised > leads.term {
        return Restarted::Stop;
    }
    match leads.canary {
        Canary::Committed { .. } if leads.established => Restarted::Serve,
        _ => Restarted::AwaitQuorum,
    }
}

/// What is done with a WAL segment that PostgreSQL wants to archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Archiving {
    /// It goes into the archive.
    Archive,
    /// It is asked for again later.
    Later,
    /// It is never archived from here.
    Never,
}

/// Whether a member archives the segment that ends at `end`, when commits up to `committed` have had their quorum under its
/// own term. What has not could be on no other member, and would then mislead whoever restores from the archive.
#[must_use]
pub fn may_archive(
    cell: &CellName,
    facts: &Facts,
    record: Option<&Leadership>,
    end: Lsn,
    committed: Option<Lsn>,
) -> Archiving {
    match (facts.leads, may_write_after_restart(cell, facts, record)) {
        (None, _) | (_, Restarted::Stop) => Archiving::Never,
        (Some(leads), _) if leads.established && committed.is_some_and(|committed| end <= committed) => {
            Archiving::Archive
        }
        _ => Archiving::Later,
    }
}

/// Why a member may replace its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacing {
    /// Its copy is in no cohort (any more): nobody counts on it.
    Left,
    /// Its copy is in the cohort, has WAL that the appointed leader lacks and so can never acknowledge for it, and the leader
    /// has no quorum without another copy. The copy is given up, as if its disk were lost: what is in its place is a
    /// stranger until it is taken into the cohort.
    GivesUp,
}

/// Whether a member may rewind, restore or rebuild its data, or take it from another member. It takes the next copy number
/// durably before it touches the data.
///
/// # Errors
/// While its copy counts.
pub fn may_replace_data(
    rules: Rules,
    cell: &CellName,
    facts: &Facts,
    record: &Leadership,
    leader: Option<&Facts>,
) -> Result<Replacing, Refused> {
    if facts.leads.is_some() {
        return Err(Refused::Leads);
    }
    if !rules.amnesia || !record.has(cell, facts.copy) {
        return Ok(Replacing::Left);
    }
    let leads = leader.and_then(|leader| leader.leads).filter(|leads| leads.term == record.held);
    let lacks_quorum =
        leads.is_some_and(|leads| !leads.established || matches!(leads.canary, Canary::AwaitsQuorum { .. }));
    let may_give_up =
        rules.gives_up && record.cell != *cell && record.phase != Phase::Recruiting && facts.needs_replacing;
    if may_give_up && lacks_quorum {
        return Ok(Replacing::GivesUp);
    }
    Err(Refused::InUse)
}
