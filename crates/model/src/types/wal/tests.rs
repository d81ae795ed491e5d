use super::*;
use proptest::prelude::*;

const MIB: u64 = 1 << 20;

fn tl(n: u32) -> Timeline {
    Timeline::new(n)
}

fn archive(files: &[(u32, u64)]) -> Archive {
    let mut archive = Archive::default();
    for (timeline, number) in files {
        archive.add(Segment { timeline: tl(*timeline), number: *number });
    }
    archive
}

#[test]
fn half_written_file_is_no_archived_segment() {
    let size = SegmentSize::default();
    let name = "000000010000000000000003";
    let whole = format!("{name}-00a1b2c3d4e5f60718293a4b5c6d7e8f90112233");
    for suffix in ["", ".gz", ".lz4", ".zst", ".bz2"] {
        let segment = size.parse_archived_name(&format!("{whole}{suffix}"));
        assert_eq!(segment.map(|segment| segment.number), Some(3), "{suffix}");
    }
    for other in [
        name.to_owned(),
        format!("{whole}.zst.pgbackrest.tmp"),
        format!("{whole}.pgbackrest.tmp"),
        format!("{name}.partial-00a1b2c3d4e5f60718293a4b5c6d7e8f90112233.zst"),
        format!("{name}.00000028.backup"),
        format!("{name}-00a1"),
        format!("{name}-00a1b2c3d4e5f60718293a4b5c6d7e8f901122zz.zst"),
        String::new(),
    ] {
        assert_eq!(size.parse_archived_name(&other), None, "{other}");
    }
}

#[test]
fn segment_size_follows_from_a_position_and_the_name_of_its_file() {
    for power in 20..=30 {
        let size = SegmentSize::new(1 << power).unwrap();
        let lsn = Lsn::new((3 << 32) + size.bytes() * 2 + 40);
        let name = size.file_name(Segment { timeline: Timeline::new(7), number: size.number_of(lsn) });
        assert_eq!(SegmentSize::of_position(lsn, &name), Some(size), "{name}");
    }
    let first = "000000010000000300000000";
    assert_eq!(SegmentSize::of_position(Lsn::new((3 << 32) + 40), first), None);
    assert_eq!(SegmentSize::of_position(Lsn::new(40), "x"), None);
}

#[test]
fn names_are_postgresqls() {
    let size = SegmentSize::default();
    let segment = Segment { timeline: tl(10), number: 0x1_02 };
    assert_eq!(size.file_name(segment), "0000000A0000000100000002");
    assert_eq!(size.parse_file_name("0000000A0000000100000002"), Some(segment));
    for bad in [
        "",
        "0000000A00000001000000",
        "0000000A0000000100000100",
        "0000000a0000000100000002",
        "00000002.history",
    ] {
        assert_eq!(size.parse_file_name(bad), None, "{bad}");
    }
    assert_eq!(SegmentSize::new(3 << 20), None);
}

#[test]
fn history_is_parsed_and_other_text_is_refused() {
    let history: History =
        "1\t0/3000000\tno recovery target specified\n\n2\t0/5000028\tbefore x\n".parse().unwrap();
    assert_eq!(history.0.len(), 2);
    assert_eq!(history.0[1], Ancestor { timeline: tl(2), left_at: Lsn::new(0x500_0028) });
    for bad in ["x 0/1", "1", "2 0/1\n1 0/2"] {
        assert!(bad.parse::<History>().is_err(), "{bad}");
    }
}

/// Timeline 3 left 1 at 40 MiB: what 1 and 2 wrote after their ends is not on the way.
#[test]
fn position_after_the_branch_is_not_in_the_lineage() {
    let history = History(vec![Ancestor { timeline: tl(1), left_at: Lsn::new(40 * MIB) }]);
    let lineage = Lineage::new(tl(3), &history);
    assert!(lineage.contains(tl(1), Lsn::new(40 * MIB)));
    assert!(!lineage.contains(tl(1), Lsn::new(40 * MIB + 1)));
    assert!(!lineage.contains(tl(2), Lsn::new(1)));
    assert!(lineage.contains(tl(3), Lsn::new(100 * MIB)));
    let size = SegmentSize::default();
    let files: Vec<u32> = lineage.files(2, size).map(|segment| segment.timeline.get()).collect();
    assert_eq!(files, [3, 1], "the switch is inside segment 2, and the newer file is tried first");
    assert_eq!(lineage.files(1, size).count(), 1);
    assert_eq!(lineage.files(3, size).next().unwrap().timeline, tl(3));
    let archive = archive(&[(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (3, 2), (3, 3)]);
    assert_eq!(lineage.newest(&archive), Some(3));
    assert_eq!(lineage.last_without_gap(0, &archive), Some(3));
    let gap = Segment { timeline: tl(3), number: 4 };
    assert_eq!(lineage.missing(0, 4, &archive), Missing { count: 1, first: Some(gap) });
    assert_eq!(lineage.missing(0, 3, &archive), Missing { count: 0, first: None });
}

/// Timeline 2 leaves 1 at 40 MiB, in segment 2, and 3 leaves 2 at 80 MiB, where segment 5 begins.
#[test]
fn parents_file_does_not_stand_for_the_one_with_which_a_timeline_begins() {
    let text = format!("1\t0/{:X}\tx\n2\t0/{:X}\ty\n", 40 * MIB, 80 * MIB);
    let lineage = Lineage::new(tl(3), &text.parse().unwrap());
    let file = |timeline, number| Segment { timeline: tl(timeline), number };
    let fork = |archive: &Archive, first| {
        let fork = lineage.fork_without_file(first, archive);
        fork.map(|fork| (fork.missing, fork.taken, fork.at.bytes() / MIB))
    };
    let whole = [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3), (2, 4), (2, 5), (3, 5), (3, 6)];
    assert_eq!(fork(&archive(&whole), 0), None);
    let without =
        |missing: (u32, u64)| archive(&whole.map(|file| if file == missing { (9, 0) } else { file }));
    assert_eq!(fork(&without((2, 2)), 0), Some((file(2, 2), file(1, 2), 40)));
    assert_eq!(fork(&without((2, 2)), 3), None, "a recovery from behind it is not led astray");
    let gap = Missing { count: 1, first: Some(file(2, 2)) };
    assert_eq!(lineage.missing(0, 6, &without((2, 2))), gap);
    assert_eq!(lineage.last_without_gap(0, &without((2, 2))), Some(1));
    // Also at the very boundary: PostgreSQL looks at where timelines begin, not at where they end.
    assert_eq!(fork(&without((3, 5)), 0), Some((file(3, 5), file(2, 5), 80)));
    assert_eq!(fork(&without((2, 3)), 0), None, "a gap is not a wrong way");
    let cut = archive(&[(1, 0), (1, 1), (1, 2), (1, 3)]);
    assert_eq!(lineage.newest(&cut), Some(1));
    assert_eq!(fork(&cut, 0), Some((file(2, 2), file(1, 2), 40)));
}

