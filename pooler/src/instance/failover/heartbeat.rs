//! Whether the leader's multipooler answers, and what it says, asked several times a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::MemberFacts;
use cellar_model::availability::{Facts, Link};
use cellar_model::{CellName, History, Lineage, Phase, Pooler, Term, Timeline};
use cellar_system::clock;

use crate::instance::failover::server::{NoAnswer, Server};

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(250);

/// The same while a member is being made the leader: whoever follows it waits for what it says.
const SOON_INTERVAL: Duration = Duration::from_millis(50);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// What was heard of one leader.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Whom it is about.
    pub(crate) of: CellName,
    /// Since when it is asked, by [`clock::uptime`].
    since: Duration,
    /// When the last answer came, and what it said.
    last: Option<(Duration, Facts)>,
    /// The line of WAL that it leads on, as it said last; none while that is not known.
    lineage: Option<Lineage>,
    /// Whether the last question was answered.
    answers: bool,
    /// Whether nobody listened when it was last asked.
    refuses: bool,
}

impl Heard {
    /// The connection to it, as far as it is known.
    pub(crate) fn link(&self) -> Link {
        let now = clock::uptime();
        match &self.last {
            Some((at, _)) if self.answers => Link::Heard { ago: now.saturating_sub(*at) },
            Some((at, _)) => Link::Silent { since: now.saturating_sub(*at) },
            None => Link::Silent { since: now.saturating_sub(self.since) },
        }
    }

    /// Whether nobody listens any more where it answered before. One that has not answered yet may be about to start.
    pub(crate) fn is_refused(&self) -> bool {
        self.refuses && self.last.is_some()
    }

    /// The line of WAL on which it leads under that term; none while that is not known.
    pub(crate) fn lineage(&self, term: Term) -> Option<&Lineage> {
        let (_, facts) = self.last.as_ref()?;
        self.lineage.as_ref().filter(|_| facts.leads.is_some_and(|leads| leads.term == term))
    }

    /// What it said last, with how long ago that was.
    pub(crate) fn facts(&self) -> Option<Facts> {
        let (at, facts) = self.last.as_ref()?;
        Some(Facts { age: clock::uptime().saturating_sub(*at).saturating_add(facts.age), ..facts.clone() })
    }
}

/// The last that was heard.
pub(crate) type Shared = Rc<RefCell<Option<Heard>>>;

/// Asks for as long as another cell leads. Never returns.
pub(super) async fn listen<S: Server>(server: Rc<S>, heard: Shared) {
    loop {
        let process = server.process();
        let record = process.governing();
        let is_appointed = record.as_ref().is_some_and(|record| record.phase == Phase::Appointed);
        let leader = record.map(|record| record.cell).filter(|leader| *leader != process.cell);
        let card = leader.and_then(|leader| process.card_of(&leader));
        let Some(card) = card else {
            heard.replace(None);
            tokio::time::sleep(INTERVAL).await;
            continue;
        };
        if heard.borrow().as_ref().is_none_or(|known| known.of != card.cell) {
            let (of, since) = (card.cell.clone(), clock::uptime());
            heard.replace(Some(Heard {
                of,
                since,
                last: None,
                lineage: None,
                answers: false,
                refuses: false,
            }));
        }
        let begun = tokio::time::Instant::now();
        let answer = ask(&*server, &card).await;
        if let Some(known) = heard.borrow_mut().as_mut() {
            known.answers = answer.is_ok();
            known.refuses = matches!(&answer, Err(NoAnswer { is_refused: true }));
            if let Ok((facts, lineage)) = answer {
                if let Some(leads) = facts.leads.filter(|leads| leads.established) {
                    server.note_established(&card.cell, leads.term);
                }
                known.last = Some((clock::uptime(), facts));
                known.lineage = lineage;
            }
        }
        tokio::time::sleep_until(begun + if is_appointed { SOON_INTERVAL } else { INTERVAL }).await;
    }
}

/// The line of WAL that a primary says it is on; none of a standby, whose timeline says nothing yet.
fn lineage(said: &MemberFacts) -> Option<Lineage> {
    said.leads.as_ref()?;
    let timeline = Timeline::new(Some(said.timeline).filter(|timeline| *timeline > 0)?);
    let history: History = said.timeline_history.parse().ok()?;
    // Without the history of a later timeline nothing is known of its branch.
    (timeline == Timeline::new(1) || !history.0.is_empty()).then(|| Lineage::new(timeline, &history))
}

async fn ask(server: &impl Server, card: &Pooler) -> Result<(Facts, Option<Lineage>), NoAnswer> {
    let answer = tokio::time::timeout(TIMEOUT, server.ask(card)).await;
    let answer = answer.unwrap_or_else(|_| Err(NoAnswer::default()))?;
    let facts = cellar_api::facts_of_member(&answer, Duration::ZERO).map_err(|_| NoAnswer::default())?;
    Ok((facts, lineage(&answer)))
}
