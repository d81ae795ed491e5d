//! What members would report, made of the state for the functions of the model.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use cellar_model::availability::{
    Canary, Facts, Instance, Leading, Link, Refused, Rules, Sight, may_promote,
};
use cellar_model::{CellName, CopyNumber, Lsn, Position, Term};

use crate::state::{Lead, Log, MEMBERS, Report, State, name};

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_secs(3600);

static CELLS: LazyLock<[CellName; MEMBERS]> =
    LazyLock::new(|| std::array::from_fn(|member| name(member).parse().unwrap()));

pub(crate) fn cell(member: usize) -> CellName {
    CELLS[member].clone()
}

pub(crate) fn index(cell: &CellName) -> usize {
    CELLS.iter().position(|name| name.as_str() == cell.as_str()).unwrap()
}

pub(crate) fn term(term: u8) -> Term {
    Term::new(term.into())
}

pub(crate) fn number(term: Term) -> u8 {
    u8::try_from(term.get()).unwrap()
}

pub(crate) fn position(log: Log) -> (u8, u8) {
    (log.term(), log.len())
}

fn as_position((of, length): (u8, u8)) -> Position {
    Position { term: term(of), lsn: Lsn::new(length.into()) }
}

pub(crate) fn leading(lead: &Lead, log: Log, has_quorum: bool) -> Leading {
    Leading {
        term: term(lead.term),
        row: log.row(lead.term).map(|row| Lsn::new(row.into())),
        established: lead.is_established,
        rule: lead.rule.number,
        settled: lead.is_settled,
        canary: match lead.is_established && has_quorum {
            true => Canary::Committed { age: NOW },
            false => Canary::AwaitsQuorum { since: LONG },
        },
    }
}

fn plain(copy: u8, promised: u8, at: (u8, u8)) -> Facts {
    Facts {
        age: NOW,
        copy: CopyNumber::new(copy.into()),
        promised: term(promised),
        begun: None,
        receives: false,
        position: as_position(at),
        instance: Instance::Runs,
        leads: None,
        follows: None,
        sees: None,
        needs_replacing: false,
        cannot_lead: false,
        leaves: false,
    }
}

impl State {
    /// The recorded leader, if it leads under the term that it was given last.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leader = index(&self.record.cell);
        let leads = self.members[leader].leads.as_ref()?;
        (term(leads.term) == self.record.held).then_some(leader)
    }

    /// What a member knows of itself.
    pub(crate) fn own(&self, member: usize) -> Facts {
        let m = &self.members[member];
        let leader = self.leader().filter(|leader| *leader != member);
        let mut facts = plain(m.copy, m.promised.max(m.remembers), position(m.log));
        facts.begun = m.begun.map(|(of, copy)| (term(of), CopyNumber::new(copy.into())));
        facts.receives = m.follows.is_some();
        facts.leads = m.leads.as_ref().map(|lead| leading(lead, m.log, self.has_quorum(member, lead)));
        facts.follows = m.follows.and_then(|primary| {
            let lead = self.members[primary as usize].leads.as_ref()?;
            Some((cell(primary as usize), term(lead.term)))
        });
        facts.needs_replacing =
            m.leads.is_none() && leader.is_some_and(|leader| !self.members[leader].log.starts_with(m.log));
        facts
    }

    /// Whether enough standbys receive from a primary.
    fn has_quorum(&self, primary: usize, lead: &Lead) -> bool {
        let primary = Some(u8::try_from(primary).unwrap());
        let standbys = self.members.iter().enumerate().filter(|(at, m)| {
            m.follows == primary && lead.rule.has(&cell(*at), CopyNumber::new(m.copy.into()))
        });
        standbys.count() >= lead.rule.k as usize
    }

    fn live(&self, rules: Rules, member: usize, does_hear: bool) -> Facts {
        let mut facts = self.own(member);
        let refused = may_promote(rules, &cell(member), &facts, &self.record);
        facts.cannot_lead = matches!(refused, Err(Refused::BelowFloor { .. } | Refused::Begun));
        let link = if does_hear { Link::Heard { ago: NOW } } else { Link::Silent { since: LONG } };
        facts.sees = Some(Sight {
            of: self.record.cell.clone(),
            stream: link,
            new_wal: does_hear.then_some(NOW),
            pooler: link,
            refused: false,
        });
        facts
    }

    /// Reports of a moment ago of the members that are up. Those that are not are silent to all.
    pub(crate) fn fresh(&self, rules: Rules, up: [bool; MEMBERS]) -> BTreeMap<CellName, Facts> {
        let leader = index(&self.record.cell);
        let hears =
            |member: usize| up[leader] && self.members[member].follows == Some(u8::try_from(leader).unwrap());
        let reporting = (0..MEMBERS).filter(|member| up[*member]);
        reporting.map(|member| (cell(member), self.live(rules, member, hears(member)))).collect()
    }

    /// The last reports that count however old they are.
    pub(crate) fn old(&self) -> BTreeMap<CellName, Facts> {
        let reports = self.members.iter().enumerate().filter_map(|(at, m)| Some((at, m.report?)));
        reports
            .map(|(at, report)| {
                let mut facts = plain(report.copy, report.promised, report.position);
                facts.age = LONG;
                facts.leads = report.leads.map(|(of, established, rule, settled)| Leading {
                    term: term(of),
                    row: None,
                    established,
                    rule,
                    settled,
                    canary: Canary::Committed { age: NOW },
                });
                (cell(at), facts)
            })
            .collect()
    }

    /// Forgets reports by which nothing can be decided any more.
    pub(crate) fn forget_reports(&mut self) {
        let now = number(self.record.term);
        for member in &mut self.members {
            let is_of_use = |report: &Report| match report.leads {
                Some((of, ..)) => of == now,
                None => report.promised >= now,
            };
            member.report = member.report.filter(is_of_use);
        }
    }

    /// Forgets appointments that their members refuse for good.
    pub(crate) fn forget_orders(&mut self) {
        let members = &self.members;
        self.orders.retain(|order| term(members[index(&order.cell)].promised) <= order.term);
    }
}
