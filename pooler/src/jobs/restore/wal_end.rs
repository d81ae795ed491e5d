//! Where the WAL ends that a restore replays when its target does not stop it before.
//!
//! A primary that was stopped cleanly names its last segment. Otherwise the newest segment in the archive says only how far
//! archiving had come: the chosen cell may have received more, and may have replayed it and recycled the files. Then the
//! copy would end early, and look whole.

use std::path::Path;

use cellar_model::{
    Archive, BackupLabel, Code, ForkWithoutFile, JobError, Lineage, Lsn, RecoverParams, Refusal, Segment,
    SegmentSize, Survey, fork_ahead, hint_at_fork,
};
use cellar_postgres::ControlData;

use crate::instance::held_wal::HeldWal;
use crate::jobs::restore::private_instance::PrivateInstance;
use crate::repository::reader::Repo;

/// How far a recovery must come when no target stops it before.
#[derive(Debug, Clone, Copy)]
pub(crate) enum WalEnd {
    /// To the end of this segment: it was archived whole by a primary that was then stopped.
    Whole(u64),
    /// Into this segment, the newest that the archive has.
    Within(u64),
}

impl WalEnd {
    /// Whether a recovery that has come to `at` has come so far.
    pub(super) fn is_reached(self, at: Lsn, size: SegmentSize) -> bool {
        match self {
            Self::Whole(number) => at >= size.start_of(number + 1),
            Self::Within(number) => at > size.start_of(number),
        }
    }
}

/// Where a shutdown's checkpoint ends in its segment: behind the long page header (40 bytes) and one record with PostgreSQL's
/// `CheckPoint`, 114 bytes and padding to 8. On a build where that differs, the restore is refused, and its hint works.
const SHUTDOWN_CHECKPOINT_END: u64 = 40 + 120;

/// A position that a recovery must come to before it may be taken for complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Least {
    /// The position.
    pub(crate) lsn: Lsn,
    /// How it is known.
    why: String,
    /// What to do when the recovery does not come there.
    hint: String,
}

impl Least {
    /// Makes the error of WAL that is missing say what would be lost without it.
    pub(crate) fn explain(&self, error: JobError) -> JobError {
        let message = format!("{}: {}", error.message, self.why);
        JobError { message, hint: self.hint.clone(), ..error }
    }
}

/// Where the WAL ends.
#[derive(Debug, Default)]
pub(super) struct End {
    /// The last segment.
    pub(super) end: Option<WalEnd>,
    /// What the recovery must come to besides.
    pub(super) least: Option<Least>,
    /// The last segment that the cell has received, as far as it is on the way.
    pub(super) received: Option<Segment>,
    /// What the archive has, where the recovery begins from a backup and no primary was stopped.
    pub(super) archive: Option<Archive>,
}

/// How far the WAL must be replayed when the target does not stop it before. `held` is how far the cell has it, where that
/// counts.
///
/// # Errors
/// Refused when PostgreSQL would take the WAL of a timeline that was left for that of the one wanted.
pub(super) async fn wal_end(
    repo: &Repo<'_>,
    copy: &PrivateInstance<'_>,
    params: &RecoverParams,
    held: Option<&HeldWal>,
) -> Result<End, JobError> {
    let size = repo.segment_size();
    let Some(set) = params.set.as_ref().filter(|_| params.kept.is_none()) else {
        // All its WAL is in its own pg_wal.
        return Ok(End::default());
    };
    if let Some(segment) = params.last_segment.as_deref().and_then(|name| size.parse_file_name(name)) {
        return Ok(End { end: Some(WalEnd::Whole(segment.number)), ..End::default() });
    }
    let survey = repo.survey(params.timeline, None).await?;
    let archive = Some(survey.archive.clone());
    let Ok(lineage) = survey.lineage(params.timeline) else { return Ok(End { archive, ..End::default() }) };
    check_fork(&survey, &lineage, copy, params, set)?;
    let end = lineage.newest(&survey.archive).map(WalEnd::Within);
    let received = held.and_then(|held| last_received(held, &lineage, size));
    Ok(End { end, least: least(&survey, &lineage, held), received, archive })
}

