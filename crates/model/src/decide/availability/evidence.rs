//! Whether there is evidence of the leader's death.
//!
//! Safety does not hang on it: a failover from a living primary loses nothing, because of the promises. It keeps a healthy
//! primary in office. So missing information is never evidence, and one standby that streams from the leader vetoes.

use std::fmt;
use std::time::Duration;

use super::facts::{Canary, Facts, Instance, Leading, Link, Sight, View};
use crate::records::leadership::Phase;
use crate::types::name::CellName;

/// What shows that the leader is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Death {
    /// Its own pooler says that its instance ended and does not come back.
    Gone,
    /// Its own pooler says that no probe reaches a backend.
    Frozen,
    /// Its own pooler says that the canary is not even flushed.
    Hung,
    /// Its own pooler says that its commits wait for standbys, and so many of them that a majority can be had do not stream.
    Isolated,
    /// Its own pooler says that it runs as a standby, or as a primary that does not know of its term any more: it stopped
    /// leading, and does not by itself begin again.
    LeadsNoMore,
    /// Its own pooler says that it was appointed and cannot lead.
    CannotLead,
    /// It was appointed, reports, and its first commit has had no quorum for too long.
    NeverEstablished,
    /// Its pooler is silent, and so many standbys that a majority can be had neither hear it nor stream from it.
    Silent {
        /// The standbys that say so.
        witnesses: Vec<CellName>,
    },
}

/// Why there is no evidence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoEvidence {
    /// It reports, and nothing is the matter with it.
    Reports,
    /// It reports that its commits wait for its standbys, for so long.
    CommitsWait {
        /// Since when.
        since: Duration,
    },
    /// It ended and is being started again.
    Restarting,
    /// It was stopped on purpose.
    StoppedOnPurpose,
    /// This standby streams from it.
    Vetoed(CellName),
    /// This standby's heartbeat reaches its pooler, though the receiver has no report.
    Reached(CellName),
    /// It is silent, but too few standbys say that they do not hear it: missing information is no evidence.
    FewWitnesses {
        /// How many say so.
        have: usize,
        /// How many must, so that enough of them could promise.
        need: usize,
    },
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("its PostgreSQL ended and does not come back"),
            Self::Frozen => f.write_str("its PostgreSQL answers no probe"),
            Self::Hung => f.write_str("its PostgreSQL cannot flush a commit"),
            Self::Isolated => {
                f.write_str("its commits wait, and its standbys report that they do not stream from it")
            }
            Self::LeadsNoMore => f.write_str("it does not lead under its term"),
            Self::CannotLead => f.write_str("it was appointed and cannot lead"),
            Self::NeverEstablished => f.write_str("it was appointed, and its first commit gets no quorum"),
            Self::Silent { witnesses } => {
                let names: Vec<&str> = witnesses.iter().map(CellName::as_str).collect();
                write!(f, "its multipooler is silent, and {} do not hear from it", names.join(", "))
            }
        }
    }
}

impl fmt::Display for NoEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reports => f.write_str("it reports, and nothing is the matter with it"),
            Self::CommitsWait { since } => write!(
                f,
                "it reports, and its commits have waited for {} s until enough standbys stream",
                since.as_secs()
            ),
            Self::Restarting => f.write_str("its PostgreSQL is being started again"),
            Self::StoppedOnPurpose => f.write_str("it was stopped on purpose"),
            Self::Vetoed(cell) => write!(f, "{cell} streams from it"),
            Self::Reached(cell) => write!(f, "{cell} reaches its multipooler"),
            Self::FewWitnesses { have, need } => write!(
                f,
                "it is silent, but only {have} of the {need} members that are needed say that they do not hear from it"
            ),
        }
    }
}

/// Whether the recorded leader is dead.
///
/// # Errors
/// When nothing shows that it is.
pub fn evidence(view: &View<'_>) -> Result<Death, NoEvidence> {
    let leader = &view.record.cell;
    match view.fresh(leader) {
        Some(facts) if facts.age < view.timing.refused || silent(view, |sight| sight.refused).is_err() => {
            let death = own_word(view, facts)?;
            // A standby to which new WAL comes proves that it lives, whatever its pooler's probes say. Keep-alives of a
            // walsender prove nothing about a frozen instance: they need neither a disk nor another process.
            match streaming(view, |sight| heard(sight.stream).and(sight.new_wal)) {
                Some(cell) if matches!(death, Death::Gone | Death::Frozen | Death::Hung) => {
                    Err(NoEvidence::Vetoed(cell))
                }
                _ => Ok(death),
            }
        }
        // It has not reported for a while, or only just, and enough members find its port closed.
        _ => silence(view),
    }
}