/// Timeline 2 leaves 1 in segment 2, 3 leaves 2 where segment 5 begins, and 4 leaves 3 eight bytes before segment 7.
#[test]
fn what_an_earlier_timeline_has_behind_its_end_is_in_the_segment_of_that_position_and_in_the_next() {
    let text = format!("1\t0/{:X}\tx\n2\t0/{:X}\ty\n3\t0/{:X}\tz\n", 40 * MIB, 80 * MIB, 112 * MIB - 8);
    let lineage = Lineage::new(tl(4), &text.parse().unwrap());
    let left: Vec<(u32, u64)> =
        lineage.left_segments(SegmentSize::default()).map(|it| (it.timeline.get(), it.number)).collect();
    // Segment 4 of timeline 2 lies before its end as a whole, and nobody else has it.
    assert_eq!(left, [(1, 2), (1, 3), (2, 5), (2, 6), (3, 6), (3, 7)]);
    assert_eq!(Lineage::new(tl(1), &History::default()).left_segments(SegmentSize::default()).count(), 0);
}

/// Timeline 2 left 1 at 40 MiB and was then restored to 20 MiB, which is on 1: PostgreSQL writes both lines.
#[test]
fn timeline_left_before_it_began_is_not_in_the_lineage() {
    let text = format!("1\t0/{:X}\tx\n2\t0/{:X}\ty\n", 40 * MIB, 20 * MIB);
    let lineage = Lineage::new(tl(3), &text.parse().unwrap());
    assert_eq!(lineage.begins_at(), Lsn::new(20 * MIB));
    assert!(lineage.contains(tl(1), Lsn::new(20 * MIB)) && !lineage.contains(tl(1), Lsn::new(21 * MIB)));
    assert!(!lineage.contains(tl(2), Lsn::new(10 * MIB)));
    let files: Vec<u32> = lineage.files(1, SegmentSize::default()).map(|s| s.timeline.get()).collect();
    assert_eq!(files, [3, 1]);
}

#[test]
fn first_missing_segment_is_named() {
    let lineage = Lineage::new(tl(1), &History::default());
    let archive = archive(&[(1, 3), (1, 4), (1, 6)]);
    let gap = Some(Segment { timeline: tl(1), number: 5 });
    assert_eq!(lineage.missing(3, 6, &archive), Missing { count: 1, first: gap });
    // No list is made of what is missing.
    let far = u64::MAX >> 24;
    assert_eq!(lineage.missing(3, far, &archive), Missing { count: far - 5, first: gap });
    assert_eq!(lineage.last_without_gap(3, &archive), Some(4));
    assert_eq!(lineage.newest(&archive), Some(6));
}

proptest! {
    #[test]
    fn file_names_read_back(number in 0u64..1 << 40, timeline in 1u32.., shift in 20u32..=30) {
        let size = SegmentSize::new(1 << shift).unwrap();
        let segment = Segment { timeline: tl(timeline), number: number % (0xFFFF_FFFF * (0x1_0000_0000 / size.bytes())) };
        prop_assert_eq!(size.parse_file_name(&size.file_name(segment)), Some(segment));
    }

    /// Whatever was restored to where: the parts begin one after the other, and each position has a file.
    #[test]
    fn lineage_is_in_order(hops in proptest::collection::vec((1u64..200, 1u32..4), 0..8), number in 0u64..20) {
        let mut timeline = 0;
        let mut ancestors = Vec::new();
        for (mib, step) in hops {
            timeline += step;
            ancestors.push(Ancestor { timeline: tl(timeline), left_at: Lsn::new(mib * MIB) });
        }
        let lineage = Lineage::new(tl(timeline + 1), &History(ancestors));
        prop_assert!(lineage.parts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        let size = SegmentSize::default();
        if lineage.parts[0].1.bytes() == 0 {
            prop_assert!(lineage.files(number, size).count() >= 1);
        }
        prop_assert_eq!(lineage.timeline(), tl(timeline + 1));
    }

    #[test]
    fn no_history_panics(text in "(?s).{0,120}") {
        let _ = text.parse::<History>();
    }
}
