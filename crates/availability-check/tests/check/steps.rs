//! What each action does to the state, by the functions of the model.

use std::sync::Arc;
use std::time::Duration;

use cellar_model::availability::{
    Gate, PromiseStep, Restarted, Taking, Timing, gate, may_follow, may_promise, may_promote,
    may_replace_data, may_write_after_restart, must_stop, rule_to_hold,
};
use cellar_model::{CopyNumber, Lsn};

use crate::facts::{cell, index, leading, number, position, term};
use crate::model::World;
use crate::state::{Ack, Lead, Log, MEMBERS, Report, State};

impl World {
    /// A standby's position goes to its primary, and what the primary may now acknowledge it does.
    pub(crate) fn acknowledge(&self, state: &mut State, from: usize) -> Option<()> {
        let ack = state.members[from].ack.take()?;
        let to = ack.to as usize;
        let primary = &mut state.members[to];
        let log = primary.log;
        let lead = primary.leads.as_mut().filter(|lead| lead.promoted == ack.promoted)?;
        let mut flushed = lead.flushed;
        flushed[from] = Some((ack.copy, ack.flushed));
        if lead.rule.k > 1 {
            lead.flushed = flushed;
        }
        let all = flushed.iter().enumerate().filter_map(|(at, standby)| {
            let (copy, length) = (*standby)?;
            Some(((cell(at), CopyNumber::new(copy.into())), Lsn::new(length.into())))
        });
        let open = gate(self.rules, &cell(to), &leading(lead, log, true), &lead.rule, &all.collect());
        if let Gate::Open { committed } = open {
            let length = u8::try_from(committed.bytes()).unwrap();
            let is_row_committed = log.row(lead.term).is_some_and(|row| row <= length);
            lead.is_established |= is_row_committed;
            lead.is_settled |= length >= lead.rule_since;
            note_acknowledged(state, log.prefix(length));
        }
        Some(())
    }
}

/// Acknowledged histories must continue each other.
fn note_acknowledged(state: &mut State, history: Log) {
    let newest = |log: Log| log.entries().map(|entry| entry.term).max();
    if history.starts_with(state.acked) {
        state.acked = history;
    } else if !state.acked.starts_with(history) {
        if newest(history) > newest(state.acked) {
            state.is_lost = true;
        } else {
            state.is_split = true;
        }
    }
}

/// A standby tells its primary how far it has flushed.
fn tell(state: &mut State, standby: usize, primary: usize) {
    let Some(lead) = &state.members[primary].leads else { return };
    let promoted = lead.promoted;
    state.is_broken |= state.members[standby].swore > lead.term;
    let m = &mut state.members[standby];
    let to = u8::try_from(primary).unwrap();
    m.ack = Some(Ack { to, promoted, copy: m.copy, flushed: m.log.len() });
}

impl World {
    pub(crate) fn follow(&self, state: &mut State, standby: usize, primary: usize) -> Option<()> {
        let lead = state.members[primary].leads.as_ref()?;
        let kept = number(may_follow(&state.own(standby), term(lead.term)).ok()?);
        let is_same = state.members[standby].follows == Some(u8::try_from(primary).unwrap());
        // PostgreSQL refuses a standby whose history is not the primary's.
        if standby == primary
            || is_same
            || !state.members[primary].log.starts_with(state.members[standby].log)
        {
            return None;
        }
        let m = &mut state.members[standby];
        m.promised = kept;
        m.remembers = kept;
        m.follows = Some(u8::try_from(primary).unwrap());
        tell(state, standby, primary);
        Some(())
    }

    pub(crate) fn receive(&self, state: &mut State, standby: usize) -> Option<()> {
        let primary = state.members[standby].follows? as usize;
        let log = state.members[primary].log;
        let at = state.members[standby].log.len();
        state.members[primary].leads.as_ref()?;
        if !log.starts_with(state.members[standby].log) {
            return None;
        }
        // With nothing new it tells its position again.
        let had = state.members[standby].ack;
        state.members[standby].log = log.prefix(at + 1);
        tell(state, standby, primary);
        (at < log.len() || state.members[standby].ack != had).then_some(())
    }

