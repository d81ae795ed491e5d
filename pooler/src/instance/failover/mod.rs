//! Quorum commit and failover, on the side of one member.
//!
//! Members act by the record that multiadmin writes, and by what they keep durably themselves. What may be done is decided
//! in [`cellar_model::availability`]; here it is looked at and done. Nothing of this runs for a database without quorum commit.
//!
//! | file | what is in it |
//! |---|---|
//! | `member` | the loop that looks and reports |
//! | `server` | what all that needs of the host: PostgreSQL, its files, the other parts of the process |
//! | `act` | what is done by the record |
//! | `branch` | whether what a member has is the leader's, too |
//! | `hold_clients` | has the clients of PgBouncer wait before a planned stop |
//! | `heartbeat` | whether the leader's multipooler answers |
//! | `canary` | a commit a second that waits for the quorum |
//! | `leaving` | the request that another cell shall lead, before the host stops |
//! | `planned_move` | the stop of a primary that makes room for another one |

mod act;
mod branch;
pub(crate) mod canary;
mod heartbeat;
mod hold_clients;
mod leaving;
pub(crate) mod member;
mod planned_move;
pub(crate) mod server;

use std::rc::Rc;

use cellar_model::Leadership;

use crate::agent::Agent;

/// Looks and acts while the database has quorum commit. Never returns.
pub(crate) async fn run(agent: Rc<Agent>) {
    if let Err(error) = leaving::forget(&agent) {
        tracing::warn!(%error, "an old request to hand over cannot be removed");
    }
    member::run(Rc::new(server::Host::new(agent))).await;
}

/// Whether this member's data is that of the leader, by what it began last.
pub(crate) fn is_led_here(agent: &Agent, leadership: &Leadership) -> bool {
    leadership.is_led_by(&agent.cell, agent.availability.kept.own_term())
}
