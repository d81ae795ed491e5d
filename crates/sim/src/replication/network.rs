//! The network between sites: who is asked how it is, and when that is answered. Links are cut in one direction or both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cellar_api::v1::MemberFacts;
use cellar_pooler::failover::NoAnswer;
use tokio::sync::{mpsc, oneshot};

/// For how long a question or an answer that was lost is not known to be: longer than anybody waits.
const LOST: Duration = Duration::from_secs(20);

/// An answer on its way to whoever asked.
type Reply = oneshot::Sender<Result<MemberFacts, NoAnswer>>;

/// A question at a member.
#[derive(Debug)]
pub struct Question {
    from: usize,
    reply: Reply,
}

enum Event {
    Arrives {
        to: usize,
        question: Question,
    },
    Answered {
        reply: Reply,
        answer: Box<Result<MemberFacts, NoAnswer>>,
    },
    /// Whoever waits has given up by now.
    Forgotten(#[expect(dead_code, reason = "held until then")] Reply),
}

struct Shared {
    now: Duration,
    random: fastrand::Rng,
    /// One in so many messages is slow, and one in so many is lost; 0 for never.
    slow: u32,
    lost: u32,
    events: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    steps: u64,
    inboxes: BTreeMap<usize, mpsc::UnboundedSender<Question>>,
    /// From one site to another.
    cut_until: BTreeMap<(usize, usize), Duration>,
}

/// The network of a simulation. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Shared>>);

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("steps", &self.steps()).finish_non_exhaustive()
    }
}

impl Network {
    /// A network on which all is well.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Shared {
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            slow: 0,
            lost: 0,
            events: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            inboxes: BTreeMap::new(),
            cut_until: BTreeMap::new(),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member listens from now on, in place of the one that did before.
    #[must_use]
    pub fn listen(&self, site: usize) -> mpsc::UnboundedReceiver<Question> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().inboxes.insert(site, sender);
        receiver
    }

    /// Nobody listens at a site any more.
    pub fn close(&self, site: usize) {
        self.lock().inboxes.remove(&site);
    }

    /// Asks the member of one site from another one.
    ///
    /// # Errors
    /// When nobody listens there. What is lost is never answered.
    pub async fn ask(&self, from: usize, to: usize) -> Result<MemberFacts, NoAnswer> {
        let (reply, answer) = oneshot::channel();
        self.lock().send(from, to, reply, |reply| Event::Arrives { to, question: Question { from, reply } });
        answer.await.unwrap_or_else(|_| Err(NoAnswer::default()))
    }

    /// Answers a question that came to a site.
    pub fn answer(&self, site: usize, question: Question, answer: Result<MemberFacts, NoAnswer>) {
        let Question { from, reply } = question;
        self.lock().send(site, from, reply, |reply| Event::Answered { reply, answer: Box::new(answer) });
    }

    /// Cuts the way from one site to another until then.
    pub fn cut(&self, from: usize, to: usize, until: Duration) {
        self.lock().cut_until.insert((from, to), until);
    }

    /// Whether nothing gets from one site to another now.
    #[must_use]
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.lock().is_cut(from, to)
    }

    /// Sets how many messages are slow and lost: one in so many, 0 for none.
    pub fn set_weather(&self, slow: u32, lost: u32) {
        let mut shared = self.lock();
        (shared.slow, shared.lost) = (slow, lost);
    }

    /// Ends everything that goes wrong.
    pub fn calm(&self) {
        self.set_weather(0, 0);
        self.lock().cut_until.clear();
    }

    /// Messages that have arrived.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.lock().steps
    }

    /// A number for what has been decided until now.
    #[must_use]
    pub fn state(&self) -> (u64, u64) {
        let shared = self.lock();
        (shared.random.get_seed(), shared.sequence)
    }

    /// Lets everything happen up to a moment.
    pub fn advance(&self, now: Duration) {
        let mut shared = self.lock();
        while let Some(entry) = shared.events.first_entry().filter(|entry| entry.key().0 <= now) {
            let ((at, _), event) = entry.remove_entry();
            shared.now = at;
            shared.steps += 1;
            match event {
                Event::Arrives { to, question } => {
                    let refused = match shared.inboxes.get(&to) {
                        Some(inbox) => inbox.send(question).err().map(|error| error.0),
                        None => Some(question),
                    };
                    if let Some(Question { from, reply }) = refused {
                        let answer = Box::new(Err(NoAnswer { is_refused: true }));
                        shared.send(to, from, reply, |reply| Event::Answered { reply, answer });
                    }
                }
                // Who asked may have given up.
                Event::Answered { reply, answer } => drop(reply.send(*answer)),
                Event::Forgotten(_) => {}
            }
        }
        shared.now = now;
    }
}

impl Shared {
    fn is_cut(&self, from: usize, to: usize) -> bool {
        from != to && self.cut_until.get(&(from, to)).is_some_and(|until| *until > self.now)
    }

    fn once_in(&mut self, times: u32) -> bool {
        times > 0 && self.random.u32(0..times) == 0
    }

    fn send(&mut self, from: usize, to: usize, reply: Reply, event: impl FnOnce(Reply) -> Event) {
        let lost = from != to && self.once_in(self.lost);
        let (after, event) = if lost || self.is_cut(from, to) {
            (LOST, Event::Forgotten(reply))
        } else if from != to && self.once_in(self.slow) {
            (Duration::from_millis(self.random.u64(50..=3000)), event(reply))
        } else {
            (Duration::from_millis(self.random.u64(1..=5)), event(reply))
        };
        self.sequence += 1;
        self.events.insert((self.now + after, self.sequence), event);
    }
}
