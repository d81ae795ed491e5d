//! This process as etcd knows it: what it may write, what it sees, the lease by which others know that it is alive, and
//! its claim on the cell.

#![warn(clippy::disallowed_methods, clippy::disallowed_types)]

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cellar_model::availability::Timing;
use cellar_model::{
    CLAIM_LEASE_SECONDS, CellClaim, CellDecision, CellName, CellScene, DatabaseName, Key, Leader, Leadership,
    OwnClaims, Pooler, decide_cell,
};
use cellar_system::clock;
use cellar_topology::{LeaseKeeper, Mirror, Store, StoreError, Transaction, TxnOutcome};
use serde::{Deserialize, Serialize};

/// The lease to which a status is bound.
const LEASE: Duration = Duration::from_secs(CLAIM_LEASE_SECONDS as u64);

/// One pooler process of one database in one cell.
#[derive(Debug)]
pub struct Member {
    /// The database that it serves.
    pub database: DatabaseName,
    /// The cell that it serves.
    pub cell: CellName,
    /// The id of this run of the process.
    pub epoch: String,
    /// The records in etcd.
    pub store: Store,
    /// This database's part of the topology.
    pub mirror: Mirror,
    /// This process's lease.
    pub lease: LeaseKeeper,
    /// Its claim on the cell.
    pub claim: ClaimOnCell,
}

/// What a process knows of its claim on the cell.
#[derive(Debug)]
pub struct ClaimOnCell {
    /// This machine, for people.
    machine: String,
    /// What this machine remembers.
    own: RefCell<OwnClaims>,
    /// The revision at which the claim was written or last seen; 0 before.
    revision: Cell<i64>,
    /// Since when no other machine's process has reported, by [`clock::uptime`].
    quiet_since: Cell<Duration>,
    /// When this process last looked.
    looked: Cell<Duration>,
    /// Whether one has ever been seen.
    heard: Cell<bool>,
}

impl ClaimOnCell {
    /// Of a process that has not claimed its cell yet, on a machine that remembers this.
    #[must_use]
    pub fn new(machine: String, own: OwnClaims) -> Self {
        Self {
            machine,
            own: RefCell::new(own),
            revision: Cell::new(0),
            quiet_since: Cell::new(clock::uptime()),
            looked: Cell::new(clock::uptime()),
            heard: Cell::new(false),
        }
    }
}

/// What became of an attempt to claim the cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// This process runs the cell.
    Yes,
    /// Another machine's process runs it, or did a moment ago: the one that has this claim, or one that makes none.
    NotYet(Option<CellClaim>),
    /// The records changed at this moment.
    Again,
    /// Another machine has taken it over.
    TakenOver(CellClaim),
}

/// An attempt to claim the cell failed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// etcd did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the machine must remember could not be written.
    #[error("what this machine must remember of its claim cannot be written: {0}")]
    Memory(#[from] std::io::Error),
}

/// Of a status, whose it is.
#[derive(Debug, Serialize, Deserialize)]
struct Reporting {
    epoch: String,
}