fn check_fork(
    survey: &Survey,
    lineage: &Lineage,
    copy: &PrivateInstance<'_>,
    params: &RecoverParams,
    set: &BackupLabel,
) -> Result<(), Refusal> {
    let size = survey.archive.size;
    let set = survey.backups.iter().find(|backup| backup.label == *set);
    let fork = set.and_then(|set| fork_ahead(survey, lineage, &params.target, set.first_segment));
    // The copy looks there, too.
    let has_file = |fork: &ForkWithoutFile| {
        let name = size.file_name(fork.missing);
        let own = params.in_place.then(|| copy.data.join("pg_wal"));
        own.iter().chain(&copy.wal_from).any(|wal: &std::path::PathBuf| wal.join(&name).is_file())
    };
    match fork.filter(|fork| !has_file(fork)) {
        Some(fork) => Err(fork.refusal(size).hint(hint_at_fork(&fork))),
        None => Ok(()),
    }
}

/// What a recovery along this lineage must come to: where the cell's own data files are, if they are on it, and where the
/// timeline was left.
fn least(survey: &Survey, lineage: &Lineage, held: Option<&HeldWal>) -> Option<Least> {
    let held = held.filter(|held| lineage.contains(held.timeline, held.replayed)).map(|held| Least {
        lsn: held.replayed,
        why: format!("this cell's own data has all up to {}, and a copy without it would lack what was committed there", held.replayed),
        hint: "promote this cell's standby instead, which has it: `SELECT pg_promote()` there. What is before the missing segment can be restored with --to-lsn".to_owned(),
    });
    let size = survey.archive.size;
    let left = survey.left_for(lineage.timeline()).map(|(child, at)| Least {
        // A primary that is shut down ends a segment, archives it, and writes its checkpoint alone into the next.
        lsn: if size.offset_of(at) == SHUTDOWN_CHECKPOINT_END {
            size.start_of(size.number_of(at))
        } else {
            at
        },
        why: format!("timeline {} was written up to {at}, where timeline {child} begins", lineage.timeline()),
        hint: format!(
            "timeline {child} has the same up to there: ask for it with `--timeline {child} --to-lsn {at}`"
        ),
    });
    held.into_iter().chain(left).max_by_key(|least| least.lsn)
}

/// The last segment that the cell has received beyond what it has replayed.
fn last_received(held: &HeldWal, lineage: &Lineage, size: SegmentSize) -> Option<Segment> {
    let received = held.received.filter(|received| *received > held.replayed)?;
    let segment = Segment { timeline: held.timeline, number: size.number_before(received) };
    lineage.contains(held.timeline, received).then_some(segment)
}

/// What the recovery of kept data must come to: where its data files are.
pub(super) fn least_of_kept(control: &ControlData) -> Least {
    let lsn = control.min_recovery.max(control.checkpoint);
    Least {
        lsn,
        why: format!("the kept data has all up to {lsn}"),
        hint: "restore to a point in time instead: `cellar restore --to-time`".to_owned(),
    }
}

