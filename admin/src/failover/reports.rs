//! The last report of each member, asked for over and over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cellar_api::v1;
use cellar_model::availability::Facts;
use cellar_model::{CellName, Pooler};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::admin::Admin;

/// The time between two questions to a member.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_millis(800);

type Answers = Arc<Mutex<BTreeMap<CellName, (Instant, v1::MemberFacts)>>>;

/// The reports of the members of a database.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    answers: Answers,
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
    /// Asks these members from now on, and no others. What a member said stays known while it is one.
    pub(crate) fn ask(&mut self, admin: &Admin, members: &[Pooler]) {
        self.asking.retain(|_, (card, _)| members.contains(card));
        for card in members {
            let (answers, of) = (Arc::clone(&self.answers), card.clone());
            let admin = admin.clone();
            self.asking.entry(card.cell.clone()).or_insert_with(|| {
                (of.clone(), Asking(tokio::spawn(async move { keep_asking(&admin, &of, &answers).await })))
            });
        }
        self.answers().retain(|cell, _| self.asking.contains_key(cell));
    }

    fn answers(&self) -> MutexGuard<'_, BTreeMap<CellName, (Instant, v1::MemberFacts)>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each member said last, with how long ago that was.
    pub(crate) fn facts(&self) -> BTreeMap<CellName, Facts> {
        let answers = self.answers();
        let facts = answers.iter().filter_map(|(cell, (at, said))| {
            Some((cell.clone(), cellar_api::facts_of_member(said, at.elapsed()).ok()?))
        });
        facts.collect()
    }

    /// The timeline and the database's identity of a member's data, as it said last.
    pub(crate) fn identity(&self, cell: &CellName) -> Option<(u32, String)> {
        let answers = self.answers();
        let (_, said) = answers.get(cell)?;
        Some((said.timeline, said.system_identifier.clone())).filter(|(timeline, _)| *timeline != 0)
    }
}

async fn keep_asking(admin: &Admin, card: &Pooler, answers: &Answers) {
    loop {
        let begun = Instant::now();
        let asking = async {
            let mut client = admin.pooler_client(card).ok()?;
            client.get_member_facts(v1::GetMemberFactsRequest {}).await.ok()
        };
        match tokio::time::timeout(TIMEOUT, asking).await {
            Ok(Some(answer)) => {
                let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
                // Not older than when it was asked for.
                answers.insert(card.cell.clone(), (begun, answer.into_inner()));
            }
            _ => admin.poolers.forget(card),
        }
        tokio::time::sleep_until(begun + INTERVAL).await;
    }
}
