//! Upkeep of a repo: what expires, whether what is in it can be read, and whether WAL arrives.

use jiff::Timestamp;

use crate::decide::admission::JobRequest;
use crate::decide::recovery_target::{Survey, SurveyedBackup, newest_on, windows};
use crate::decide::snapshot::Snapshot;
use crate::records::backup::{BackupLabel, BackupType};
use crate::records::job::JobRecord;
use crate::records::job_id::JobId;
use crate::records::maintenance::{DrilledBackup, ExpireParams, Verified};
use crate::records::spec::JobSpec;
use crate::types::code::{Code, Refusal};

/// Decides on an expiry. Without a named cell a standby does it, for the primary has work to do.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down, a restore is under way, or one waits to be
/// confirmed or rolled back: the backups from before it may be all that a rollback would come back to.
pub fn plan_expire(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    params: &ExpireParams,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    snapshot.not_fenced(db)?;
    let open = snapshot.incarnations.get(db).filter(|incarnation| incarnation.kept_in.is_some());
    if let (false, Some(restore)) = (params.dry_run, open.and_then(|incarnation| incarnation.job)) {
        return Err(Refusal::new(
            Code::RestoreOpen,
            format!("restore {restore} of {db} is neither confirmed nor rolled back, and a rollback needs the backups from before it"),
        )
        .hint(format!("`cellar restore confirm {restore}` or `cellar restore rollback {restore}` first; --dry-run shows what would go"))
        .about("job", restore)
        .about("database", db));
    }
    let cell = snapshot.reading_cell(db, request)?;
    Ok(request.record(JobSpec::Expire(params.clone()), db, &cell, id, now))
}

/// Decides on reading the whole repo.
///
/// # Errors
/// Refused when the database or the cell is unknown or its pooler down.
pub fn plan_verify(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let cell = snapshot.reading_cell(&database.name, request)?;
    Ok(request.record(JobSpec::Verify, &database.name, &cell, id, now))
}

/// Decides on a check of archiving: by the primary, which archives.
///
/// # Errors
/// Refused when the database is unknown, being restored, or has no primary that answers.
pub fn plan_check(
    snapshot: &Snapshot<'_>,
    request: &JobRequest,
    id: JobId,
    now: Timestamp,
) -> Result<JobRecord, Refusal> {
    let database = snapshot.database(request.database.as_ref())?;
    let db = &database.name;
    snapshot.not_fenced(db)?;
    let leader = snapshot.leader(db)?;
    snapshot.answering(db, &leader.cell).map_err(|refusal| {
        Refusal::new(Code::NoPrimary, format!("the primary of {db} does not answer: {refusal}"))
            .hint("only a primary archives; mend it first (`cellar status`)")
            .about("database", db)
    })?;
    Ok(request.record(JobSpec::Check, db, &leader.cell, id, now))
}

/// Whether an expiry may be done, given what a rehearsal of it said would go; what an operator should know if so.
///
/// pgBackRest counts full backups of all timelines, and builds on the newest, whatever its timeline. After a rollback all
/// that leads to the present may build on one of a timeline that was left behind.
///
/// # Errors
/// Refused when no backup would stay that leads to the primary's timeline, or a drill restores one that would go.
pub fn check_expiry(
    survey: &Survey,
    going: &[BackupLabel],
    drilled: &[DrilledBackup],
) -> Result<Option<String>, Refusal> {
    if let Some(DrilledBackup { job, backup: label }) =
        drilled.iter().find(|drill| going.contains(&drill.backup))
    {
        return Err(Refusal::new(
            Code::Busy,
            format!("backup {label} would go, and drill {job} was restoring it when this was asked for"),
        )
        .hint(format!("wait for it (`cellar jobs watch {job}`), then ask again"))
        .about("job", job));
    }
    if going.is_empty() {
        return Ok(None);
    }
    let lineage = survey.lineage(survey.current)?;
    let stays = |backup: &&SurveyedBackup| !going.contains(&backup.label);
    let staying: Vec<SurveyedBackup> = survey.backups.iter().filter(stays).cloned().collect();
    if newest_on(&staying, &lineage).is_none() {
        return Err(Refusal::new(
            Code::LastBackup,
            format!(
                "no backup would be left that leads to timeline {}, which the primary is on",
                survey.current
            ),
        )
        .hint("take a full backup first (`cellar backup --type full --from` a standby)"));
    }
    let aside = |backup: &&SurveyedBackup| {
        backup.backup_type == BackupType::Full && !lineage.contains(backup.timeline, backup.stop_lsn)
    };
    let aside: Vec<&str> = staying.iter().filter(aside).map(|backup| backup.label.as_str()).collect();
    Ok((!aside.is_empty()).then(|| {
        format!(
            "the retention counts full backups of timelines that were left behind: {} (`cellar expire --backup` takes one away)",
            aside.join(", ")
        )
    }))
}

