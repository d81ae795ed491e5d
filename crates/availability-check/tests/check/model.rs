//! What can happen next. Everything that can be late or lost is an action that need not be taken: so partitions, in one
//! direction too, freezes, delays and lost messages are in every run, and take no state.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use cellar_model::availability::{Facts, Rules, Step, Timing, View, next};
use cellar_model::{CellName, CopyNumber, Leadership, Phase};
use stateright::{Model, Property};

use crate::facts::{cell, index, number, term};
use crate::recovery::recovers;
use crate::state::{Budget, Entry, Lead, Log, MEMBERS, Member, State};
use crate::worlds::Aim;

const EVER: Duration = Duration::MAX;

/// Which reports a decider has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Reports {
    /// Of all members, of a moment ago.
    Fresh,
    /// Of a moment ago, but the leader is silent to all, whether it lives or not.
    WithoutLeader,
    /// Old ones, each of any moment.
    Old,
}

/// What happens. A number is a member.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A client's commit is written on a primary. It waits, and is not acknowledged yet.
    Write(usize),
    /// A primary writes its term row.
    Row(usize),
    /// A member connects to a primary.
    Follow(usize, usize),
    /// A standby flushes the next record.
    Receive(usize),
    /// An acknowledgement comes in.
    Acknowledge(usize),
    /// A member takes the next step of its promise.
    Promise(usize),
    /// A member's report comes in.
    Report(usize),
    /// A decider decides.
    Decide(Reports),
    /// What was decided is written, unless another write was first.
    Commit,
    /// An appointment reaches its member.
    Take(usize),
    /// A leader puts the rule to reach into its settings.
    Hold(usize),
    /// A primary stops because it must.
    Stop(usize),
    /// A primary stops because it is cut off.
    Fence(usize),
    /// A member crashes and starts again.
    Crash(usize),
    /// A member replaces its data, as it may. It gets what a backup or the leader has, of this length.
    Replace(usize, u8),
    /// A member's data is lost, and replaced by an old backup.
    Lose(usize),
}

/// A world to explore, and how far.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) rules: Rules,
    pub(crate) cohort: &'static [usize],
    pub(crate) wanted: &'static [usize],
    pub(crate) budget: Budget,
    pub(crate) last_term: u8,
    pub(crate) last_rule: u32,
    pub(crate) longest: u8,
    pub(crate) last_copy: u8,
    /// Old reports of leaders count, too.
    pub(crate) with_old_leaders: bool,
    /// Every state is left to itself for a while, to see that it recovers.
    pub(crate) must_recover: bool,
    /// What must be reached.
    pub(crate) aim: Aim,
}

impl World {
    fn start(&self) -> State {
        let cohort: BTreeMap<CellName, CopyNumber> =
            self.cohort.iter().map(|member| (cell(*member), CopyNumber::new(1))).collect();
        let record = Arc::new(Leadership::begin(cell(0), cohort));
        let mut log = Log::default();
        log.push(Entry { term: 1, writer: 0, copy: 1, is_row: true });
        let lead = Lead {
            term: 1,
            promoted: 1,
            rule: Arc::new(record.rules[0].clone()),
            rule_since: 0,
            is_established: true,
            is_settled: true,
            flushed: [None; MEMBERS],
        };
        let member = |at: usize| Member {
            log,
            copy: 1,
            promised: 1,
            remembers: 1,
            begun: None,
            follows: (at > 0).then_some(0),
            leads: (at == 0).then(|| lead.clone()),
            ack: None,
            report: None,
            swore: 1,
        };
        State {
            record,
            pending: None,
            orders: Vec::new(),
            members: std::array::from_fn(member),
            budget: self.budget,
            acked: log,
            is_lost: false,
            is_split: false,
            is_broken: false,
        }
    }

    /// What a decider would write.
    pub(crate) fn decide(&self, state: &State, facts: &BTreeMap<CellName, Facts>) -> Option<Leadership> {
        let wanted: BTreeSet<CellName> = self.wanted.iter().map(|member| cell(*member)).collect();
        // A failover from a member that lives is explored by its silence.
        let timing = Timing { appointed: EVER, ..Timing::default() };
        let view = View {
            record: &state.record,
            facts,
            wanted: &wanted,
            preference: &[],
            unchanged: EVER,
            in_phase: EVER - Duration::from_secs(1),
            paused: false,
            timing: &timing,
        };
        match next(self.rules, &view).step {
            Step::Wait => None,
            Step::Write(record) => Some(record),
        }
    }

    fn is_within(&self, record: &Leadership) -> bool {
        number(record.term) <= self.last_term && record.rules.iter().all(|rule| rule.number <= self.last_rule)
    }

    /// As [`World::decide`] with those reports. What was decided on the same facts before is not computed again: the
    /// functions are pure. The key is a hash, as the checker's own set of visited states is one of hashes.
    fn decided(&self, state: &State, reports: Reports) -> Option<Arc<Leadership>> {
        thread_local!(static KNOWN: RefCell<HashMap<u64, Option<Arc<Leadership>>>> = RefCell::default());
        let mut key = std::hash::DefaultHasher::new();
        (reports, &state.record).hash(&mut key);
        for m in &state.members {
            (m.log, m.copy, m.promised, m.remembers, m.begun, m.follows, &m.leads, m.report).hash(&mut key);
        }
        let key = key.finish();
        if let Some(known) = KNOWN.with_borrow(|known| known.get(&key).cloned()) {
            return known;
        }
        let decided = self.compute(state, reports).map(Arc::new);
        KNOWN.with_borrow_mut(|known| known.insert(key, decided.clone()));
        decided
    }

