//! Whether a database recovers from a state when faults end: with enough members up, some member is established and
//! acknowledges a new commit, in a bounded number of rounds.

use cellar_model::Phase;
use cellar_model::availability::{Whom, following};

use crate::facts::{cell, index};
use crate::model::{Action, World};
use crate::state::{Budget, MEMBERS, State};

/// Rounds in which every member that is up does all it can, and then one decision is written.
const ROUNDS: usize = 16;

/// Whether so many copies that count are up that an election can end, and a commit can have its quorum.
fn can_recover(world: &World, state: &State, up: [bool; MEMBERS]) -> bool {
    let counts = |rule: &cellar_model::Rule| {
        let copies = (0..MEMBERS)
            .filter(|member| up[*member])
            .map(|member| (cell(member), state.members[member].copy));
        let valid = copies.filter(|(at, copy)| rule.has(at, cellar_model::CopyNumber::new((*copy).into())));
        valid.count() >= rule.cohort.len() - rule.k as usize
    };
    world.wanted.iter().filter(|member| up[**member]).count() >= 2 && state.record.rules.iter().all(counts)
}

/// Every majority that is up recovers from this state, the other members being silent from now on.
pub(crate) fn recovers(world: &World, state: &State) -> bool {
    let each = [[true, true, false], [true, false, true], [false, true, true], [true, true, true]];
    each.into_iter().all(|up| !can_recover(world, state, up) || settles(world, state, up))
}

fn settles(world: &World, state: &State, up: [bool; MEMBERS]) -> bool {
    let world = World { last_term: 7, last_rule: 9, longest: 8, last_copy: 9, ..world.clone() };
    let mut state = state.clone();
    state.budget = Budget { writes: 0, crashes: 0, stops: 0, losses: 0 };
    for down in (0..MEMBERS).filter(|member| !up[*member]) {
        state.members[down].follows = None;
    }
    // What was decided before arrives now, if ever.
    world.run(&mut state, &Action::Commit);
    for _ in 0..ROUNDS {
        for member in (0..MEMBERS).filter(|member| up[*member]) {
            act(&world, &mut state, member, up);
        }
        let leader = index(&state.record.cell);
        let leads = state.members[leader].leads.as_ref();
        let is_done = up[leader]
            && state.record.phase == Phase::Steady
            && leads.is_some_and(|lead| lead.is_established);
        if is_done && state.record.rules.len() == 1 && acknowledges(&world, &state, leader, up) {
            return true;
        }
        let facts = state.fresh(world.rules, up);
        if let Some(record) = world.decide(&state, &facts) {
            state.pending = Some(std::sync::Arc::new(record));
            world.run(&mut state, &Action::Commit);
        }
    }
    false
}

/// A member does all that it can at once.
fn act(world: &World, state: &mut State, member: usize, up: [bool; MEMBERS]) {
    world.run(state, &Action::Stop(member));
    for order in 0..state.orders.len() {
        if state.orders[order] == state.record && index(&state.record.cell) == member {
            world.run(state, &Action::Take(order));
        }
    }
    world.run(state, &Action::Row(member));
    world.run(state, &Action::Hold(member));
    for _ in 0..3 {
        world.run(state, &Action::Promise(member));
    }
    // Only a leader that it hears tells it that it lacks a quorum.
    if up[index(&state.record.cell)] {
        world.run(state, &Action::Replace(member, u8::MAX));
    }
    if let Whom::Follow(leader, _) = following(&cell(member), &state.own(member), &state.record) {
        let leader = index(&leader);
        if up[leader] {
            world.run(state, &Action::Follow(member, leader));
        }
    }
    let follows = state.members[member].follows.map(usize::from);
    if follows.is_some_and(|primary| up[primary]) {
        while world.run(state, &Action::Receive(member)) {}
        world.run(state, &Action::Acknowledge(member));
    }
}

/// Whether a new commit is acknowledged.
fn acknowledges(world: &World, state: &State, leader: usize, up: [bool; MEMBERS]) -> bool {
    let mut state = state.clone();
    state.budget.writes = 1;
    world.run(&mut state, &Action::Write(leader));
    for member in (0..MEMBERS).filter(|member| up[*member]) {
        act(world, &mut state, member, up);
    }
    state.acked == state.members[leader].log
}
