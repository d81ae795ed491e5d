//! What the members of databases with quorum commit said last, asked for by `failover` and read by whoever explains it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cellar_api::v1;
use cellar_model::{CellName, DatabaseName};
use tokio::time::Instant;

/// What one member said.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// When it was asked.
    pub(crate) at: Instant,
    /// Its answer.
    pub(crate) facts: v1::MemberFacts,
    /// The last answer in which it led, and when.
    pub(crate) led: Option<(Instant, v1::MemberFacts)>,
}

/// The answers of the members of one database. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answers(Arc<Mutex<BTreeMap<CellName, Said>>>);

impl Answers {
    /// All of them, for as long as nobody is awaited.
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<CellName, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an answer to a question of `at`.
    pub(crate) fn note(&self, cell: &CellName, at: Instant, facts: v1::MemberFacts) {
        let mut answers = self.lock();
        let before = answers.remove(cell).and_then(|said| said.led);
        let led = if facts.leads.is_some() { Some((at, facts.clone())) } else { before };
        answers.insert(cell.clone(), Said { at, facts, led });
    }
}

/// Of every database.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemberReports(Arc<Mutex<BTreeMap<DatabaseName, Answers>>>);

impl MemberReports {
    /// Of one database.
    pub(crate) fn of(&self, database: &DatabaseName) -> Answers {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(database.clone()).or_default().clone()
    }
}
