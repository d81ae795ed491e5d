//! The last report of each member, asked for over and over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cellar_model::availability::Facts;
use cellar_model::{CellName, DatabaseName, Lsn, Phase, Pooler};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::Admin;
use crate::failover::AskMember;
use crate::member_reports::Answers;

/// The time between two questions to a member.
const INTERVAL: Duration = Duration::from_millis(200);

/// The same while somebody is being made the leader: nobody can write meanwhile.
const SOON_INTERVAL: Duration = Duration::from_millis(50);

/// For how long that goes on. An election that needs a member which is lost may take days.
pub(super) const SOON_TIME: Duration = Duration::from_secs(60);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_millis(800);

/// The reports of the members of a database.
pub(crate) struct Reports {
    answers: Answers,
    ask: Arc<AskMember>,
    asking: BTreeMap<CellName, (Pooler, Asking)>,
}

#[derive(Debug)]
struct Asking(JoinHandle<()>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reports {
    /// Keeps in `answers` what is said when members are asked by `ask`.
    pub(crate) fn new(answers: Answers, ask: Arc<AskMember>) -> Self {
        Self { answers, ask, asking: BTreeMap::new() }
    }

    /// Asks these members from now on, and no others. What a member said stays known while it is one.
    pub(crate) fn ask(&mut self, admin: &Admin, members: &[Pooler]) {
        self.asking.retain(|_, (card, _)| members.contains(card));
        for card in members {
            let (answers, of) = (self.answers.clone(), card.clone());
            let (admin, ask) = (admin.clone(), Arc::clone(&self.ask));
            self.asking.entry(card.cell.clone()).or_insert_with(|| {
                (
                    of.clone(),
                    Asking(tokio::spawn(async move { keep_asking(&admin, &of, &*ask, &answers).await })),
                )
            });
        }
        self.answers.lock().retain(|cell, _| self.asking.contains_key(cell));
    }

    /// What each member said last, with how long ago that was.
    pub(crate) fn facts(&self) -> BTreeMap<CellName, Facts> {
        let answers = self.answers.lock();
        let facts = answers.iter().filter_map(|(cell, said)| {
            Some((cell.clone(), cellar_api::facts_of_member(&said.facts, said.at.elapsed()).ok()?))
        });
        facts.collect()
    }

    /// How long ago a member last said that it leads, and how far it was.
    pub(crate) fn led(&self, cell: &CellName) -> Option<(Duration, Lsn)> {
        let answers = self.answers.lock();
        let (at, said) = answers.get(cell)?.led.as_ref()?;
        let lsn = said.position.as_ref()?.lsn.parse().ok()?;
        Some((at.elapsed(), lsn))
    }

    /// The timeline and the database's identity of a member's data, as it said last.
    pub(crate) fn identity(&self, cell: &CellName) -> Option<(u32, String)> {
        let answers = self.answers.lock();
        let said = &answers.get(cell)?.facts;
        Some((said.timeline, said.system_identifier.clone())).filter(|(timeline, _)| *timeline != 0)
    }
}

async fn keep_asking(admin: &Admin, card: &Pooler, ask: &AskMember, answers: &Answers) {
    let mut moving_since: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        match tokio::time::timeout(TIMEOUT, ask(card.clone())).await {
            Ok(Some(answer)) => {
                // Not older than when it was asked for.
                answers.note(&card.cell, begun, answer);
            }
            _ => admin.poolers.forget(card),
        }
        moving_since = moving_since.or(Some(begun)).filter(|_| is_moving(admin, &card.database));
        let is_soon = moving_since.is_some_and(|since| since.elapsed() < SOON_TIME);
        let interval = if is_soon { SOON_INTERVAL } else { INTERVAL };
        tokio::time::sleep_until(begun + interval).await;
    }
}

/// Whether one leader has ended, or is to end, and the next one is not established yet.
pub(super) fn is_moving(admin: &Admin, database: &DatabaseName) -> bool {
    let view = admin.view();
    let record = view.leaders.get(database).and_then(|leader| leader.leadership.as_ref());
    record.is_some_and(|record| !record.ended && (record.phase != Phase::Steady || record.handover.is_some()))
}