    fn compute(&self, state: &State, reports: Reports) -> Option<Leadership> {
        let mut up = [true; MEMBERS];
        let facts = match reports {
            Reports::Fresh => state.fresh(self.rules, up),
            Reports::WithoutLeader => {
                up[index(&state.record.cell)] = false;
                state.fresh(self.rules, up)
            }
            Reports::Old => state.old(),
        };
        self.decide(state, &facts).filter(|record| self.is_within(record))
    }
}

impl World {
    fn step(&self, state: &mut State, action: &Action) -> Option<()> {
        match *action {
            Action::Write(member) | Action::Row(member) => {
                let is_row = matches!(action, Action::Row(_));
                let m = &mut state.members[member];
                let term = m.leads.as_ref()?.term;
                if m.log.len() >= self.longest || (is_row && m.log.row(term).is_some()) {
                    return None;
                }
                let (writer, copy) = (u8::try_from(member).unwrap(), m.copy);
                m.log.push(Entry { term, writer, copy, is_row });
                state.budget.writes = state.budget.writes.checked_sub(u8::from(!is_row))?;
                Some(())
            }
            Action::Follow(standby, primary) => self.follow(state, standby, primary),
            Action::Receive(standby) => self.receive(state, standby),
            Action::Acknowledge(standby) => self.acknowledge(state, standby),
            Action::Promise(member) => self.promise(state, member),
            Action::Report(member) => self.report(state, member),
            Action::Decide(reports) => {
                state.pending = Some(self.decided(state, reports)?);
                Some(())
            }
            Action::Commit => {
                self.commit(state);
                Some(())
            }
            Action::Take(order) => self.take(state, order),
            Action::Hold(member) => self.hold(state, member),
            Action::Stop(member) => self.stop(state, member, Duration::ZERO),
            Action::Fence(member) => {
                state.budget.stops = state.budget.stops.checked_sub(1)?;
                self.stop(state, member, EVER)
            }
            Action::Crash(member) => {
                state.budget.crashes = state.budget.crashes.checked_sub(1)?;
                self.crash(state, member)
            }
            Action::Replace(member, length) => self.replace(state, member, length),
            Action::Lose(member) => {
                state.budget.losses = state.budget.losses.checked_sub(1)?;
                let m = &mut state.members[member];
                m.log = m.log.prefix(1);
                m.copy += 1;
                m.follows = None;
                m.leads = None;
                Some(())
            }
        }
    }

    fn commit(&self, state: &mut State) {
        if let Some(record) = state.pending.take() {
            state.record = record;
            if state.record.phase == Phase::Appointed {
                state.orders.retain(|order| order.term != state.record.term);
                state.orders.push(state.record.clone());
            }
            state.forget_reports();
        }
    }

    /// One step, for runs that follow a plan.
    pub(crate) fn run(&self, state: &mut State, action: &Action) -> bool {
        let mut after = state.clone();
        let did = self.step(&mut after, action).is_some() && after != *state;
        if did {
            after.forget_orders();
            *state = after;
        }
        did
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.start()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (member, m) in state.members.iter().enumerate() {
            if let Some(lead) = &m.leads {
                let has_room = m.log.len() < self.longest;
                let is_behind = state.record.rule().is_some_and(|rule| rule.number > lead.rule.number);
                actions.extend((has_room && state.budget.writes > 0).then_some(Action::Write(member)));
                actions.extend((has_room && m.log.row(lead.term).is_none()).then_some(Action::Row(member)));
                actions.extend(is_behind.then_some(Action::Hold(member)));
                actions.extend((term(lead.term) < state.record.held).then_some(Action::Stop(member)));
                actions.extend((state.budget.stops > 0).then_some(Action::Fence(member)));
                actions.extend(self.with_old_leaders.then_some(Action::Report(member)));
            } else {
                let primaries = (0..MEMBERS).filter(|primary| state.members[*primary].leads.is_some());
                actions.extend(primaries.map(|primary| Action::Follow(member, primary)));
                actions.extend(m.follows.map(|_| Action::Receive(member)));
                actions.extend((state.record.phase == Phase::Recruiting).then_some(Action::Promise(member)));
                if m.copy < self.last_copy {
                    actions.extend([Action::Replace(member, 1), Action::Replace(member, u8::MAX)]);
                }
            }
            actions.extend(m.ack.map(|_| Action::Acknowledge(member)));
            actions.extend((state.budget.crashes > 0).then_some(Action::Crash(member)));
            actions.extend((state.budget.losses > 0).then_some(Action::Lose(member)));
        }
        match state.pending {
            Some(_) => actions.push(Action::Commit),
            None => {
                actions.extend([Reports::Fresh, Reports::WithoutLeader, Reports::Old].map(Action::Decide));
            }
        }
        actions.extend((0..state.orders.len()).map(Action::Take));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        self.step(&mut state, &action)?;
        state.forget_orders();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no acknowledged commit is lost", |_, state: &State| !state.is_lost),
            Property::always("never two that acknowledge", |_, state: &State| !state.is_split),
            Property::always("a promise is never broken", |_, state: &State| !state.is_broken),
            Property::always("a majority recovers", |world: &Self, state: &State| {
                !world.must_recover || recovers(world, state)
            }),
            Property::sometimes("what the world is for happens", |world: &Self, state: &State| {
                world.aim.is_reached(world, state)
            }),
        ]
    }
}