/// What is wrong with a repo, each in a sentence, beside what breaks nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Faults {
    /// A restore would fail or lose rows.
    pub errors: Vec<String>,
    /// What cannot be reached, though the newest backup leads to the present.
    pub warnings: Vec<String>,
}

/// Judges what was read: the files by their checksums, and the WAL by its gaps, of which pgBackRest's own report
/// (2.45) does not speak.
#[must_use]
pub fn faults(backups: &[Verified], archives: &[Verified], survey: &Survey) -> Faults {
    let mut found = Faults::default();
    for (what, each) in backups.iter().map(|b| ("backup", b)).chain(archives.iter().map(|a| ("archive", a))) {
        if each.valid {
            continue;
        }
        let counts = [
            (each.missing, "missing"),
            (each.checksum_invalid, "with another checksum"),
            (each.size_invalid, "of another size"),
            (each.other, "unreadable"),
        ];
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let why =
            if counts.is_empty() { "pgBackRest calls it invalid".to_owned() } else { counts.join(", ") };
        found.errors.push(format!("{what} {}: {why}", each.name));
    }
    let size = survey.archive.size;
    for backup in &survey.backups {
        let Ok(lineage) = survey.lineage(backup.timeline) else {
            found.errors.push(format!(
                "backup {} is of timeline {}, whose history is not in the archive",
                backup.label, backup.timeline
            ));
            continue;
        };
        let missing = lineage.missing(backup.first_segment, backup.last_segment, &survey.archive);
        if let Some(segment) = missing.first() {
            found.errors.push(format!(
                "backup {} needs WAL segment {} to become consistent, and the archive does not have it",
                backup.label,
                size.file_name(*segment)
            ));
        }
    }
    let newest = survey.lineage(survey.current).ok().and_then(|lineage| newest_on(&survey.backups, &lineage));
    for window in windows(survey).iter().filter(|window| !window.gap.is_empty()) {
        let text = format!(
            "WAL segment {} is missing: from backup {} timeline {} can be followed to {} and no further",
            window.gap, window.backup, window.timeline, window.to_lsn
        );
        let matters =
            window.timeline == survey.current && newest.is_some_and(|newest| newest.label == window.backup);
        if matters { found.errors.push(text) } else { found.warnings.push(text) }
    }
    if newest.is_none() {
        found.errors.push(format!("no backup leads to timeline {}, which the primary is on", survey.current));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::lsn::Timeline;
    use crate::types::wal::{Archive, Segment, SegmentSize};
    use std::collections::BTreeMap;

    fn label(n: u8) -> BackupLabel {
        format!("2026030{n}-101500F").parse().unwrap()
    }

    fn survey(segments: &[u64]) -> Survey {
        let size = SegmentSize::default();
        let mut archive = Archive { size, segments: BTreeMap::new() };
        for number in segments {
            archive.add(Segment { timeline: Timeline::new(1), number: *number });
        }
        let backup = |n: u8, first: u64| SurveyedBackup {
            label: label(n),
            backup_type: BackupType::Full,
            timeline: Timeline::new(1),
            start_lsn: size.start_of(first),
            stop_lsn: size.start_of(first + 1),
            stop_time: Timestamp::from_second(1_772_360_100 + i64::from(n)).unwrap(),
            first_segment: first,
            last_segment: first + 1,
            size_bytes: 1,
            system_identifier: None,
            blemish: None,
        };
        Survey {
            system_identifier: None,
            backups: vec![backup(1, 2), backup(2, 6)],
            histories: BTreeMap::new(),
            archive,
            archived_at: BTreeMap::new(),
            begun_at: BTreeMap::new(),
            current: Timeline::new(1),
            write_lsn: None,
            now: Timestamp::from_second(1_772_370_100).unwrap(),
        }
    }

    fn found(segments: &[u64]) -> Faults {
        faults(&[], &[], &survey(segments))
    }

    #[test]
    fn a_gap_matters_where_the_newest_backup_does_not_lead_to_the_present() {
        assert_eq!(found(&[2, 3, 4, 5, 6, 7, 8]), Faults::default());
        let between = found(&[2, 3, 5, 6, 7, 8]);
        assert_eq!((between.errors.len(), between.warnings.len()), (0, 1), "{between:?}");
        assert!(between.warnings[0].contains("000000010000000000000004"), "{between:?}");
        let behind = found(&[2, 3, 4, 5, 6, 7, 9]);
        assert_eq!(behind.errors.len(), 1, "{behind:?}");
        assert!(behind.errors[0].contains("000000010000000000000008"), "{behind:?}");
    }

    #[test]
    fn a_backup_without_its_own_wal_is_worth_nothing() {
        let within = found(&[2, 4, 5, 6, 7, 8]);
        assert!(within.errors.iter().any(|e| e.contains("20260301-101500F needs")), "{within:?}");
        let nothing = Survey { backups: vec![], ..survey(&[2]) };
        assert_eq!(faults(&[], &[], &nothing).errors.len(), 1);
    }

    #[test]
    fn what_pgbackrest_calls_invalid_is_named_with_its_counts() {
        let bad =
            Verified { name: label(1).to_string(), missing: 1, checksum_invalid: 2, ..Verified::default() };
        let good = Verified { name: "15-1".into(), valid: true, ..Verified::default() };
        let all = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let found = faults(std::slice::from_ref(&bad), std::slice::from_ref(&good), &all);
        assert_eq!(found.errors, ["backup 20260301-101500F: 1 missing, 2 with another checksum"]);
        let odd = Verified { missing: 0, checksum_invalid: 0, ..bad };
        assert!(faults(&[], &[odd], &all).errors[0].starts_with("archive "));
    }

    #[test]
    fn one_backup_that_leads_to_the_present_stays_and_one_that_is_drilled() {
        let (one, two) = (label(1), label(2));
        let job = JobId::new(uuid::Uuid::from_u128(1));
        let mut survey = survey(&[2, 3, 4, 5, 6, 7, 8]);
        let all = [one.clone(), two.clone()];
        assert_eq!(check_expiry(&survey, &all[..1], &[DrilledBackup { job, backup: two }]), Ok(None));
        assert_eq!(check_expiry(&survey, &[], &[]), Ok(None));
        assert_eq!(check_expiry(&survey, &all, &[]).unwrap_err().code, Code::LastBackup);
        assert_eq!(
            check_expiry(&survey, &all[..1], &[DrilledBackup { job, backup: one }]).unwrap_err().code,
            Code::Busy
        );
        // The second is of timeline 2, which a rollback to the first one's end left behind for timeline 3.
        let size = survey.archive.size;
        survey.backups[1].timeline = Timeline::new(2);
        let at = size.start_of(4);
        survey.histories.insert(Timeline::new(2), format!("1\t{at}\tx\n").parse().unwrap());
        survey.histories.insert(Timeline::new(3), format!("1\t{at}\tx\n").parse().unwrap());
        survey.current = Timeline::new(3);
        assert_eq!(check_expiry(&survey, &all[..1], &[]).unwrap_err().code, Code::LastBackup);
        assert_eq!(check_expiry(&survey, &all[1..], &[]), Ok(None));
        survey.current = Timeline::new(2);
        assert_eq!(check_expiry(&survey, &all[..1], &[]), Ok(None));
        survey.backups.push(SurveyedBackup { label: label(3), ..survey.backups[0].clone() });
        survey.current = Timeline::new(3);
        let told = check_expiry(&survey, &all[..1], &[]).unwrap().unwrap();
        assert!(told.contains(all[1].as_str()) && !told.contains(all[0].as_str()), "{told}");
    }
}