    pub(crate) fn promise(&self, state: &mut State, member: usize) -> Option<()> {
        let step =
            |state: &State| may_promise(self.rules, &cell(member), &state.own(member), &state.record).ok();
        // What comes before the report is one step here: nobody counts on it yet, and a crash in between leaves what a crash
        // after it leaves.
        let is_ready = matches!(step(state)?, PromiseStep::Report(_));
        loop {
            let now = step(state)?;
            let m = &mut state.members[member];
            match now {
                PromiseStep::Keep(to) => {
                    m.promised = number(to);
                    m.remembers = m.promised;
                }
                PromiseStep::StopReceiving => m.follows = None,
                PromiseStep::Report(_) if !is_ready => return Some(()),
                PromiseStep::Report(to) => {
                    m.remembers = m.remembers.max(number(to));
                    m.swore = m.swore.max(number(to));
                    let (copy, promised) = (m.copy, number(to));
                    let report = Report { copy, promised, position: position(m.log), leads: None };
                    return (m.report.replace(report) != Some(report)).then_some(());
                }
            }
        }
    }

    pub(crate) fn report(&self, state: &mut State, member: usize) -> Option<()> {
        let m = &mut state.members[member];
        let lead = m.leads.as_ref()?;
        let leads = Some((lead.term, lead.is_established, lead.rule.number, lead.is_settled));
        let report = Report { copy: m.copy, promised: m.promised, position: (0, 0), leads };
        let is_news = (lead.is_established || lead.is_settled) && term(lead.term) == state.record.term;
        (is_news && m.report.replace(report) != Some(report)).then_some(())
    }

    pub(crate) fn take(&self, state: &mut State, order: usize) -> Option<()> {
        let order = state.orders.get(order)?.clone();
        let member = index(&order.cell);
        let taking = may_promote(self.rules, &cell(member), &state.own(member), &order).ok()?;
        // An order may be an old one: then nobody will acknowledge for this member, whatever it lacks.
        state.is_lost |= order == state.record && !state.members[member].log.starts_with(state.acked);
        let m = &mut state.members[member];
        match taking {
            Taking::Promote(to) => {
                m.leads = Some(Lead {
                    term: number(to),
                    promoted: number(to),
                    rule: Arc::new(order.rule()?.clone()),
                    rule_since: m.log.len(),
                    is_established: false,
                    is_settled: false,
                    flushed: [None; MEMBERS],
                });
                m.promised = number(to);
            }
            Taking::Continue(to) => {
                let lead = m.leads.as_mut()?;
                lead.term = number(to);
                lead.is_established = false;
                m.promised = number(to);
            }
        }
        m.remembers = m.promised;
        m.begun = Some((m.promised, m.copy));
        m.follows = None;
        Some(())
    }

    pub(crate) fn stop(&self, state: &mut State, member: usize, idle: Duration) -> Option<()> {
        let facts = state.own(member);
        must_stop(&cell(member), &facts, &state.record, idle, idle, &Timing::default())?;
        state.members[member].leads = None;
        Some(())
    }

    pub(crate) fn crash(&self, state: &mut State, member: usize) -> Option<()> {
        let m = &mut state.members[member];
        m.remembers = m.promised;
        m.follows = None;
        if let Some(lead) = &mut m.leads {
            lead.is_established = false;
            lead.is_settled = false;
            lead.flushed = [None; MEMBERS];
            let facts = state.own(member);
            if may_write_after_restart(&cell(member), &facts, None) == Restarted::Stop {
                state.members[member].leads = None;
            }
        }
        Some(())
    }

    pub(crate) fn replace(&self, state: &mut State, member: usize, length: u8) -> Option<()> {
        let leader = state.leader();
        let facts = leader.map(|leader| state.own(leader));
        may_replace_data(self.rules, &cell(member), &state.own(member), &state.record, facts.as_ref())
            .ok()?;
        let source = leader.map_or(state.members[member].log, |leader| state.members[leader].log);
        let m = &mut state.members[member];
        let new = source.prefix(length.min(source.common(m.log)));
        if new == m.log || m.copy >= self.last_copy {
            return None;
        }
        m.log = new;
        m.copy += 1;
        m.follows = None;
        Some(())
    }

    pub(crate) fn hold(&self, state: &mut State, member: usize) -> Option<()> {
        let rule = Arc::new(rule_to_hold(&state.own(member), &state.record)?.clone());
        let m = &mut state.members[member];
        let lead = m.leads.as_mut()?;
        lead.rule = rule;
        lead.rule_since = m.log.len();
        lead.is_settled = false;
        Some(())
    }
}
