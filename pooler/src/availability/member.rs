//! The loop of a member: it looks at its own instance and at the leader, reports, and does what the record asks of it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::availability::{
    Canary as CanaryState, Facts, Gate, Instance, Leading, PromiseStep, Rules, Sight, Taking, Timing, Whom,
    following, gate, may_follow, may_promise, may_promote, may_replace_data, must_stop, rule_to_hold,
};
use cellar_model::availability::{Link, Refused};
use cellar_model::{Database, Durability, Leadership, Lsn, Phase, Pooler, Position, Rule, Term};
use cellar_postgres::{
    MemberLook, MemberProbe, PostgresError, configure, promote, reload, resume_replay, running,
    write_term_row,
};
use cellar_system::{Process, clock};

use crate::agent::Agent;
use crate::availability::canary::Canary;
use crate::availability::heartbeat::{self, Shared};
use crate::availability::settings::copy_of;
use crate::availability::{Report, governing, is_led_here};
use crate::config_files::{ConfigFileError, instance_config};
use crate::instance::incarnation;

/// The time between two looks while all is well.
const INTERVAL: Duration = Duration::from_millis(200);

/// The time between two looks while a leader is being replaced.
const SOON_INTERVAL: Duration = Duration::from_millis(50);

/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a statement of ours may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a promotion is waited for before it is looked at again. It goes on.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an instance that ended is given to come back: the supervisor starts it within a second, and it recovers.
const RESTART_BUDGET: Duration = Duration::from_secs(10);

/// After a reload, PostgreSQL's processes take new settings within some 10 ms; on a busy host later.
const RELOAD_TIME: Duration = Duration::from_millis(200);

/// A standby that has nothing left to replay and whose primary is well does not stream for this long: it cannot.
const CANNOT_STREAM_AFTER: Duration = Duration::from_secs(10);

/// Something of a round failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("cannot keep what must not be forgotten: {0}")]
    Kept(#[from] std::io::Error),
}

struct Member {
    agent: Rc<Agent>,
    heard: Shared,
    probe: Option<MemberProbe>,
    canary: Option<(Term, Canary)>,
    /// Where the row of the term ends that was begun here.
    row: Option<(Term, Lsn)>,
    /// When the settings were last changed, by [`clock::uptime`].
    reloaded: Duration,
    /// Looks in a row that found all replayed, nobody streaming to here, and the same position.
    quiet_looks: u32,
    last_lsn: Option<Lsn>,
    /// When new WAL last came in.
    new_wal: Option<Duration>,
    /// When the walreceiver last heard something.
    stream_heard: Option<Duration>,
    /// Since when it could stream and does not.
    not_streaming_since: Option<Duration>,
    /// Since when the instance does not run, or no probe reached it.
    down_since: Option<Duration>,
    frozen_since: Option<Duration>,
    /// When etcd was last heard of.
    etcd_heard: Duration,
    /// The term that it was appointed for and cannot take.
    cannot_lead: Option<Term>,
    started: Duration,
    last_error: String,
}

