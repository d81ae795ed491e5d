//! Logical slots that outlive a change of the primary (PostgreSQL 17 on): when a standby synchronises them.
//!
//! It streams with its physical slot then, which PostgreSQL demands. While an old connection holds that slot the primary refuses a
//! new one, as one that has no such slot yet does; without a slot both let it stream. So it takes its slot only once it has
//! streamed steadily from a primary that has failover slots, and gives it up as soon as it does not stream: what it has
//! synchronised stays.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use cellar_model::{CellName, LogicalSlot, PoolerStatus, Role};

/// How long a standby streams over one connection before it takes its slot. A new primary makes slots within that.
const STEADY: Duration = Duration::from_secs(12);

/// How long it streams without its slot after a connection with it was lost: the primary has noticed that, too.
const AFTER_LOSS: Duration = Duration::from_secs(30);

/// The most that becomes of that, doubled with each loss: a standby may be refused because the primary has no room for its slot.
const MAX_AFTER_LOSS: Duration = Duration::from_secs(3600);

/// A connection that lasted for so long was no refused one.
const LASTED: Duration = Duration::from_secs(600);

/// How long its WAL receiver may need to stream again once it is told of its slot. It is milliseconds.
const TAKING: Duration = Duration::from_secs(2);

/// How long a primary says that it has no failover slots any more before a standby gives its slot up. That ends a stream, which
/// must not be while a primary is stopped: its standbys get its last WAL over it.
const WITHOUT_SLOTS: Duration = Duration::from_secs(60);

/// What the parts of the agent tell each other about it.
#[derive(Debug, Default)]
pub(crate) struct SlotSync {
    /// The primary from which this standby synchronises slots.
    pub(crate) from: RefCell<Option<CellName>>,
    /// Of a primary: the standbys whose slots say what they have, by their names. None before it was looked at.
    pub(crate) with_slots: RefCell<Option<BTreeSet<String>>>,
}

/// The stream that a standby has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    /// From whom.
    pub(crate) from: CellName,
    /// Its WAL receiver's process, another one with each connection.
    pub(crate) receiver: i32,
}

/// Decides from look to look.
#[derive(Debug, Default)]
pub(crate) struct Attachment {
    /// The stream of the last look, and since when there is that one.
    stream: Option<(Stream, Duration)>,
    /// From whom slots are synchronised, and since when that is decided.
    from: Option<(CellName, Duration)>,
    /// Since when its primary says that it has no failover slots.
    without_slots: Option<Duration>,
    /// To whom a connection was lost that used the slot, and when it is used again.
    lost: Option<(CellName, Duration)>,
    /// How long it was not used after the last loss; none after a connection that lasted.
    pause: Option<Duration>,
}

impl Attachment {
    /// The primary from which slots are to be synchronised now. `has_failover_slots` is whether that of the stream has some, or this
    /// standby copies; none while that is not known, or about to be over. `now` rises from look to look.
    pub(crate) fn look(
        &mut self,
        stream: Option<Stream>,
        has_failover_slots: Option<bool>,
        now: Duration,
    ) -> Option<&CellName> {
        let since = match &self.stream {
            Some((before, since)) if Some(before) == stream.as_ref() => *since,
            _ => now,
        };
        self.stream = stream.map(|stream| (stream, since));
        let streams = self.stream.as_ref().map(|(stream, _)| &stream.from);
        let without = (has_failover_slots == Some(false)).then(|| self.without_slots.unwrap_or(now));
        self.without_slots = without;
        let has_none = without.is_some_and(|since| now.saturating_sub(since) >= WITHOUT_SLOTS);
        self.from = match self.from.take() {
            Some((from, begun)) if streams == Some(&from) && !has_none => Some((from, begun)),
            // Its receiver has just been started again, so that it uses the slot.
            Some((from, begun)) if streams.is_none() && now.saturating_sub(begun) < TAKING => {
                Some((from, begun))
            }
            Some((from, begun)) => {
                let pause = self.pause.filter(|_| now.saturating_sub(begun) < LASTED);
                let pause = pause.map_or(AFTER_LOSS, |pause| (pause * 2).min(MAX_AFTER_LOSS));
                self.lost = streams.is_none().then_some((from, now + pause));
                self.pause = self.lost.is_some().then_some(pause);
                None
            }
            None => {
                let wait = |from: &CellName| match &self.lost {
                    Some((of, until)) if of == from => *until,
                    _ => Duration::ZERO,
                };
                let is_due = |from: &&CellName| now >= (since + STEADY).max(wait(from));
                streams
                    .filter(is_due)
                    .filter(|_| has_failover_slots == Some(true))
                    .map(|from| (from.clone(), now))
            }
        };
        self.from.as_ref().map(|(from, _)| from)
    }
}

