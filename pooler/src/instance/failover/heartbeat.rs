//! Whether the leader's multipooler answers, and what it says, asked several times a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_api::v1::{GetMemberFactsRequest, MemberFacts};
use cellar_model::availability::{Facts, Link};
use cellar_model::{CellName, History, Lineage, Phase, Pooler, Term, Timeline};
use cellar_system::clock;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::peers;

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
pub(crate) async fn listen(agent: Rc<Agent>, heard: Shared) {
    let mut client: Option<(Pooler, MultiPoolerClient<Channel>)> = None;
    loop {
        let record = agent.governing();
        let is_appointed = record.as_ref().is_some_and(|record| record.phase == Phase::Appointed);
        let leader = record.map(|record| record.cell).filter(|leader| *leader != agent.cell);
        let card = leader.and_then(|leader| agent.card_of(&leader));
        let Some(card) = card else {
            client = None;
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
        let answer = ask(&agent, &card, &mut client).await;
        if answer.is_err() {
            client = None;
        }
        if let Some(known) = heard.borrow_mut().as_mut() {
            known.answers = answer.is_ok();
            known.refuses = matches!(&answer, Err(NoAnswer { is_refused: true }));
            if let Ok((facts, lineage)) = answer {
                if let Some(leads) = facts.leads.filter(|leads| leads.established) {
                    agent.pooling.note_established(&card.cell, leads.term);
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

/// A question without an answer.
#[derive(Debug, Default)]
struct NoAnswer {
    /// Nobody listens there.
    is_refused: bool,
}

async fn ask(
    agent: &Agent,
    card: &Pooler,
    client: &mut Option<(Pooler, MultiPoolerClient<Channel>)>,
) -> Result<(Facts, Option<Lineage>), NoAnswer> {
    let asking = async {
        if client.as_ref().is_none_or(|(known, _)| known != card) {
            let connected = peers::connect(agent, card).await;
            let connected = connected.map_err(|error| NoAnswer { is_refused: error.is_refused })?;
            *client = Some((card.clone(), connected));
        }
        let (_, client) = client.as_mut().ok_or_else(NoAnswer::default)?;
        let answer = client.get_member_facts(GetMemberFactsRequest {}).await;
        let answer = answer.map_err(|_| NoAnswer::default())?;
        let facts = cellar_api::facts_of_member(answer.get_ref(), Duration::ZERO);
        Ok((facts.map_err(|_| NoAnswer::default())?, lineage(answer.get_ref())))
    };
    tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| Err(NoAnswer::default()))
}
