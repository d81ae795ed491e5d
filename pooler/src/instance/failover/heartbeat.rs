//! Whether the leader's multipooler answers, and what it says, asked several times a second.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::GetMemberFactsRequest;
use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_model::availability::{Facts, Link};
use cellar_model::{CellName, Pooler};
use cellar_system::clock;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::peers;

/// How often it is asked.
const INTERVAL: Duration = Duration::from_millis(250);

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
    /// The timeline of its data, as it said last; 0 while that is not known.
    timeline: u32,
    /// Whether the last question was answered.
    answers: bool,
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

    /// The timeline that it leads on; none while that is not known.
    pub(crate) fn timeline(&self) -> Option<u32> {
        Some(self.timeline).filter(|timeline| *timeline > 0)
    }

    /// What it said last, with how long ago that was.
    pub(crate) fn facts(&self) -> Option<Facts> {
        let (at, facts) = self.last.as_ref()?;
        Some(Facts { age: clock::uptime().saturating_sub(*at), ..facts.clone() })
    }
}

/// The last that was heard.
pub(crate) type Shared = Rc<RefCell<Option<Heard>>>;

/// Asks for as long as another cell leads. Never returns.
pub(crate) async fn listen(agent: Rc<Agent>, heard: Shared) {
    let mut client: Option<(Pooler, MultiPoolerClient<Channel>)> = None;
    loop {
        let leader = agent.governing().map(|record| record.cell).filter(|leader| *leader != agent.cell);
        let card = leader.and_then(|leader| agent.card_of(&leader));
        let Some(card) = card else {
            client = None;
            heard.replace(None);
            tokio::time::sleep(INTERVAL).await;
            continue;
        };
        if heard.borrow().as_ref().is_none_or(|known| known.of != card.cell) {
            let (of, since) = (card.cell.clone(), clock::uptime());
            heard.replace(Some(Heard { of, since, last: None, timeline: 0, answers: false }));
        }
        let begun = tokio::time::Instant::now();
        let answer = ask(&agent, &card, &mut client).await;
        if answer.is_none() {
            client = None;
        }
        if let Some(known) = heard.borrow_mut().as_mut() {
            known.answers = answer.is_some();
            if let Some((facts, timeline)) = answer {
                known.last = Some((clock::uptime(), facts));
                known.timeline = timeline;
            }
        }
        tokio::time::sleep_until(begun + INTERVAL).await;
    }
}

async fn ask(
    agent: &Agent,
    card: &Pooler,
    client: &mut Option<(Pooler, MultiPoolerClient<Channel>)>,
) -> Option<(Facts, u32)> {
    let asking = async {
        if client.as_ref().is_none_or(|(known, _)| known != card) {
            *client = Some((card.clone(), peers::connect(agent, card).await.ok()?));
        }
        let (_, client) = client.as_mut()?;
        let answer = client.get_member_facts(GetMemberFactsRequest {}).await.ok()?;
        let facts = cellar_api::facts_of_member(answer.get_ref(), Duration::ZERO).ok()?;
        Some((facts, answer.get_ref().timeline))
    };
    tokio::time::timeout(TIMEOUT, asking).await.ok().flatten()
}