/// The failover slots that a primary says it has; none while it says nothing of the kind.
pub(crate) fn failover_slots(status: Option<&PoolerStatus>) -> Option<BTreeSet<String>> {
    let status = status.filter(|status| status.role == Role::Primary)?;
    let slots = status.logical_slots.iter().filter(|slot| is_failover_slot(slot));
    Some(slots.map(|slot| slot.name.clone()).collect())
}

/// Whether standbys are to have copies of a slot that can still be used.
pub(crate) fn is_failover_slot(slot: &LogicalSlot) -> bool {
    slot.failover && !slot.lost
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(from: &str, receiver: i32) -> Option<Stream> {
        Some(Stream { from: from.parse().unwrap(), receiver })
    }

    /// Looks every second; the times at which slots were synchronised.
    fn looks(looks: &[(Option<Stream>, Option<bool>)]) -> Vec<usize> {
        let mut attachment = Attachment::default();
        let all = looks.iter().enumerate().filter(|(at, (stream, has))| {
            attachment.look(stream.clone(), *has, Duration::from_secs(*at as u64)).is_some()
        });
        all.map(|(at, _)| at).collect()
    }

    #[test]
    fn a_slot_is_taken_by_who_streams_steadily() {
        let one = stream("zone1", 7);
        assert_eq!(looks(&vec![(one.clone(), Some(true)); 14]), [12, 13]);
        assert!(looks(&vec![(one.clone(), Some(false)); 14]).is_empty(), "nothing to synchronise");
        assert!(looks(&vec![(None, Some(true)); 14]).is_empty());
        let mut again = vec![(one.clone(), Some(true)); 8];
        again.extend(vec![(stream("zone1", 8), Some(true)); 12]);
        assert!(looks(&again).is_empty(), "a new connection begins anew");
    }

    #[test]
    fn a_slot_is_given_up_by_who_does_not_stream() {
        let begun = vec![(stream("zone1", 7), Some(true)); 13];
        let then = |more: &[(Option<Stream>, Option<bool>)]| {
            let mut all = begun.clone();
            all.extend_from_slice(more);
            looks(&all).into_iter().filter(|at| *at > 12).collect::<Vec<_>>()
        };
        let (none, own) = ((None, Some(true)), (stream("zone1", 8), Some(true)));
        assert_eq!(then(&[none.clone(), own.clone(), own.clone()]), [13, 14, 15], "it takes its slot");
        assert_eq!(then(&[none.clone(), none.clone(), own.clone()]), [13], "it is kept out");
        let mut back = vec![none.clone(); 2];
        back.extend(vec![own.clone(); 40]);
        assert_eq!(then(&back)[..2], [13, 44], "and tries again once its primary has noticed");
        let refused = [&back[..32]; 4].concat();
        assert_eq!(then(&refused), [13, 44, 45, 106, 107, 108], "and then less often");
        assert_eq!(then(&[own.clone(), own.clone(), none.clone(), own.clone()]), [13, 14], "it was cut off");
        assert_eq!(then(&[(stream("zone2", 9), Some(true)), own.clone()]), [0; 0], "another primary");
        let stopped = (stream("zone1", 8), None);
        assert_eq!(then(&vec![stopped.clone(); 90]).len(), 90, "its primary stops: it gets the last of it");
        let none_left = vec![(stream("zone1", 8), Some(false)); 90];
        assert_eq!(then(&none_left).len(), 60, "its primary has none any more");
        assert!(looks(&vec![stopped; 90]).is_empty(), "nor does it take its slot then");
    }
}
