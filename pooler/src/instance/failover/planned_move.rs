//! What a primary does that was asked to make room for another one.

use std::time::Duration;

use cellar_model::{Leadership, Pooler};
use cellar_system::clock;

use crate::instance::failover::member::Member;
use crate::instance::failover::server::Server;

/// A primary that was stopped for a planned move goes on after this, whatever the record says: multiadmin gives the move up after
/// [`cellar_model::availability::Timing::handover`], where it can write that.
const MOVE_TIMEOUT: Duration = Duration::from_secs(40);

impl<S: Server> Member<S> {
    /// A checkpoint first, while sessions go on; then clients are held where that is possible, and the supervisor stops PostgreSQL
    /// cleanly. Without the checkpoint it is not stopped: nobody knows how long its own one would take, and nobody can write meanwhile.
    pub(super) async fn hand_over(&mut self, card: &Pooler, record: &Leadership) {
        if self.server.availability().hands_over.get() {
            self.server.wake_supervisor();
            return;
        }
        match &mut self.prepares {
            None => {
                let before_stop = self.server.before_stop(card, record.term);
                self.prepares = Some(tokio::task::spawn_local(before_stop));
            }
            Some(prepares) if prepares.is_finished() => {
                let is_prepared = prepares.await.unwrap_or(false);
                self.prepares = None;
                if is_prepared {
                    tracing::warn!("this primary stops, so that another one can lead");
                    self.server.availability().hands_over.set(true);
                    self.hands_over_since = Some(clock::uptime());
                    self.server.wake_supervisor();
                } else {
                    tracing::warn!("this primary does not stop for the move: it goes on");
                    self.given_up = Some(record.clone());
                }
            }
            Some(_) => {}
        }
    }

    /// No move goes on here, or none any more: an instance that was stopped for it is started.
    pub(super) fn end_move(&mut self) {
        (self.prepares, self.hands_over_since) = (None, None);
        if self.server.availability().hands_over.replace(false) {
            self.server.wake_supervisor();
        }
    }

    /// Whether a move is asked for. Ends one that is not any more, and one of which nobody says that it is over: without etcd, and
    /// without multiadmin, its primary would stay stopped. It starts as after any restart, and acknowledges what has its quorum.
    pub(super) fn look_at_move(&mut self, record: Option<&Leadership>) -> bool {
        let asked = record.filter(|it| it.cell == self.server.process().cell && it.handover.is_some());
        let since = self.hands_over_since.map(|since| clock::uptime().saturating_sub(since));
        if asked.is_none() {
            self.given_up = None;
            self.end_move();
        } else if since.is_some_and(|since| since >= MOVE_TIMEOUT) {
            tracing::warn!("the move of the primary does not come to an end: this one goes on");
            self.given_up = asked.cloned();
            self.end_move();
        }
        asked.is_some()
    }
}