impl Member {
    /// Starts a transaction that is committed only while this process has its cell.
    pub fn transaction(&self) -> Transaction<'_> {
        self.store.transaction().expect(&self.claim_key(), self.claim.revision.get())
    }

    /// Whether etcd has confirmed this process's lease, of late: within the time after which a primary without its quorum stops. One
    /// that stopped for that does not start again until then.
    #[must_use]
    pub fn hears_etcd(&self) -> bool {
        let renewed = self.lease.current().and_then(|lease| self.lease.renewed(lease));
        renewed.is_some_and(|at| clock::uptime().saturating_sub(at) < Timing::default().fence_after)
    }

    /// Another pooler's address card.
    #[must_use]
    pub fn card_of(&self, cell: &CellName) -> Option<Pooler> {
        self.mirror.view().poolers.get(&(self.database.clone(), cell.clone())).cloned()
    }

    /// The recorded primary.
    #[must_use]
    pub fn leader(&self) -> Option<Leader> {
        self.mirror.view().leaders.get(&self.database).cloned()
    }

    /// The recorded primary; of a database with quorum commit the member that leads or is to lead, also before its term is
    /// established.
    #[must_use]
    pub fn leading(&self) -> Option<Leader> {
        let leader = self.leader()?;
        let cell = self.governing().map_or_else(|| leader.cell.clone(), |record| record.cell);
        Some(Leader { cell, ..leader })
    }

    /// The record by which this member acts under quorum commit; none while the database has none.
    #[must_use]
    pub fn governing(&self) -> Option<Leadership> {
        let view = self.mirror.view();
        let durability = view.databases.get(&self.database)?.durability;
        let number = view.incarnation(&self.database).number;
        view.leaders.get(&self.database)?.governed_by(durability, number).cloned()
    }

    /// The cell whose PostgreSQL is at this address.
    #[must_use]
    pub fn cell_at(&self, host: &str, port: u16) -> Option<CellName> {
        let view = self.mirror.view();
        view.poolers
            .values()
            .find(|card| card.database == self.database && *card.host == *host && card.postgres_port == port)
            .map(|card| card.cell.clone())
    }

    /// Whether a run of this cell was of a process of this machine.
    pub(crate) fn is_own(&self, epoch: &str) -> bool {
        self.claim.own.borrow().has(epoch)
    }

    fn claim_key(&self) -> Key {
        Key::CellClaim(self.database.clone(), self.cell.clone())
    }

    /// Whether the claim in etcd is another one than this process has last seen: it is gone, or another process's. The
    /// mirror may be behind, so [`Member::claim_cell`] finds out.
    pub(crate) fn is_claim_in_doubt(&self) -> bool {
        self.mirror.view().revision(&self.claim_key()) != self.claim.revision.get()
    }

    fn card_key(&self) -> Key {
        Key::Pooler(self.database.clone(), self.cell.clone())
    }

    /// The revision of the cell's address card as the mirror has it; 0 when there is none.
    pub fn card_revision(&self) -> i64 {
        self.mirror.view().revision(&self.card_key())
    }

    /// Claims the cell for this process, if it may run it and its address card still has this revision. `remember` keeps
    /// durably what it is given.
    ///
    /// # Errors
    /// When etcd does not answer, or the machine cannot remember its claim.
    pub async fn claim_cell(
        &self,
        card_revision: i64,
        remember: impl AsyncFnOnce(&OwnClaims) -> std::io::Result<()>,
    ) -> Result<Claimed, ClaimError> {
        let (key, status) = (self.claim_key(), Key::Status(self.database.clone(), self.cell.clone()));
        let found = self.store.get::<CellClaim>(&key).await?;
        let revision = found.as_ref().map_or(0, |found| found.revision);
        let claim = found.map(|found| found.record);
        if claim.as_ref().is_some_and(|claim| claim.epoch == self.epoch) {
            // An earlier attempt was written and etcd's answer was lost, or etcd was put back.
            self.claim.revision.set(revision);
            return Ok(Claimed::Yes);
        }
        let asked = clock::uptime();
        let reporting = self.store.get::<Reporting>(&status).await?;
        // A status stands for a lease at least, so none is missed between two looks that are no further apart.
        if clock::uptime().saturating_sub(self.claim.looked.replace(asked)) >= LEASE {
            self.claim.quiet_since.set(asked);
        }
        let status_revision = reporting.as_ref().map_or(0, |found| found.revision);
        let reporting = reporting.map(|found| found.record.epoch);
        if reporting.as_ref().is_some_and(|epoch| !self.is_own(epoch)) {
            self.claim.heard.set(true);
            self.claim.quiet_since.set(clock::uptime());
        }
        let decision = decide_cell(CellScene {
            own: &self.claim.own.borrow(),
            claim: claim.as_ref(),
            reporting: reporting.as_deref(),
            quiet: clock::uptime().saturating_sub(self.claim.quiet_since.get()),
            heard: self.claim.heard.get(),
        });
        let number = match (decision, claim) {
            (CellDecision::Claim(number), _) => number,
            (CellDecision::TakenOver(by), _) => {
                let own = OwnClaims { taken_over_by: Some(by.clone()), ..self.claim.own.borrow().clone() };
                if own != *self.claim.own.borrow() {
                    // What cannot be remembered holds up nothing: this machine must give the cell up now.
                    if let Err(error) = remember(&own).await {
                        tracing::warn!(%error, "who has taken the cell over cannot be remembered here");
                    }
                    self.claim.own.replace(own);
                }
                return Ok(Claimed::TakenOver(by));
            }
            (_, claim) => return Ok(Claimed::NotYet(claim.filter(|claim| !self.is_own(&claim.epoch)))),
        };
        let card = self.card_key();
        // First: a claim that was written and is not remembered would be taken for another machine's.
        let own = self.claim.own.borrow().with(number, &self.epoch);
        remember(&own).await?;
        self.claim.own.replace(own);
        let claim = CellClaim { number, epoch: self.epoch.clone(), machine: self.claim.machine.clone() };
        let written = self
            .store
            .transaction()
            .expect(&key, revision)
            .expect(&status, status_revision)
            // A cell that is removed at this moment belongs to nobody.
            .expect(&card, card_revision)
            .put(&key, &claim)
            .commit()
            .await?;
        match written {
            TxnOutcome::Committed(revision) => {
                self.claim.revision.set(revision);
                Ok(Claimed::Yes)
            }
            TxnOutcome::Conflict => Ok(Claimed::Again),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
