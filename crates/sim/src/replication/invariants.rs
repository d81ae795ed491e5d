//! What must hold at every moment, and what must have come about once all is calm.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_model::{DatabaseName, Key, Keyspace, Leadership, Phase, Term};
use cellar_topology::{Change, View};

use crate::replication::data::Data;
use crate::replication::postgres::Servers;

/// A primary whose clients were told of nothing for so long does not work.
const WORKS_WITHIN: Duration = Duration::from_secs(3);

/// What has been seen so far.
#[derive(Debug)]
pub struct Invariants {
    keys: Keyspace,
    database: DatabaseName,
    view: View,
    /// Every commit that a client was told of, by how many records lie before it.
    acknowledged: BTreeMap<u64, u64>,
    /// Whom each term was given.
    given: BTreeMap<Term, usize>,
    /// By whom each term was begun.
    begun: BTreeMap<Term, usize>,
    /// The highest promise of each cell.
    promised: Vec<Term>,
    /// The highest term under which a primary may acknowledge, or did.
    opened: Option<(Term, usize)>,
    last: Option<(Duration, usize)>,
}

impl Invariants {
    /// Of a database with so many cells.
    #[must_use]
    pub fn new(keys: Keyspace, database: DatabaseName, cells: usize) -> Self {
        Self {
            keys,
            database,
            view: View::default(),
            acknowledged: BTreeMap::new(),
            given: BTreeMap::new(),
            begun: BTreeMap::new(),
            promised: vec![Term::default(); cells],
            opened: None,
            last: None,
        }
    }

    /// The record of the leader.
    #[must_use]
    pub fn record(&self) -> Option<&Leadership> {
        self.view.leaders.get(&self.database)?.leadership.as_ref()
    }

    /// How many terms were given.
    #[must_use]
    pub fn terms(&self) -> usize {
        self.given.len()
    }

    /// How many commits were acknowledged.
    #[must_use]
    pub fn commits(&self) -> usize {
        self.acknowledged.len()
    }

    /// Takes in one change of the store; returns what must not be.
    pub fn see(&mut self, change: &Change, servers: &Servers) -> Option<String> {
        self.view.apply(&self.keys, change);
        let is_leader = matches!(self.keys.parse(change.key()), Some(Key::Leader(_)));
        let record = self.record().filter(|_| is_leader)?;
        let cell = servers.names.iter().position(|name| *name == record.cell)?;
        let (term, phase) = (record.held, record.phase);
        if phase == Phase::Recruiting {
            return None;
        }
        let before = *self.given.entry(term).or_insert(cell);
        (before != cell).then(|| format!("term {term} is given to two leaders"))
    }

    /// Looks at what members keep, and at what was acknowledged since; returns what must not be.
    pub fn look(&mut self, servers: &mut Servers) -> Vec<String> {
        let mut wrong = Vec::new();
        let news = std::mem::take(&mut servers.acknowledged);
        let servers: &Servers = servers;
        for (cell, server) in servers.cells.iter().enumerate() {
            let Some(kept) = &server.kept else { continue };
            let name = &servers.names[cell];
            if kept.promised < self.promised[cell] {
                wrong.push(format!("{name} promised {} and now only {}", self.promised[cell], kept.promised));
            }
            self.promised[cell] = kept.promised;
            if let Some((term, _)) = kept.begun
                && *self.begun.entry(term).or_insert(cell) != cell
            {
                wrong.push(format!("term {term} is begun by two members"));
            }
        }
        // Before what they have just acknowledged is looked at.
        for cell in 0..servers.cells.len() {
            wrong.extend(self.look_at(cell, servers));
        }
        for news in &news {
            let name = &servers.names[news.by];
            self.last = Some((servers.now, news.by));
            let known = *self.acknowledged.entry(news.place).or_insert(news.id);
            if known != news.id {
                wrong.push(format!("{name} acknowledges another commit at a place where one was before"));
            }
            if let Some(leader) = self.opened.and_then(|(term, cell)| own_data(servers, term, cell))
                && !leader.has(news.place, news.id)
            {
                wrong.push(format!("{name} acknowledges what the primary of the highest term does not have"));
            }
        }
        wrong
    }

    /// A primary that may acknowledge has all that was acknowledged before its term.
    fn look_at(&mut self, cell: usize, servers: &Servers) -> Option<String> {
        let server = &servers.cells[cell];
        let term = server.kept.as_ref()?.begun?.0;
        let is_next = self.opened.is_none_or(|(opened, _)| term > opened);
        if !is_next || !server.acknowledges() {
            return None;
        }
        self.opened = Some((term, cell));
        let data = server.data.as_ref()?;
        let lost = self.acknowledged.iter().filter(|(place, id)| !data.has(**place, **id)).count();
        (lost > 0).then(|| {
            format!("{} leads under term {term} without {lost} acknowledged commits", servers.names[cell])
        })
    }

    /// What is not at rest yet.
    #[must_use]
    pub fn unrest(&self, servers: &Servers) -> Vec<String> {
        let mut unrest = Vec::new();
        let Some(record) = self.record() else { return vec!["no record".to_owned()] };
        if record.phase != Phase::Steady || record.handover.is_some() {
            unrest.push(format!("{:?} under term {}", record.phase, record.term));
        }
        let leads = servers.names.iter().position(|name| *name == record.cell);
        let works = self
            .last
            .is_some_and(|(at, by)| Some(by) == leads && servers.now.saturating_sub(at) < WORKS_WITHIN);
        if !works {
            unrest.push(format!("{} acknowledges nothing", record.cell));
        }
        for (cell, server) in servers.cells.iter().enumerate() {
            let receiver = server.running.as_ref().and_then(|running| running.receiver.as_ref());
            let refused = server.running.as_ref().and_then(|running| running.refused.as_ref());
            if let Some(what) = refused.filter(|_| Some(cell) == leads) {
                unrest.push(format!("{} cannot archive: {what}", servers.names[cell]));
            }
            if Some(cell) != leads && receiver.map(|receiver| receiver.from) != leads {
                unrest.push(format!("{} does not follow", servers.names[cell]));
            }
            let copy = server.kept.as_ref().map(|kept| kept.copy);
            let is_member = copy.is_some_and(|copy| record.has(&servers.names[cell], copy));
            if !is_member || record.rules.len() > 1 {
                unrest.push(format!("the cohort is not settled with {}", servers.names[cell]));
            }
        }
        unrest
    }
}

/// The data of the primary that was the first to acknowledge under a term, while it is still that.
fn own_data(servers: &Servers, term: Term, cell: usize) -> Option<&Data> {
    let server = &servers.cells[cell];
    let is_of_term = server.kept.as_ref()?.begun.is_some_and(|(begun, copy)| {
        begun == term && server.kept.as_ref().is_some_and(|kept| kept.copy == copy)
    });
    server.data.as_ref().filter(|data| is_of_term && !data.recovers)
}