/// What its own pooler says of the leader.
fn own_word(view: &View<'_>, facts: &Facts) -> Result<Death, NoEvidence> {
    let long = |since: Duration| since >= view.timing.frozen;
    if facts.cannot_lead && view.record.phase == Phase::Appointed {
        return Ok(Death::CannotLead);
    }
    match facts.instance {
        Instance::Gone => return Ok(Death::Gone),
        Instance::Frozen { since } if long(since) => return Ok(Death::Frozen),
        Instance::Restarting => return Err(NoEvidence::Restarting),
        Instance::Stopped => return Err(NoEvidence::StoppedOnPurpose),
        // A probe that found no free connection has not found a dead instance.
        Instance::Runs | Instance::Saturated | Instance::Frozen { .. } => {}
    }
    let phase = view.record.phase;
    match facts.leads {
        // What it says under its term counts; one that has lost it says nothing of its own.
        Some(leads) if phase == Phase::Steady && leads.term < view.record.held => Ok(Death::LeadsNoMore),
        Some(Leading { canary: Canary::Hung { since }, .. }) if long(since) => Ok(Death::Hung),
        // Also while promises are collected: it must not be taken for one that is back.
        Some(Leading { canary: Canary::AwaitsQuorum { since }, .. })
            if since >= view.timing.isolated && phase != Phase::Appointed && none_streams(view) =>
        {
            Ok(Death::Isolated)
        }
        None if phase == Phase::Steady && facts.instance == Instance::Runs => Ok(Death::LeadsNoMore),
        _ if phase == Phase::Appointed
            && view.in_phase >= view.timing.appointed
            && others_could_elect(view) =>
        {
            Ok(Death::NeverEstablished)
        }
        Some(Leading { canary: Canary::AwaitsQuorum { since }, .. }) if long(since) => {
            Err(NoEvidence::CommitsWait { since })
        }
        _ => Err(NoEvidence::Reports),
    }
}

/// Whether as many members beside the leader report as it takes to elect another one.
pub(super) fn others_could_elect(view: &View<'_>) -> bool {
    view.record.rules.iter().all(|rule| {
        let others = witnesses(view).filter(|(cell, facts)| rule.has(cell, facts.copy));
        others.count() >= super::election::needed(rule)
    })
}

/// Whether as many members as can elect say that nothing comes from the leader over their streams, for as long as its
/// commits have to wait: those that have just come back need time to connect.
fn none_streams(view: &View<'_>) -> bool {
    let silent = |facts: &Facts| {
        let sight = facts.sees.as_ref().filter(|sight| sight.of == view.record.cell);
        sight.is_some_and(|sight| sight.stream.silent_for() >= view.timing.isolated)
    };
    view.record.rules.iter().all(|rule| {
        let silent = witnesses(view).filter(|(cell, facts)| rule.has(cell, facts.copy) && silent(facts));
        silent.count() >= super::election::needed(rule)
    })
}

/// A standby of the cohort that heard from the leader a short time ago, by the given clock of what it sees.
fn streaming(view: &View<'_>, last: impl Fn(&Sight) -> Option<Duration>) -> Option<CellName> {
    witnesses(view).find_map(|(cell, facts)| {
        let sight = facts.sees.as_ref().filter(|sight| sight.of == view.record.cell)?;
        let ago = last(sight)?.saturating_add(facts.age);
        (ago < view.timing.silence).then(|| cell.clone())
    })
}

/// The members beside the leader that report.
fn witnesses<'a>(view: &View<'a>) -> impl Iterator<Item = (&'a CellName, &'a Facts)> {
    let (view, leader) = (*view, &view.record.cell);
    view.members()
        .into_iter()
        .filter(move |(cell, _)| *cell != leader)
        .filter_map(move |(cell, copy)| Some((cell, view.fresh(cell).filter(|facts| facts.copy == copy)?)))
}

/// How long ago something came in over a connection that stands.
fn heard(link: Link) -> Option<Duration> {
    match link {
        Link::Heard { ago } => Some(ago),
        Link::Silent { .. } => None,
    }
}

/// The evidence there is when the leader's pooler does not report.
fn silence(view: &View<'_>) -> Result<Death, NoEvidence> {
    if let Some(cell) = streaming(view, |sight| heard(sight.stream)) {
        return Err(NoEvidence::Vetoed(cell));
    }
    if let Some(cell) = streaming(view, |sight| heard(sight.pooler)) {
        return Err(NoEvidence::Reached(cell));
    }
    Ok(Death::Silent { witnesses: silent(view, |_| true)? })
}

/// The members that hear nothing of the leader, by those of their sights that count; as many as must promise afterwards, since
/// fewer could not end in an election anyway.
fn silent(view: &View<'_>, counts: impl Fn(&Sight) -> bool) -> Result<Vec<CellName>, NoEvidence> {
    let hears_nothing = |facts: &Facts| {
        let sight = facts.sees.as_ref().filter(|sight| sight.of == view.record.cell && counts(sight));
        sight.is_some_and(|sight| {
            // A stream that stands may be as quiet as that: without a canary, an idle one says something every 1.6 s.
            let limit = |link: &Link| match link {
                Link::Silent { .. } if sight.refused => view.timing.refused,
                _ => view.timing.silence,
            };
            [sight.stream, sight.pooler].iter().all(|link| link.silent_for() >= limit(link))
        })
    };
    let silent: Vec<(&CellName, &Facts)> =
        witnesses(view).filter(|(_, facts)| hears_nothing(facts)).collect();
    for rule in &view.record.rules {
        let have = silent.iter().filter(|(cell, facts)| rule.has(cell, facts.copy)).count();
        let need = super::election::needed(rule);
        if have < need {
            return Err(NoEvidence::FewWitnesses { have, need });
        }
    }
    Ok(silent.into_iter().map(|(cell, _)| cell.clone()).collect())
}