/// Looks and acts while the database has quorum commit. Never returns.
pub(crate) async fn run(agent: Rc<Agent>) {
    let heard: Shared = Rc::new(RefCell::new(None));
    let _listening =
        AbortOnDrop(tokio::task::spawn_local(heartbeat::listen(Rc::clone(&agent), Rc::clone(&heard))));
    let mut topology = agent.mirror.changes();
    let mut member = Member::new(Rc::clone(&agent), heard);
    loop {
        topology.borrow_and_update();
        let pause = match agent.assignment() {
            Ok((card, database)) if database.durability == Durability::Quorum => {
                member.round(&card, &database).await
            }
            _ => {
                member.forget();
                Duration::from_secs(1)
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = topology.changed() => {}
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Member {
    fn new(agent: Rc<Agent>, heard: Shared) -> Self {
        let now = clock::uptime();
        Self {
            agent,
            heard,
            probe: None,
            canary: None,
            row: None,
            reloaded: now,
            quiet_looks: 0,
            last_lsn: None,
            new_wal: None,
            stream_heard: None,
            not_streaming_since: None,
            down_since: None,
            frozen_since: None,
            etcd_heard: now,
            cannot_lead: None,
            started: now,
            last_error: String::new(),
        }
    }

    /// The database has no quorum commit.
    fn forget(&mut self) {
        let availability = &self.agent.availability;
        availability.report.replace(None);
        availability.stop.set(None);
        availability.may_replace.set(true);
        (self.probe, self.canary, self.row) = (None, None, None);
    }

    /// Looks, reports and acts once. Returns the pause until the next round.
    async fn round(&mut self, card: &Pooler, database: &Database) -> Duration {
        let record = governing(&self.agent);
        self.note_etcd();
        let look = self.look(card).await;
        let facts = self.facts(look.as_ref(), record.as_ref());
        let (timeline, identity) = look
            .as_ref()
            .map_or((0, String::new()), |look| (look.timeline.get(), look.system_identifier.to_string()));
        let availability = &self.agent.availability;
        let leader = self.heard.borrow().as_ref().and_then(heartbeat::Heard::facts);
        let may_replace = record.as_ref().is_none_or(|record| {
            may_replace_data(Rules::SAFE, &self.agent.cell, &facts, record, leader.as_ref()).is_ok()
        });
        availability.may_replace.set(may_replace);
        availability.report.replace(Some(Report {
            facts: facts.clone(),
            timeline,
            system_identifier: identity,
        }));
        let is_restored = incarnation::record(&self.agent).fence.is_some();
        // A job that has the instance, or a restore of the database, decides alone.
        let acts = !self.agent.instance_lock.is_held() && !is_restored;
        let mut busy = false;
        if let (Some(record), true) = (&record, acts) {
            let acted = match &look {
                Some(look) => self.act(card, database, record, &facts, look).await,
                // One that has only been restored takes no session before it has the WAL that it needs.
                None if is_standby(&self.agent) && !self.agent.layout.seeding_marker().exists() => {
                    self.follow(card, database, record, &facts)
                }
                None => Ok(false),
            };
            match acted {
                Ok(is_busy) => {
                    busy = is_busy;
                    self.last_error.clear();
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != self.last_error {
                        tracing::warn!(
                            error = text,
                            "what the record of the leader asks for is not done yet"
                        );
                        self.last_error = text;
                    }
                }
            }
        }
        let is_steady = record.as_ref().is_none_or(|record| record.phase == Phase::Steady);
        if busy || !is_steady { SOON_INTERVAL } else { INTERVAL }
    }

    fn note_etcd(&mut self) {
        let renewed = self.agent.lease.current().and_then(|lease| self.agent.lease.renewed(lease));
        self.etcd_heard = self.etcd_heard.max(renewed.unwrap_or_default());
    }

    /// Looks at the instance; none when it does not run or does not answer.
    async fn look(&mut self, card: &Pooler) -> Option<MemberLook> {
        let now = clock::uptime();
        let data = Path::new(&card.data_directory);
        let postmaster = running(data).ok().flatten();
        let Some(postmaster) = postmaster else {
            if self.down_since.is_none() {
                self.agent.nudge.notify_one();
            }
            self.down_since = self.down_since.or(Some(now));
            self.frozen_since = None;
            (self.probe, self.canary) = (None, None);
            (self.quiet_looks, self.last_lsn) = (0, None);
            return None;
        };
        let endpoint = self.agent.endpoint(card);
        let probe = match &mut self.probe {
            Some(probe) if *probe.endpoint() == endpoint => probe,
            other => other.insert(MemberProbe::new(endpoint, LOOK_TIMEOUT)),
        };
        let answer = probe.look().await;
        let is_stopped = Process::find(postmaster.pid).is_some_and(|process| process.is_stopped());
        match answer {
            Ok(look) if !is_stopped => {
                (self.down_since, self.frozen_since) = (None, None);
                self.note_wal(&look);
                Some(look)
            }
            Err(PostgresError::NotReady(_) | PostgresError::NotRunning(_)) => {
                self.down_since = self.down_since.or(Some(now));
                None
            }
            _ => {
                self.frozen_since = self.frozen_since.or(Some(now));
                None
            }
        }
    }

    fn note_wal(&mut self, look: &MemberLook) {
        let now = clock::uptime();
        let is_new = self.last_lsn.is_some_and(|last| look.lsn > last);
        if is_new {
            self.new_wal = Some(now);
        }
        let heard = look.receiver.as_ref().filter(|receiver| receiver.streams).and_then(|it| it.message_age);
        if let Some(age) = heard {
            self.stream_heard = self.stream_heard.max(Some(now.saturating_sub(age)));
        }
        let is_quiet = look.receiver.is_none()
            && look.replay_waits
            && !look.replay_paused
            && self.last_lsn == Some(look.lsn)
            && now.saturating_sub(self.reloaded) >= RELOAD_TIME;
        self.quiet_looks = if is_quiet { self.quiet_looks.saturating_add(1) } else { 0 };
        self.last_lsn = Some(look.lsn);
    }

    fn instance(&self) -> Instance {
        let now = clock::uptime();
        match (self.frozen_since, self.down_since) {
            (Some(since), _) => Instance::Frozen { since: now.saturating_sub(since) },
            (None, Some(since)) if now.saturating_sub(since) < RESTART_BUDGET => Instance::Restarting,
            (None, Some(_)) => Instance::Gone,
            (None, None) => Instance::Runs,
        }
    }

    fn facts(&mut self, look: Option<&MemberLook>, record: Option<&Leadership>) -> Facts {
        let kept = self.agent.availability.kept.get();
        let own_term = self.agent.availability.kept.own_term();
        let position = |look: &MemberLook| Position { term: look.term, lsn: look.lsn };
        let none = Position { term: Term::default(), lsn: Lsn::new(0) };
        let leads = look.filter(|look| look.is_primary).map(|look| {
            let term = own_term.unwrap_or_default();
            let is_open = kept.rule.is_some();
            let canary = match &self.canary {
                Some((_, canary)) => canary.state(look.canary_waits),
                None => CanaryState::AwaitsQuorum { since: Duration::ZERO },
            };
            let settled = self
                .canary
                .as_ref()
                .is_some_and(|(_, canary)| canary.committed_since(self.reloaded + RELOAD_TIME));
            Leading {
                term,
                row: self.row.filter(|(of, _)| *of == term).map(|(_, lsn)| lsn),
                established: is_open,
                rule: kept.rule.as_ref().map_or(0, |rule| rule.number),
                settled: is_open && settled,
                canary,
            }
        });
        let upstream = look.and_then(|look| {
            let receiver = look.receiver.as_ref().filter(|receiver| receiver.streams)?;
            let (host, port) = receiver.sender.as_ref()?;
            self.agent.cell_at(host, *port)
        });
        // What may still come in is not final. An instance that does not answer may have more than is known.
        let receives = match look {
            Some(look) if look.is_primary => false,
            Some(_) => self.quiet_looks < 2,
            None => true,
        };
        let led_elsewhere = record.filter(|record| record.cell != self.agent.cell);
        Facts {
            age: Duration::ZERO,
            copy: kept.copy,
            promised: kept.promised,
            begun: kept.begun,
            receives,
            position: look.map_or(none, position),
            instance: self.instance(),
            leads,
            follows: upstream.map(|cell| (cell, kept.promised)),
            sees: led_elsewhere.and_then(|record| self.sight(look, record)),
            needs_replacing: self.needs_replacing(look, record),
            cannot_lead: record.is_some_and(|record| self.cannot_lead == Some(record.term)),
        }
    }

    /// What it sees of the leader; none when it has not looked.
    fn sight(&self, look: Option<&MemberLook>, record: &Leadership) -> Option<Sight> {
        let now = clock::uptime();
        let heard = self.heard.borrow();
        let heard = heard.as_ref().filter(|heard| heard.of == record.cell)?;
        let streams = look.and_then(|look| look.receiver.as_ref()).is_some_and(|receiver| receiver.streams);
        let last = self
            .stream_heard
            .map_or_else(|| now.saturating_sub(self.started), |heard| now.saturating_sub(heard));
        Some(Sight {
            of: record.cell.clone(),
            stream: if streams { Link::Heard { ago: last } } else { Link::Silent { since: last } },
            new_wal: self.new_wal.map(|at| now.saturating_sub(at)),
            pooler: heard.link(),
        })
    }

    /// Whether the data must be replaced before it can follow: that of a primary that was replaced, or a standby's with
    /// WAL that the leader lacks.
    fn needs_replacing(&mut self, look: Option<&MemberLook>, record: Option<&Leadership>) -> bool {
        let Some(record) = record.filter(|record| record.cell != self.agent.cell) else {
            self.not_streaming_since = None;
            return false;
        };
        if self.agent.availability.wants_replacing.get() {
            return true;
        }
        let kept = self.agent.availability.kept.get();
        let Some(look) = look.filter(|look| !look.is_primary) else {
            self.not_streaming_since = None;
            // A primary's data, also of one that was stopped because of it, or none at all.
            return !is_standby(&self.agent);
        };
        let leader = self.heard.borrow().as_ref().and_then(heartbeat::Heard::facts);
        let leads = leader.as_ref().filter(|leader| {
            leader.age < Timing::default().fresh
                && leader.leads.is_some_and(|leads| leads.term == record.held)
        });
        let streams = look.receiver.as_ref().is_some_and(|receiver| receiver.streams);
        let follows = kept.promised == record.held && record.phase != Phase::Recruiting;
        if streams || leads.is_none() || !follows || !look.replay_waits {
            self.not_streaming_since = None;
            return false;
        }
        let now = clock::uptime();
        let since = *self.not_streaming_since.get_or_insert(now);
        now.saturating_sub(since) >= CANNOT_STREAM_AFTER
    }

    /// Does what the record asks for. Whether the next look is due soon.
    async fn act(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
        look: &MemberLook,
    ) -> Result<bool, RoundError> {
        if look.is_primary {
            return self.act_as_primary(card, database, record, facts, look).await;
        }
        self.agent.availability.stop.set(None);
        (self.canary, self.row) = (None, None);
        let cell = self.agent.cell.clone();
        match may_promise(Rules::SAFE, &cell, facts, record) {
            Ok(PromiseStep::Keep(term)) => {
                tracing::info!(%term, "promises to follow no lower term");
                self.agent.availability.kept.update(|kept| kept.promised = term)?;
                self.apply(card, database)?;
                return Ok(true);
            }
            Ok(PromiseStep::StopReceiving) => {
                self.apply(card, database)?;
                if look.replay_paused {
                    resume_replay(&self.agent.endpoint(card), STATEMENT_TIMEOUT).await?;
                }
                return Ok(true);
            }
            Ok(PromiseStep::Report(_)) => return Ok(true),
            Err(_) => {}
        }
        match may_promote(Rules::SAFE, &cell, facts, record) {
            Ok(Taking::Promote(term)) => {
                self.begin_term(term)?;
                self.apply(card, database)?;
                tracing::warn!(%term, position = %facts.position, "this standby is promoted");
                let begun = clock::uptime();
                promote(&self.agent.tools, Path::new(&card.data_directory), PROMOTION_TIMEOUT).await?;
                tracing::info!(%term, took = ?clock::uptime().saturating_sub(begun), "promoted");
                return Ok(true);
            }
            Ok(Taking::Continue(_)) | Err(Refused::NotAsked) => {}
            Err(Refused::Receives) => {
                self.apply(card, database)?;
                return Ok(true);
            }
            Err(why) => {
                if self.cannot_lead != Some(record.term) {
                    tracing::error!(term = %record.term, %why, "this member was appointed and cannot lead");
                    self.cannot_lead = Some(record.term);
                }
            }
        }
        self.follow(card, database, record, facts)
    }

    /// Follows whom the record says, once that is kept. Whether anything changed.
    fn follow(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
    ) -> Result<bool, RoundError> {
        if let Whom::Follow(leader, term) = following(&self.agent.cell, facts, record)
            && may_follow(facts, term).is_ok()
            && facts.promised != term
        {
            tracing::info!(%leader, %term, "follows");
            self.agent.availability.kept.update(|kept| kept.promised = kept.promised.max(term))?;
        }
        self.apply(card, database)
    }

    async fn act_as_primary(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
        look: &MemberLook,
    ) -> Result<bool, RoundError> {
        let cell = self.agent.cell.clone();
        let now = clock::uptime();
        let quorum_age = self.canary.as_ref().map_or(Duration::ZERO, |(_, canary)| canary.quorum_age());
        let etcd_age = now.saturating_sub(self.etcd_heard);
        let stop = must_stop(&cell, facts, record, etcd_age, quorum_age, &Timing::default());
        if let Some(why) = stop {
            if self.agent.availability.stop.replace(Some(why)).is_none() {
                tracing::error!(%why, "this primary stops");
            }
            self.agent.nudge.notify_one();
            return Ok(true);
        }
        self.agent.availability.stop.set(None);
        match may_promote(Rules::SAFE, &cell, facts, record) {
            Ok(Taking::Continue(term)) => {
                tracing::info!(%term, "this primary goes on under a new term");
                self.begin_term(term)?;
                self.apply(card, database)?;
            }
            // One that is promoted already: its term was begun before.
            Ok(Taking::Promote(_)) | Err(_) => {}
        }
        let Some(term) = self.agent.availability.kept.own_term() else { return Ok(true) };
        if !is_led_here(&self.agent, record) {
            return Ok(true);
        }
        let endpoint = self.agent.endpoint(card);
        let kept = self.agent.availability.kept.get();
        if kept.rule.is_none() {
            let row = match self.row.filter(|(of, _)| *of == term) {
                Some((_, row)) => row,
                None => {
                    let row = write_term_row(&endpoint, term, &cell, kept.copy, STATEMENT_TIMEOUT).await?;
                    self.row = Some((term, row));
                    row
                }
            };
            let Some(rule) = record.rule() else { return Ok(false) };
            let leading = Leading {
                term,
                row: Some(row),
                established: false,
                rule: rule.number,
                settled: false,
                canary: CanaryState::AwaitsQuorum { since: Duration::ZERO },
            };
            let flushed =
                look.standbys.iter().filter_map(|(name, lsn)| Some((copy_of(name)?, *lsn))).collect();
            if let Gate::Open { .. } = gate(Rules::SAFE, &cell, &leading, rule, &flushed) {
                self.let_through(card, database, rule)?;
                tracing::info!(%term, rule = rule.number, "the term is established: commits are acknowledged");
            }
            return Ok(true);
        }
        if let Some(rule) = rule_to_hold(facts, record) {
            tracing::info!(rule = rule.number, cohort = ?rule.cohort, k = rule.k, "commits go by another rule");
            self.let_through(card, database, rule)?;
        }
        if self.canary.as_ref().is_none_or(|(of, _)| *of != term) {
            self.canary = Some((term, Canary::start(endpoint)));
        }
        self.apply(card, database)
    }

    /// Keeps that a term is begun with the present copy. It is a promise, too.
    fn begin_term(&mut self, term: Term) -> Result<(), RoundError> {
        self.agent.availability.kept.update(|kept| {
            kept.promised = kept.promised.max(term);
            kept.begun = Some((term, kept.copy));
            kept.rule = None;
        })?;
        (self.row, self.canary) = (None, None);
        Ok(())
    }

    fn let_through(&mut self, card: &Pooler, database: &Database, rule: &Rule) -> Result<(), RoundError> {
        self.agent.availability.kept.update(|kept| kept.rule = Some(rule.clone()))?;
        self.apply(card, database)?;
        Ok(())
    }

    /// Brings PostgreSQL's settings up to date; true when they changed.
    fn apply(&mut self, card: &Pooler, database: &Database) -> Result<bool, RoundError> {
        let config = instance_config(&self.agent, database, card, self.agent.leader().as_ref())?;
        let data = Path::new(&card.data_directory);
        let changed = configure(data, &config)?;
        if changed {
            self.reloaded = clock::uptime();
            self.quiet_looks = 0;
            // One that does not run reads them when it starts.
            if running(data)?.is_some() {
                reload(data)?;
            }
        }
        Ok(changed)
    }
}

/// Whether the data directory is a standby's.
fn is_standby(agent: &Agent) -> bool {
    agent.layout.data().join("standby.signal").exists()
}
