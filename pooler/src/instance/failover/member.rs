//! The loop of a member: it looks at its own instance and at the leader, reports, and does what the record asks of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::availability::{
    Canary as CanaryState, Facts, Instance, Leading, Link, Rules, Sight, Stop, Timing, may_replace_data,
};
use cellar_model::{Database, Durability, Leadership, Lsn, Phase, Pooler, Position, Term, Timeline};
use cellar_postgres::{MemberLook, PostgresError, ShownSettings};
use cellar_system::clock;

use crate::availability::Report;
use crate::availability::settings::copy_of;
use crate::instance::failover::canary::Canary;
use crate::instance::failover::heartbeat::{self, Shared};
use crate::instance::failover::server::Server;

/// The time between two looks while all is well.
const INTERVAL: Duration = Duration::from_millis(200);

/// The time between two looks while a leader is being replaced.
const SOON_INTERVAL: Duration = Duration::from_millis(50);

/// `too_many_connections` of PostgreSQL.
const TOO_MANY_CONNECTIONS: &str = "53300";

/// A former primary that does not start as a standby within this cannot: it begins again every few seconds.
pub(super) const CANNOT_START_AFTER: Duration = Duration::from_secs(120);

/// How long an instance that ended is given to come back: the supervisor starts it within a second, and it recovers.
const RESTART_BUDGET: Duration = Duration::from_secs(10);

/// An instance that ends so often within so long comes up only to end again: it is not waited for.
const MANY_ENDS: (usize, Duration) = (3, Duration::from_secs(60));

/// A postmaster that is stopped for this long lets nobody in, and its sessions go on: it is killed, and recovers. Somebody who
/// looks at it with a debugger pauses the database before.
const STOPPED_FOR: Duration = Duration::from_secs(2);

/// After a reload, PostgreSQL's processes take new settings within some 10 ms; on a busy host later.
const RELOAD_TIME: Duration = Duration::from_millis(200);

/// One member, from round to round.
pub(super) struct Member<S: Server> {
    pub(super) server: Rc<S>,
    pub(super) heard: Shared,
    pub(super) canary: Option<(Term, Canary)>,
    /// Where the row of the term ends that was begun here.
    pub(super) row: Option<(Term, Lsn)>,
    /// What comes before a planned stop, and whether the stop may follow: a checkpoint, which makes it the shorter, and that clients
    /// are held.
    pub(super) prepares: Option<tokio::task::JoinHandle<bool>>,
    /// Since when this primary makes room for another one.
    pub(super) hands_over_since: Option<Duration>,
    /// The record whose move came to no end: this primary does not stop for it again.
    pub(super) given_up: Option<Leadership>,
    /// What PostgreSQL was last told; none before that.
    pub(super) told: Option<ShownSettings>,
    /// The configuration that was written last, and when, by [`clock::uptime`].
    pub(super) written: Option<(S::Config, Duration)>,
    /// Since when PostgreSQL shows that, by [`clock::uptime`].
    pub(super) shown: Option<Duration>,
    /// When the settings were last changed, by [`clock::uptime`].
    pub(super) reloaded: Duration,
    /// Looks in a row that found all replayed, nobody streaming to here, and the same position.
    pub(super) quiet_looks: u32,
    last_lsn: Option<Lsn>,
    /// When new WAL last came in.
    new_wal: Option<Duration>,
    /// When the walreceiver last heard something.
    stream_heard: Option<Duration>,
    /// Since when the instance answers: one that starts has not heard of the leader yet, and that shows nothing.
    answers_since: Option<Duration>,
    /// Since when the instance does not run, or no probe reached it.
    pub(super) down_since: Option<Duration>,
    /// There is no postmaster.
    has_ended: bool,
    frozen_since: Option<Duration>,
    /// Since when the postmaster is stopped by a signal.
    stopped_since: Option<Duration>,
    /// All connections are taken, those for superusers too.
    saturated: bool,
    /// Since when it runs as a primary.
    leads_since: Option<Duration>,
    /// When a canary was last sent.
    had_canary: Option<Duration>,
    /// When the instance ended, of late.
    ends: Vec<Duration>,
    /// When etcd was last heard of.
    pub(super) etcd_heard: Duration,
    /// The term that it was appointed for and cannot take.
    pub(super) cannot_lead: Option<Term>,
    /// The history of the timeline that this primary is on.
    pub(super) history: Option<(Timeline, String)>,
    /// The host is about to stop: another member shall lead.
    leaves: bool,
    last_error: String,
}

