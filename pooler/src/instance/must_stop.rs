//! Whether a running instance must be stopped, because a restore of the database says so.

use std::path::Path;
use std::time::Duration;

use cellar_model::Role;
use cellar_postgres::StopTimeouts;

use crate::agent::Agent;
use crate::instance::incarnation::{self, Standing};

/// How much longer the shutdown of a standby may take while it writes its restartpoint. The new primary waits for it.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the clean stop before a planned move may take. A checkpoint came just before it, so its own one is short; with that
/// and with holding clients it ends before multiadmin gives the move up.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// How to stop the instance of `data`; none when it may run.
///
/// An instance that does not answer may accept writes all the same, so the files decide. But one that was seen as a
/// primary is one, whatever file lies there: PostgreSQL looks at it only when it starts.
pub(crate) fn must_stop(agent: &Agent, data: &Path) -> Option<StopTimeouts> {
    if agent.availability.stop.get().is_some() && !data.join("standby.signal").exists() {
        // Nothing of it is acknowledged, and what it would archive is another's by now.
        return Some(StopTimeouts::immediate());
    }
    if agent.availability.frozen.get() && !data.join("standby.signal").exists() {
        // Whoever is stopped takes no signal but this.
        return Some(StopTimeouts { immediate: Duration::ZERO, ..StopTimeouts::immediate() });
    }
    if agent.availability.hands_over.get() && !data.join("standby.signal").exists() {
        // It ends when its standbys have everything.
        return Some(StopTimeouts {
            fast: HANDOVER_TIMEOUT,
            checkpoint: Duration::ZERO,
            ..StopTimeouts::default()
        });
    }
    if agent.availability.replace.get() {
        return Some(StopTimeouts::immediate());
    }
    let is_primary = agent.facts.borrow().as_ref().is_some_and(|facts| facts.role == Role::Primary);
    let recovers = !is_primary && data.join("standby.signal").exists();
    let Ok(standing) = incarnation::standing(agent, data) else {
        // A fence stops every primary. Nothing else is stopped for what is not known.
        let is_fenced = incarnation::record(agent).fence.is_some();
        return (is_fenced && !recovers).then(StopTimeouts::default);
    };
    let replaced = || incarnation::successor(agent).is_some();
    decide(standing, recovers, replaced)
}

/// `recovers` says that the data is a standby's, `replaced` that a copy waits to take the data's place.
fn decide(standing: Standing, recovers: bool, replaced: impl FnOnce() -> bool) -> Option<StopTimeouts> {
    if !standing.current {
        let reseeds = standing.left_alone && !standing.fenced;
        // An old standby may be read until it is replaced or restored again.
        if !recovers || reseeds || replaced() {
            tracing::warn!(recovers, reseeds, "this data is from before a restore: stopping PostgreSQL");
            if recovers && !reseeds {
                // It is kept for a rollback, and archives nothing. A clean shutdown writes how far it has come.
                return Some(StopTimeouts { checkpoint: CHECKPOINT_TIMEOUT, ..StopTimeouts::default() });
            }
            // What it would archive now does not belong to the database any more.
            return Some(StopTimeouts::immediate());
        }
    } else if standing.fenced && !recovers {
        tracing::info!("a restore has fenced the database: stopping PostgreSQL");
        // A clean shutdown archives everything that the primary acknowledged.
        return Some(StopTimeouts::default());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(current: bool, fenced: bool, left_alone: bool) -> Standing {
        Standing { current, fenced, left_alone }
    }

    #[test]
    fn a_fenced_primary_is_stopped_cleanly_and_a_fenced_standby_runs() {
        let fenced = standing(true, true, false);
        assert_eq!(decide(fenced, false, || false), Some(StopTimeouts::default()));
        assert_eq!(decide(fenced, true, || false), None);
        assert_eq!(decide(standing(true, false, true), false, || true), None);
    }

    #[test]
    fn data_from_before_a_restore_runs_only_as_a_standby_until_it_is_replaced() {
        let at_once = Some(StopTimeouts::immediate());
        assert_eq!(decide(standing(false, false, false), false, || false), at_once);
        assert_eq!(decide(standing(false, false, false), true, || false), None);
        let cleanly = decide(standing(false, false, false), true, || true).unwrap();
        assert!(!cleanly.fast.is_zero(), "it is kept, so it says how far it has come");
        assert_eq!(decide(standing(false, false, true), true, || false), at_once);
        assert_eq!(decide(standing(false, true, true), true, || false), None);
    }
}
