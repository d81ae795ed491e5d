//! What a member of a database with quorum commit reports, to and from its message.

use std::time::Duration;

use cellar_model::availability::{Canary, Facts, Instance, Leading, Link, Sight};
use cellar_model::{CopyNumber, Lsn, Position, Term};

use crate::v1;

/// A message that says less than a report must, or something that this build does not know.
#[derive(Debug, thiserror::Error)]
#[error("the report of a member has no valid {0}")]
pub struct MemberFactsError(&'static str);

fn milliseconds(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn lsn(text: &str, what: &'static str) -> Result<Lsn, MemberFactsError> {
    text.parse().map_err(|_| MemberFactsError(what))
}

fn link_message(link: Link) -> v1::MemberLink {
    let (heard, span) = match link {
        Link::Heard { ago } => (true, ago),
        Link::Silent { since } => (false, since),
    };
    v1::MemberLink { heard, milliseconds: milliseconds(span) }
}

fn link(message: Option<&v1::MemberLink>) -> Result<Link, MemberFactsError> {
    let message = message.ok_or(MemberFactsError("link"))?;
    let span = Duration::from_millis(message.milliseconds);
    Ok(if message.heard { Link::Heard { ago: span } } else { Link::Silent { since: span } })
}

/// The message for a report. Which timeline and database the data is of is beside it.
#[must_use]
pub fn member_facts(facts: &Facts, timeline: u32, system_identifier: String) -> v1::MemberFacts {
    let (instance, frozen_for) = match facts.instance {
        Instance::Runs => (v1::MemberInstance::Runs, Duration::ZERO),
        Instance::Saturated => (v1::MemberInstance::Saturated, Duration::ZERO),
        Instance::Restarting => (v1::MemberInstance::Restarting, Duration::ZERO),
        Instance::Gone => (v1::MemberInstance::Gone, Duration::ZERO),
        Instance::Stopped => (v1::MemberInstance::Stopped, Duration::ZERO),
        Instance::Frozen { since } => (v1::MemberInstance::Frozen, since),
    };
    let leads = facts.leads.map(|leads| {
        let (canary, span) = match leads.canary {
            Canary::Committed { age } => (v1::MemberCanary::Committed, age),
            Canary::AwaitsQuorum { since } => (v1::MemberCanary::AwaitsQuorum, since),
            Canary::Hung { since } => (v1::MemberCanary::Hung, since),
        };
        v1::MemberLeads {
            term: leads.term.get(),
            row: leads.row.map(|row| row.to_string()),
            established: leads.established,
            rule: leads.rule,
            settled: leads.settled,
            canary: canary.into(),
            canary_for: milliseconds(span),
        }
    });
    v1::MemberFacts {
        copy: facts.copy.get(),
        promised: facts.promised.get(),
        begun: facts.begun.map(|(term, copy)| v1::MemberTerm { term: term.get(), copy: copy.get() }),
        receives: facts.receives,
        position: Some(v1::MemberPosition {
            term: facts.position.term.get(),
            lsn: facts.position.lsn.to_string(),
        }),
        instance: instance.into(),
        frozen_for: milliseconds(frozen_for),
        leads,
        follows: facts
            .follows
            .as_ref()
            .map(|(cell, term)| v1::MemberFollows { cell: cell.to_string(), term: term.get() }),
        sees: facts.sees.as_ref().map(|sight| v1::MemberSight {
            of: sight.of.to_string(),
            stream: Some(link_message(sight.stream)),
            new_wal: sight.new_wal.map(milliseconds),
            pooler: Some(link_message(sight.pooler)),
            refused: sight.refused,
        }),
        needs_replacing: facts.needs_replacing,
        cannot_lead: facts.cannot_lead,
        leaves: facts.leaves,
        timeline,
        system_identifier,
        next_xid: None,
        last_commit: None,
        timeline_history: String::new(),
        age: milliseconds(facts.age),
    }
}

/// The report in a message that came `age` ago, besides how old it was then.
///
/// # Errors
/// When a part is missing or cannot be read: then nothing is known of the member.
pub fn facts_of_member(message: &v1::MemberFacts, age: Duration) -> Result<Facts, MemberFactsError> {
    let position = message.position.as_ref().ok_or(MemberFactsError("position"))?;
    let frozen = Instance::Frozen { since: Duration::from_millis(message.frozen_for) };
    let instance = match message.instance() {
        v1::MemberInstance::Runs => Instance::Runs,
        v1::MemberInstance::Saturated => Instance::Saturated,
        v1::MemberInstance::Restarting => Instance::Restarting,
        v1::MemberInstance::Gone => Instance::Gone,
        v1::MemberInstance::Stopped => Instance::Stopped,
        v1::MemberInstance::Frozen => frozen,
        v1::MemberInstance::Unspecified => return Err(MemberFactsError("instance")),
    };
    let leads = message.leads.as_ref().map(|leads| {
        let span = Duration::from_millis(leads.canary_for);
        let canary = match leads.canary() {
            v1::MemberCanary::Committed => Canary::Committed { age: span },
            v1::MemberCanary::AwaitsQuorum => Canary::AwaitsQuorum { since: span },
            v1::MemberCanary::Hung => Canary::Hung { since: span },
            v1::MemberCanary::Unspecified => return Err(MemberFactsError("canary")),
        };
        Ok(Leading {
            term: Term::new(leads.term),
            row: leads.row.as_deref().map(|row| lsn(row, "row")).transpose()?,
            established: leads.established,
            rule: leads.rule,
            settled: leads.settled,
            canary,
        })
    });
    let follows = message.follows.as_ref().map(|follows| {
        let cell = follows.cell.parse().map_err(|_| MemberFactsError("cell"))?;
        Ok((cell, Term::new(follows.term)))
    });
    let sees = message.sees.as_ref().map(|sight| {
        Ok(Sight {
            of: sight.of.parse().map_err(|_| MemberFactsError("cell"))?,
            stream: link(sight.stream.as_ref())?,
            new_wal: sight.new_wal.map(Duration::from_millis),
            pooler: link(sight.pooler.as_ref())?,
            refused: sight.refused,
        })
    });
    Ok(Facts {
        age: age.saturating_add(Duration::from_millis(message.age)),
        copy: CopyNumber::new(message.copy),
        promised: Term::new(message.promised),
        begun: message.begun.map(|begun| (Term::new(begun.term), CopyNumber::new(begun.copy))),
        receives: message.receives,
        position: Position { term: Term::new(position.term), lsn: lsn(&position.lsn, "position")? },
        instance,
        leads: leads.transpose()?,
        follows: follows.transpose()?,
        sees: sees.transpose()?,
        needs_replacing: message.needs_replacing,
        cannot_lead: message.cannot_lead,
        leaves: message.leaves,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_the_same_after_the_way_there_and_back() {
        let ms = Duration::from_millis;
        let standby = Facts {
            age: ms(0),
            copy: CopyNumber::new(7),
            promised: Term::new(3),
            begun: Some((Term::new(2), CopyNumber::new(6))),
            receives: true,
            position: Position { term: Term::new(2), lsn: Lsn::new(0x0300_0028) },
            instance: Instance::Frozen { since: ms(5001) },
            leads: None,
            follows: Some(("zone1".parse().unwrap(), Term::new(2))),
            sees: Some(Sight {
                of: "zone1".parse().unwrap(),
                stream: Link::Heard { ago: ms(40) },
                new_wal: Some(ms(12)),
                pooler: Link::Silent { since: ms(2500) },
                refused: true,
            }),
            needs_replacing: true,
            cannot_lead: true,
            leaves: true,
        };
        let leads = |canary| Leading {
            term: Term::new(3),
            row: Some(Lsn::new(9)),
            established: true,
            rule: 4,
            settled: true,
            canary,
        };
        let mut all = vec![standby.clone()];
        for instance in
            [Instance::Runs, Instance::Saturated, Instance::Restarting, Instance::Gone, Instance::Stopped]
        {
            all.push(Facts { instance, follows: None, sees: None, begun: None, ..standby.clone() });
        }
        for canary in [
            Canary::Committed { age: ms(1) },
            Canary::AwaitsQuorum { since: ms(2) },
            Canary::Hung { since: ms(3) },
        ] {
            all.push(Facts { leads: Some(leads(canary)), ..standby.clone() });
        }
        for facts in all {
            let message = member_facts(&facts, 5, "7".to_owned());
            assert_eq!(facts_of_member(&message, ms(0)).unwrap(), facts);
        }
        assert!(facts_of_member(&v1::MemberFacts::default(), ms(0)).is_err(), "nothing is no report");
    }
}
