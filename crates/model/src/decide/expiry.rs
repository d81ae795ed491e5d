//! Whether an expiry may be done, given what a dry run of it said would go.

use crate::decide::survey::{Survey, SurveyedBackup, newest_on};
use crate::records::backup::{BackupLabel, BackupType};
use crate::records::maintenance::DrilledBackup;
use crate::types::code::{Code, Refusal};

/// Whether an expiry may be done, given what a dry run of it said would be deleted; what an operator should know if so.
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
            format!(
                "backup {label} would be deleted, and drill {job} was restoring it when this was asked for"
            ),
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
            "the retention counts full backups of timelines that were left behind: {} (`cellar expire --backup` deletes one)",
            aside.join(", ")
        )
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::survey::example::{label, survey};
    use crate::records::job::id::JobId;
    use crate::types::lsn::Timeline;

    #[test]
    fn last_backup_that_leads_to_the_present_and_a_drilled_one_are_not_expired() {
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
