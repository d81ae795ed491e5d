//! Who leads a database: the protocol of terms, promises and failover as pure functions.
//!
//! multiadmin calls [`next()`] with what it was told and writes what comes back, guarded by the
//! revision of the record that it read; each multipooler asks the functions of `member`, `data` and `commit` before it follows, promises,
//! promotes, stops, archives, or replaces its data. `crates/availability-check` explores the protocol exhaustively with
//! these same functions; the argument is in `docs/decisions/0053-terms-promises-and-a-model-that-checks-them.md`.
//!
//! | file | what is in it |
//! |---|---|
//! | `facts` | what members report, and everything that a decision looks at |
//! | `evidence` | whether the leader is dead |
//! | `election` | whether the promises are enough, and who wins |
//! | `next` | the next guarded write, with the reason |
//! | `cohort` | the steps in which the cohort changes |
//! | `handover` | whether the primary can be moved, and to whom |
//! | `forced` | a failover that a person asks for |
//! | `member` | what a member may do |
//! | `data` | what a member may do with its data and the archive |
//! | `commit` | what a primary may acknowledge |
//! | `backoff` | how long to wait after a failover that did not hold |
//! | `explain` | what would happen at each loss |
//! | `rules` | the rules that the checker can break |

mod backoff;
mod cohort;
mod commit;
mod data;
mod election;
mod evidence;
mod explain;
mod facts;
mod forced;
mod handover;
mod member;
mod next;
mod rules;
#[cfg(test)]
mod tests;

pub use backoff::{HOLDS_AFTER, backoff};
pub use cohort::Change;
pub use commit::{Gate, gate, rule_to_hold};
pub use data::{Archiving, Replacing, Restarted, may_archive, may_replace_data, may_write_after_restart};
pub use election::{Shortage, enough, needed as promises_needed, winner};
pub use evidence::{Death, NoEvidence, evidence};
pub use explain::{Loss, Outcome, explain};
pub use facts::{Canary, Facts, Instance, Leading, Link, Sight, Timing, View};
pub use forced::{CannotForce, Forced, forced};
pub use handover::{MAX_LAG, NotNow, successor};
pub use member::{
    PromiseStep, Refused, Stop, Taking, Whom, following, may_follow, may_promise, may_promote, must_stop,
};
pub use next::{Decision, Reason, Step, next};
pub use rules::Rules;
