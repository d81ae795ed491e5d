//! What a member does by the record of the leader: promise, follow, promote, acknowledge, stop.

use std::time::Duration;

use cellar_model::availability::{
    Canary as CanaryState, Facts, Gate, Leading, PromiseStep, Refused, Rules, Taking, Timing, Whom,
    following, gate, may_follow, may_promise, may_promote, must_stop, rule_to_hold,
};
use cellar_model::{Database, Leadership, Phase, Pooler, Rule, Term};
use cellar_postgres::{MemberLook, PostgresError};
use cellar_system::clock;

use crate::availability::settings::copy_of;
use crate::config_files::ConfigFileError;
use crate::instance::failover::branch::Branch;
use crate::instance::failover::member::Member;
use crate::instance::failover::server::Server;

/// How often the configuration's files are looked at again while PostgreSQL shows what is in them and nothing else is asked for.
/// The supervisor puts back what somebody changes there.
const FILES_INTERVAL: Duration = Duration::from_secs(5);

/// How many segments a restore command names that it does not find, two for each failover. Those of older failovers have their
/// successors in the archive, which are found first.
const MAX_LEFT_SEGMENTS: usize = 64;

/// Something of a round failed; the next one tries again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActError {
    #[error(transparent)]
    Config(#[from] ConfigFileError),
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    #[error("cannot keep what must not be forgotten: {0}")]
    Kept(#[from] std::io::Error),
}

impl<S: Server> Member<S> {
    /// Does what the record asks for. Whether the next look is due soon.
    pub(super) async fn act(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
        look: &MemberLook,
    ) -> Result<bool, ActError> {
        if look.is_primary {
            return self.act_as_primary(card, database, record, facts, look).await;
        }
        self.server.availability().stop.set(None);
        (self.canary, self.row) = (None, None);
        let cell = self.server.process().cell.clone();
        match may_promise(Rules::SAFE, &cell, facts, record) {
            Ok(PromiseStep::Keep(term)) => {
                tracing::info!(%term, "promises to follow no lower term");
                (self.told, self.shown, self.quiet_looks) = (None, None, 0);
                self.server.availability().kept.update(|kept| kept.promised = term)?;
                self.apply(card, database)?;
                return Ok(true);
            }
            Ok(PromiseStep::StopReceiving) => {
                self.apply(card, database)?;
                if look.replay_paused {
                    self.server.resume_replay(card).await?;
                }
                return Ok(true);
            }
            Ok(PromiseStep::Report(_)) => {
                self.apply(card, database)?;
                return Ok(true);
            }
            Err(_) => {}
        }
        match may_promote(Rules::SAFE, &cell, facts, record) {
            Ok(Taking::Promote(term)) => {
                self.begin_term(term)?;
                self.apply(card, database)?;
                tracing::warn!(%term, position = %facts.position, "this standby is promoted");
                let begun = clock::uptime();
                if let Err(error) = self.server.promote(card).await {
                    self.cannot_lead = Some(record.term);
                    return Err(error.into());
                }
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
        if look.replay_paused && self.server.availability().kept.last_term() != Some(record.held) {
            // Until it has replayed all that it has nobody knows whether it can follow.
            self.server.resume_replay(card).await?;
        }
        self.follow(card, database, record, facts, Some(look)).await
    }

    /// Follows whom the record says, once that is kept. Whether anything changed.
    pub(super) async fn follow(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
        look: Option<&MemberLook>,
    ) -> Result<bool, ActError> {
        let kept = &self.server.availability().kept;
        let leader = match following(&self.server.process().cell, facts, record) {
            Whom::Follow(leader, term) => Some((leader, term)),
            // As it does already, though it may not have kept that.
            Whom::Stay => facts.follows.clone().filter(|(leader, _)| *leader == record.cell),
            Whom::Nobody => None,
        };
        if let Some((leader, term)) = leader
            && may_follow(facts, term).is_ok()
            && kept.get().followed != Some((term, facts.copy))
            && self.is_on_branch(record, look)
            && let Some(left_segments) = self.left_segments(card, record).await?
        {
            tracing::info!(%leader, %term, "follows");
            kept.update(|kept| {
                kept.promised = kept.promised.max(term);
                kept.followed = Some((term, facts.copy));
                kept.left_segments = left_segments;
            })?;
        }
        self.apply(card, database)
    }

    /// The segments that this copy must not take from the archive while it follows the leader, the newest ones; none while the
    /// leader has not said on which line of WAL it leads.
    async fn left_segments(
        &self,
        card: &Pooler,
        record: &Leadership,
    ) -> Result<Option<Vec<String>>, ActError> {
        let Some(lineage) = self.lineage_of_leader(record) else { return Ok(None) };
        let Some(size) = self.server.segment_size(card).await? else { return Ok(None) };
        let mut names: Vec<String> = lineage.left_segments(size).map(|it| size.file_name(it)).collect();
        let old = names.len().saturating_sub(MAX_LEFT_SEGMENTS);
        Ok(Some(names.split_off(old)))
    }

    /// Whether all that this copy has is the leader's, too, as far as that is known.
    fn is_on_branch(&self, record: &Leadership, look: Option<&MemberLook>) -> bool {
        match self.server.availability().kept.last_term() {
            // One that was just made comes from a backup on the primary's way, or from the primary.
            None => true,
            // The same leader all the time. What was led here is not known by that, and nothing while quorum commit has begun anew.
            Some(last)
                if record.since > Term::default()
                    && last >= record.since
                    && self.server.availability().kept.own_term() != Some(last) =>
            {
                true
            }
            Some(_) => look.is_some_and(|look| self.branch(look, record) == Some(Branch::Same)),
        }
    }

    async fn act_as_primary(
        &mut self,
        card: &Pooler,
        database: &Database,
        record: &Leadership,
        facts: &Facts,
        look: &MemberLook,
    ) -> Result<bool, ActError> {
        let cell = self.server.process().cell.clone();
        // First: one that was restored or promoted without quorum commit may have promised as a standby, and has no term yet.
        if let Ok(Taking::Continue(term)) = may_promote(Rules::SAFE, &cell, facts, record) {
            tracing::info!(%term, "this primary goes on under a new term");
            self.begin_term(term)?;
            self.apply(card, database)?;
            return Ok(true);
        }
        let now = clock::uptime();
        let etcd_age = now.saturating_sub(self.etcd_heard);
        let stop = must_stop(&cell, facts, record, etcd_age, self.quorum_age(), &Timing::default());
        if let Some(why) = stop {
            if self.server.availability().stop.replace(Some(why)).is_none() {
                tracing::error!(%why, "this primary stops");
            }
            self.server.wake_supervisor();
            return Ok(true);
        }
        self.server.availability().stop.set(None);
        let Some(term) = self.server.availability().kept.own_term() else { return Ok(true) };
        if !record.is_led_by(&cell, Some(term)) {
            return Ok(true);
        }
        // One that does not stop for it, or not any more, leads as ever.
        let is_given_up = self.given_up.as_ref() == Some(record);
        if record.handover.is_some() && record.phase == Phase::Steady && !is_given_up {
            self.hand_over(card, record).await;
            return Ok(true);
        }
        let kept = self.server.availability().kept.get();
        if kept.rule.is_none() {
            let row = match self.row.filter(|(of, _)| *of == term) {
                Some((_, row)) => row,
                None => {
                    let row = self.server.write_term_row(card, term, kept.copy).await?;
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
                look.standbys.iter().filter_map(|it| Some((copy_of(&it.name)?, it.flushed))).collect();
            if let Gate::Open { .. } = gate(Rules::SAFE, &cell, &leading, rule, &flushed) {
                self.let_through(card, database, rule)?;
                tracing::info!(%term, rule = rule.number, "the term is established: commits are acknowledged");
                // A member that has to be restored needs the segment in which the timeline begins, and the standby's part of it is
                // not served any more: without this it waits for `archive_timeout`.
                self.server.switch_wal(card);
            }
            return Ok(true);
        }
        if let Some(rule) = rule_to_hold(facts, record) {
            tracing::info!(rule = rule.number, cohort = ?rule.cohort, k = rule.k, "commits go by another rule");
            self.let_through(card, database, rule)?;
        }
        if self.canary.as_ref().is_none_or(|(of, _)| *of != term) {
            self.canary = Some((term, self.server.start_canary(card)));
        }
        self.apply(card, database)
    }

    /// Keeps that a term is begun with the present copy. It is a promise, too.
    fn begin_term(&mut self, term: Term) -> Result<(), ActError> {
        self.server.availability().kept.update(|kept| {
            kept.promised = kept.promised.max(term);
            kept.begun = Some((term, kept.copy));
            kept.rule = None;
        })?;
        (self.row, self.canary) = (None, None);
        Ok(())
    }

    fn let_through(&mut self, card: &Pooler, database: &Database, rule: &Rule) -> Result<(), ActError> {
        // Whatever fails below: PostgreSQL is not known to go by the new rule.
        (self.told, self.shown) = (None, None);
        self.server.availability().kept.update(|kept| kept.rule = Some(rule.clone()))?;
        self.apply(card, database)?;
        if let Some(term) = self.server.availability().kept.own_term() {
            self.server.note_established(&self.server.process().cell, term);
        }
        Ok(())
    }

    /// Brings PostgreSQL's settings up to date; true when they changed.
    fn apply(&mut self, card: &Pooler, database: &Database) -> Result<bool, ActError> {
        let config = self.server.config(card, database)?;
        let told = S::shown(&config);
        // Before anything is tried: what follows may fail, and then nothing is known to be in force.
        if self.told.as_ref() != Some(&told) {
            (self.told, self.shown, self.quiet_looks) = (Some(told), None, 0);
        }
        // Five looks a second each read and rendered six files: most of what an idle multipooler did.
        let is_same = |(before, at): &(S::Config, Duration)| {
            *before == config && clock::uptime().saturating_sub(*at) < FILES_INTERVAL
        };
        if self.shown.is_some() && self.written.as_ref().is_some_and(is_same) {
            return Ok(false);
        }
        self.written = None;
        let changed = self.server.configure(card, &config)?;
        if changed {
            self.reloaded = clock::uptime();
            self.quiet_looks = 0;
        }
        self.written = Some((config, clock::uptime()));
        Ok(changed)
    }
}