/// Looks and acts while the database has quorum commit. Never returns.
pub async fn run<S: Server>(server: Rc<S>) {
    let heard: Shared = Rc::new(RefCell::new(None));
    let _listening =
        AbortOnDrop(tokio::task::spawn_local(heartbeat::listen(Rc::clone(&server), Rc::clone(&heard))));
    let mut topology = server.process().mirror.changes();
    let mut member = Member::new(Rc::clone(&server), heard);
    loop {
        topology.borrow_and_update();
        member.leaves = server.is_leaving();
        let pause = match server.assignment() {
            Some((card, database)) if database.durability == Durability::Quorum => {
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

impl<S: Server> Member<S> {
    fn new(server: Rc<S>, heard: Shared) -> Self {
        let now = clock::uptime();
        Self {
            server,
            heard,
            canary: None,
            row: None,
            prepares: None,
            hands_over_since: None,
            given_up: None,
            told: None,
            written: None,
            shown: None,
            reloaded: now,
            quiet_looks: 0,
            last_lsn: None,
            new_wal: None,
            stream_heard: None,
            answers_since: None,
            down_since: None,
            has_ended: false,
            frozen_since: None,
            stopped_since: None,
            saturated: false,
            leads_since: None,
            had_canary: None,
            ends: Vec::new(),
            etcd_heard: now,
            cannot_lead: None,
            history: None,
            leaves: false,
            last_error: String::new(),
        }
    }

    /// The database has no quorum commit.
    fn forget(&mut self) {
        let server = Rc::clone(&self.server);
        let availability = server.availability();
        availability.report.replace(None);
        let stop = self.server.deposed_by().map(Stop::Deposed);
        if availability.stop.replace(stop) != stop {
            self.server.wake_supervisor();
        }
        availability.frozen.set(false);
        availability.isolated.set(false);
        availability.may_replace.set(true);
        availability.replace.set(false);
        (self.canary, self.row) = (None, None);
        self.end_move();
    }

    /// Looks, reports and acts once. Returns the pause until the next round.
    async fn round(&mut self, card: &Pooler, database: &Database) -> Duration {
        // A copy whose number is forgotten must not be counted on.
        if let Err(error) = self.server.availability().kept.save() {
            tracing::warn!(%error, "what this member must not forget cannot be written: it takes no part");
            self.server.availability().report.replace(None);
            return Duration::from_secs(1);
        }
        let record = self.server.process().governing();
        self.note_etcd();
        let is_asked = self.look_at_move(record.as_ref());
        let look = self.look(card).await;
        let facts = self.facts(look.as_ref(), record.as_ref());
        let (timeline, identity) = look
            .as_ref()
            .map_or((0, String::new()), |look| (look.timeline.get(), look.system_identifier.to_string()));
        let history = look
            .as_ref()
            .filter(|look| look.is_primary)
            .map_or_else(String::new, |look| self.history_of(look.timeline));
        let server = Rc::clone(&self.server);
        let availability = server.availability();
        let leader = self.heard.borrow().as_ref().and_then(heartbeat::Heard::facts);
        // What it said a while ago may be long over.
        let leader = leader.filter(|facts| facts.age <= Timing::default().fresh);
        let may_replace = record.as_ref().is_none_or(|record| {
            may_replace_data(Rules::SAFE, &self.server.process().cell, &facts, record, leader.as_ref())
                .is_ok()
        });
        availability.may_replace.set(may_replace);
        let line = record.as_ref().and_then(|record| self.lineage_of_leader(record));
        availability.leaders_line.replace(line);
        availability.report.replace(Some(Report {
            at: clock::uptime(),
            history,
            facts: facts.clone(),
            timeline,
            system_identifier: identity,
            next_xid: look.as_ref().and_then(|look| look.next_xid),
            last_commit: look.as_ref().and_then(|look| look.last_commit),
        }));
        let is_restored = self.is_being_restored();
        // A job that has the instance, or a restore of the database, decides alone.
        let acts = !self.server.is_held() && !is_restored;
        let is_standbys = look.as_ref().map_or_else(|| self.server.is_standby(), |look| !look.is_primary);
        if is_standbys && !availability.wants_replacing.get() {
            let is_free = database.pause.is_none() && record.is_some();
            let replace = acts && facts.needs_replacing && may_replace && is_free;
            if replace && !availability.replace.replace(replace) {
                tracing::warn!("this standby cannot follow the leader and is made again");
                self.server.wake_supervisor();
            }
            // One that was stopped to be made again is not looked at any more.
            if look.is_some() {
                availability.replace.set(replace);
            }
        }
        let is_isolated = facts.leads.is_some_and(|leads| {
            matches!(leads.canary, CanaryState::AwaitsQuorum { since } if since >= Timing::default().frozen)
        });
        if availability.isolated.replace(is_isolated) != is_isolated {
            self.server.report_isolation();
        }
        let stopped_for =
            self.stopped_since.map_or(Duration::ZERO, |since| clock::uptime().saturating_sub(since));
        let is_frozen = acts && database.pause.is_none() && record.is_some() && stopped_for >= STOPPED_FOR;
        if self.stopped_since.is_none() {
            // It goes on. A standby, which is not killed for it, may be promoted then.
            availability.frozen.set(false);
        }
        if is_frozen && !availability.frozen.replace(is_frozen) {
            tracing::error!("the postmaster is stopped and lets nobody in: it is killed and started again");
            self.server.wake_supervisor();
        }
        let mut busy = false;
        if let (Some(record), true) = (&record, acts) {
            let acted = match &look {
                Some(look) => self.act(card, database, record, &facts, look).await,
                // One that has only been restored takes no session before it has the WAL that it needs.
                None if self.server.is_standby() && !self.server.is_seeding() => {
                    self.follow(card, database, record, &facts, None).await
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
        if busy || !is_steady || is_asked { SOON_INTERVAL } else { INTERVAL }
    }

    fn is_being_restored(&self) -> bool {
        let process = self.server.process();
        process.mirror.view().incarnation(&process.database).fence.is_some()
    }

    fn note_etcd(&mut self) {
        let lease = &self.server.process().lease;
        let renewed = lease.current().and_then(|held| lease.renewed(held));
        self.etcd_heard = self.etcd_heard.max(renewed.unwrap_or_default());
    }

    /// Looks at the instance; none when it does not run or does not answer.
    async fn look(&mut self, card: &Pooler) -> Option<MemberLook> {
        let now = clock::uptime();
        if self.server.stopped_postmaster(card).is_none() {
            if self.down_since.is_none() {
                self.server.wake_supervisor();
            }
            // A job that stops it means it.
            if !self.has_ended && !self.server.is_held() {
                self.ends.retain(|at| now.saturating_sub(*at) < MANY_ENDS.1);
                self.ends.push(now);
            }
            (self.down_since, self.has_ended) = (self.down_since.or(Some(now)), true);
            (self.frozen_since, self.stopped_since, self.answers_since) = (None, None, None);
            self.canary = None;
            (self.quiet_looks, self.last_lsn, self.shown) = (0, None, None);
            return None;
        }
        self.has_ended = false;
        let answer = self.server.look(card).await;
        let is_stopped = self.server.stopped_postmaster(card) == Some(true);
        self.saturated = false;
        self.stopped_since = self.stopped_since.filter(|_| is_stopped).or(is_stopped.then_some(now));
        match answer {
            Ok(look) if !is_stopped => {
                (self.down_since, self.frozen_since) = (None, None);
                self.answers_since = self.answers_since.or(Some(now));
                self.note_wal(&look);
                Some(look)
            }
            // It answers: what a probe of before did not get is no sign of a frozen one.
            Err(PostgresError::NotReady(_) | PostgresError::NotRunning(_)) => {
                (self.down_since, self.frozen_since) = (self.down_since.or(Some(now)), None);
                self.answers_since = None;
                None
            }
            Err(PostgresError::Sql { code, .. }) if code == TOO_MANY_CONNECTIONS => {
                (self.saturated, self.frozen_since) = (true, None);
                None
            }
            _ => {
                self.frozen_since = self.frozen_since.or(Some(now));
                None
            }
        }
    }

    /// Whether PostgreSQL has shown for a while that it has the settings that it was told: its processes have them then.
    fn are_in_force(&self, now: Duration) -> bool {
        self.shown.is_some_and(|since| now.saturating_sub(since.max(self.reloaded)) >= RELOAD_TIME)
    }

    fn note_wal(&mut self, look: &MemberLook) {
        let now = clock::uptime();
        let is_shown = self.told.as_ref() == Some(&look.settings);
        self.shown = self.shown.filter(|_| is_shown).or(is_shown.then_some(now));
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
            && self.are_in_force(now);
        self.quiet_looks = if is_quiet { self.quiet_looks.saturating_add(1) } else { 0 };
        self.last_lsn = Some(look.lsn);
    }

    /// How often the instance ended of late.
    fn recent_ends(&self, now: Duration) -> usize {
        self.ends.iter().filter(|at| now.saturating_sub(**at) < MANY_ENDS.1).count()
    }

    fn instance(&self) -> Instance {
        let now = clock::uptime();
        // While it shuts down it still writes, and its standbys must get all of that.
        if self.server.availability().hands_over.get() && self.has_ended {
            return Instance::Stopped;
        }
        match (self.frozen_since, self.down_since) {
            (Some(since), _) => Instance::Frozen { since: now.saturating_sub(since) },
            (None, Some(since))
                if now.saturating_sub(since) < RESTART_BUDGET && self.recent_ends(now) < MANY_ENDS.0 =>
            {
                Instance::Restarting
            }
            (None, Some(_)) => Instance::Gone,
            (None, None) if self.saturated => Instance::Saturated,
            (None, None) => Instance::Runs,
        }
    }

    fn facts(&mut self, look: Option<&MemberLook>, record: Option<&Leadership>) -> Facts {
        let kept = self.server.availability().kept.get();
        let own_term = self.server.availability().kept.own_term();
        let position = |look: &MemberLook| Position { term: look.term, lsn: look.lsn };
        let none = Position { term: Term::default(), lsn: Lsn::new(0) };
        let is_primary = look.is_some_and(|look| look.is_primary);
        self.leads_since = self.leads_since.filter(|_| is_primary).or(is_primary.then(clock::uptime));
        self.had_canary = self.canary.as_ref().map(|_| clock::uptime()).or(self.had_canary);
        let leads = look.filter(|look| look.is_primary).map(|look| {
            let term = own_term.unwrap_or_default();
            let is_open = kept.rule.is_some();
            let canary = match &self.canary {
                Some((_, canary)) => canary.state(look.canary_waits),
                // Its row waits for the quorum, or is not written yet.
                None => CanaryState::AwaitsQuorum { since: self.quorum_age() },
            };
            let in_force = self.shown.map(|since| since.max(self.reloaded) + RELOAD_TIME);
            let commits =
                |since| self.canary.as_ref().is_some_and(|(_, canary)| canary.committed_since(since));
            // What each WAL sender itself goes by.
            let goes_by_rule = kept.rule.as_ref().is_some_and(|rule| {
                look.standbys.iter().all(|standby| {
                    let counts = copy_of(&standby.name).is_some_and(|(cell, copy)| rule.has(&cell, copy));
                    counts == standby.acknowledges
                })
            });
            let settled = goes_by_rule && in_force.is_some_and(commits);
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
            self.server.process().cell_at(host, *port)
        });
        // What may still come in is not final. An instance that does not answer may have more than is known.
        let receives = match look {
            Some(look) if look.is_primary => false,
            Some(_) => self.quiet_looks < 2,
            None => true,
        };
        let led_elsewhere = record.filter(|record| record.cell != self.server.process().cell);
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
            leaves: self.leaves,
            cannot_lead: record.is_some_and(|record| self.cannot_lead == Some(record.term)),
        }
    }

    /// How long ago this primary last had its quorum, at least: one without a canary has led, or lost it, for that long.
    pub(super) fn quorum_age(&self) -> Duration {
        if let Some((_, canary)) = &self.canary {
            return canary.quorum_age();
        }
        let since = self.leads_since.max(self.had_canary);
        since.map_or(Duration::ZERO, |since| clock::uptime().saturating_sub(since))
    }

    /// What it sees of the leader; none when it has not looked.
    fn sight(&self, look: Option<&MemberLook>, record: &Leadership) -> Option<Sight> {
        let now = clock::uptime();
        let heard = self.heard.borrow();
        let heard = heard.as_ref().filter(|heard| heard.of == record.cell)?;
        let streams = look.and_then(|look| look.receiver.as_ref()).is_some_and(|receiver| receiver.streams);
        let last = now.saturating_sub(self.stream_heard.max(self.answers_since).unwrap_or(now));
        Some(Sight {
            of: record.cell.clone(),
            stream: match look {
                Some(_) if streams => Link::Heard { ago: last },
                Some(_) => Link::Silent { since: last },
                // One whose own PostgreSQL does not answer has not looked.
                None => Link::Silent { since: Duration::ZERO },
            },
            new_wal: self.new_wal.map(|at| now.saturating_sub(at)),
            pooler: heard.link(),
            refused: heard.is_refused(),
        })
    }
}
