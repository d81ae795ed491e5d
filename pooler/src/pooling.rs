//! What the parts of the agent tell each other about the cell's PgBouncer. `services::pgbouncer` runs it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use cellar_model::{CellName, Term};
use tokio::sync::{Notify, watch};

/// How long the transactions that go on may take once clients are held. What takes longer ends with the primary, as it would
/// without PgBouncer: one long transaction must not keep all others waiting, nor hold up a move.
const QUIET_TIMEOUT: Duration = Duration::from_secs(3);

/// What is wanted of PgBouncer beyond what the records say, and how far it is.
#[derive(Debug)]
pub(crate) struct Pooling {
    /// The term whose leader wants clients held.
    asked: Cell<Option<Term>>,
    /// The term for which they are held, with no transaction going on.
    quiet: watch::Sender<Option<Term>>,
    /// Who said last that its term is established, and which.
    established: RefCell<Option<(CellName, Term)>>,
    /// Its files were changed by another part.
    files_changed: Cell<bool>,
    /// Wakes what runs it.
    pub(crate) wake: Notify,
}

impl Default for Pooling {
    fn default() -> Self {
        Self {
            asked: Cell::new(None),
            quiet: watch::Sender::new(None),
            established: RefCell::new(None),
            files_changed: Cell::new(false),
            wake: Notify::new(),
        }
    }
}

impl Pooling {
    /// Has clients held for the leader of that term. Returns whether no transaction goes on any more, within some seconds.
    pub(crate) async fn hold(&self, term: Term) -> bool {
        self.asked.set(Some(term));
        self.wake.notify_one();
        let mut quiet = self.quiet.subscribe();
        let is_quiet = quiet.wait_for(|quiet| *quiet == Some(term));
        matches!(tokio::time::timeout(QUIET_TIMEOUT, is_quiet).await, Ok(Ok(_)))
    }

    /// The term whose leader wants clients held.
    pub(crate) fn asked(&self) -> Option<Term> {
        self.asked.get()
    }

    /// What was asked for is over.
    pub(crate) fn forget(&self) {
        self.asked.set(None);
    }

    /// A member says that its term is established.
    pub(crate) fn note_established(&self, cell: &CellName, term: Term) {
        let is_known = |known: &(CellName, Term)| (&known.0, known.1) == (cell, term);
        if !self.established.borrow().as_ref().is_some_and(is_known) {
            self.established.replace(Some((cell.clone(), term)));
            self.wake.notify_one();
        }
    }

    /// Who said last that its term is established, and which.
    pub(crate) fn established(&self) -> Option<(CellName, Term)> {
        self.established.borrow().clone()
    }

    /// Whether clients are held and no transaction goes on.
    pub(crate) fn set_quiet(&self, is_quiet: bool) {
        let quiet = if is_quiet { self.asked.get() } else { None };
        self.quiet.send_if_modified(|before| std::mem::replace(before, quiet) != quiet);
    }

    /// Its certificates, or whom it lets in, have changed.
    pub(crate) fn read_files_again(&self) {
        self.files_changed.set(true);
        self.wake.notify_one();
    }

    /// Whether they have since this was last called.
    pub(crate) fn take_files_changed(&self) -> bool {
        self.files_changed.replace(false)
    }
}