/// Why a copy that was not given the last segment the cell has received is not complete.
pub(super) fn not_given(segment: Segment, size: SegmentSize, cell: &Path) -> Refusal {
    let name = size.file_name(segment);
    Refusal::new(
        Code::WalMissing,
        format!("the copy has ended before {name}, the last WAL segment that this cell has received (in {})", cell.display()),
    )
    .hint("a segment before it is neither in the archive nor there, or cannot be read: see the job's log; the standby itself may have it: promote it with `SELECT pg_promote()`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_model::{History, Timeline};
    use std::collections::BTreeMap;

    fn survey(histories: &[(u32, &str)]) -> Survey {
        let histories = histories
            .iter()
            .map(|(timeline, text)| (Timeline::new(*timeline), text.parse::<History>().unwrap()))
            .collect();
        Survey {
            system_identifier: None,
            backups: Vec::new(),
            histories,
            archive: Archive::default(),
            archived_at: BTreeMap::new(),
            begun_at: BTreeMap::new(),
            current: Timeline::new(1),
            write_lsn: None,
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn held(timeline: u32, replayed: u64, received: u64) -> HeldWal {
        let received = Some(Lsn::new(received));
        HeldWal { timeline: Timeline::new(timeline), replayed: Lsn::new(replayed), received }
    }

    #[test]
    fn copy_must_come_to_where_the_cells_own_data_is_if_that_is_on_the_way() {
        let survey = survey(&[(2, "1\t0/5000000\tx\n")]);
        let lineage = survey.lineage(Timeline::new(2)).unwrap();
        let at = |held: HeldWal| least(&survey, &lineage, Some(&held)).map(|least| least.lsn.bytes());
        assert_eq!(
            at(held(2, 0x900_0000, 0xA00_0000)),
            Some(0x900_0000),
            "what is replayed, not what is received"
        );
        assert_eq!(at(held(1, 0x400_0000, 0x400_0000)), Some(0x400_0000), "it has not followed yet");
        assert_eq!(at(held(1, 0x600_0000, 0x600_0000)), None, "what the timeline's former primary wrote on");
        assert_eq!(at(held(3, 0x600_0000, 0x600_0000)), None, "another line");
        assert_eq!(least(&survey, &lineage, None), None);
    }

    #[test]
    fn timeline_that_was_left_is_replayed_to_where_it_was_left() {
        let survey = survey(&[
            (2, "1\t0/5000000\tx\n"),
            (3, "1\t0/5000000\tx\n2\t0/7000000\tx\n"),
            (4, "1\t0/3000000\tx\n"),
        ]);
        let of = |timeline: u32, held: Option<HeldWal>| {
            let lineage = survey.lineage(Timeline::new(timeline)).unwrap();
            least(&survey, &lineage, held.as_ref())
        };
        let first = of(1, None).unwrap();
        assert_eq!(first.lsn, Lsn::new(0x500_0000));
        assert!(first.hint.contains("--to-lsn 0/5000000"), "{first:?}");
        assert_eq!(of(2, None).map(|least| least.lsn), Some(Lsn::new(0x700_0000)));
        assert_eq!(of(3, None), None);
        assert_eq!(of(4, None), None);
        assert_eq!(of(1, Some(held(1, 0x600_0000, 0x600_0000))).unwrap().lsn, Lsn::new(0x600_0000));
        assert_eq!(
            of(1, Some(held(2, 0x900_0000, 0x900_0000))),
            Some(first),
            "the cell has followed the next"
        );
    }

    /// By which all but the checkpoint itself was archived.
    #[test]
    fn checkpoint_of_a_shutdown_at_which_a_timeline_was_left_is_no_loss() {
        let to = |left: &str| {
            let survey = survey(&[(2, left)]);
            let lineage = survey.lineage(Timeline::new(1)).unwrap();
            least(&survey, &lineage, None).unwrap().lsn
        };
        assert_eq!(to("1\t0/50000A0\tx\n"), Lsn::new(0x500_0000));
        assert_eq!(to("1\t0/50000A8\tx\n"), Lsn::new(0x500_00A8));
    }

    #[test]
    fn last_received_segment_counts_when_it_is_not_replayed_yet() {
        let survey = survey(&[]);
        let lineage = survey.lineage(Timeline::new(1)).unwrap();
        let size = SegmentSize::default();
        let last = |held: HeldWal| last_received(&held, &lineage, size).map(|segment| segment.number);
        assert_eq!(last(held(1, 0x500_0000, 0x700_0000)), Some(6), "the next has not begun");
        assert_eq!(last(held(1, 0x500_0000, 0x700_0010)), Some(7));
        assert_eq!(last(held(1, 0x500_0010, 0x500_0000)), None);
        assert_eq!(last(held(2, 0x500_0000, 0x700_0000)), None);
    }
}
