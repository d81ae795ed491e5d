//! Arbitrary arguments of every method.

use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use proptest::prelude::*;
use tonic::Request;

use crate::support::World;

/// Texts of a request: arbitrary ones, and almost valid ones.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,80}",
        "[a-z0-9/._;#\\[\\]-]{0,70}",
        Just("zone3".to_owned()),
        Just("app".to_owned()),
        Just("/c/zone9".to_owned()),
        Just("\0".to_owned()),
        Just("x".repeat(5000)),
        Just("018f0000-0000-7000-8000-000000000000".to_owned()),
        Just("20260301-101500F".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_text_in_any_field_is_answered(
        a in text(), b in text(), c in text(), d in text(), n in any::<i32>(), size in any::<u32>(),
        seconds in any::<i64>(), nanos in any::<i32>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let admin = world.admin().await;
            let timeout = Some(cellar_api::wkt::Duration { seconds, nanos });
            let mut codes = Vec::new();
            macro_rules! call {
                ($method:ident, $message:expr) => {
                    codes.push(Api::$method(&admin, Request::new($message)).await.err());
                };
            }
            call!(backup, v1::BackupRequest { database: a.clone(), cell: b.clone(), r#type: n, request_id: c.clone(), timeout, ..Default::default() });
            call!(backup, v1::BackupRequest { cell: b.clone(), request_id: c.clone(), max_lag_bytes: u64::MAX, queue: true, ..Default::default() });
            call!(rebuild_standby, v1::RebuildStandbyRequest { database: a.clone(), cell: b.clone(), request_id: c.clone(), timeout, ..Default::default() });
            call!(get_job, v1::GetJobRequest { id: a.clone() });
            call!(watch_job, v1::GetJobRequest { id: a.clone() });
            call!(cancel_job, v1::CancelJobRequest { id: a.clone() });
            call!(tail_job_log, v1::TailJobLogRequest { id: a.clone(), follow: true });
            call!(list_jobs, v1::ListJobsRequest { database: a.clone(), page_size: size, page_token: b.clone() });
            call!(list_backups, v1::ListBackupsRequest { database: a.clone() });
            call!(get_backup, v1::GetBackupRequest { database: a.clone(), label: b.clone() });
            call!(add_cell, v1::AddCellRequest { name: a.clone(), host: b.clone(), directory: c.clone(), listen: d.clone() });
            call!(get_database, v1::GetDatabaseRequest { name: a.clone() });
            call!(list_poolers, v1::ListPoolersRequest { database: a.clone(), page_size: size, page_token: b.clone() });
            call!(get_pooler, v1::GetPoolerRequest { database: a.clone(), cell: b.clone() });
            call!(remove_cell, v1::RemoveCellRequest { name: a.clone() });
            call!(list_audit, v1::ListAuditRequest { page_size: size, page_token: b.clone(), identity: a.clone(), rpc: c.clone(), outcome: n, since: Some(cellar_api::wkt::Timestamp { seconds, nanos }), job: d.clone() });
            let target = match n % 4 {
                0 => v1::restore_target::Target::Lsn(c.clone()),
                1 => v1::restore_target::Target::Name(c.clone()),
                2 => v1::restore_target::Target::Backup(c.clone()),
                _ => v1::restore_target::Target::Time(cellar_api::wkt::Timestamp { seconds, nanos }),
            };
            let target = Some(v1::RestoreTarget { target: Some(target) });
            let restore = v1::RestoreDatabaseRequest { database: a.clone(), target, timeline: size, onto: b.clone(), timeout, request_id: d.clone(), ..Default::default() };
            call!(plan_restore, restore.clone());
            call!(restore_database, restore);
            call!(confirm_restore, v1::RestoreJobRequest { id: a.clone(), timeout, request_id: c.clone(), ..Default::default() });
            call!(rollback_restore, v1::RestoreJobRequest { id: a.clone(), timeout, request_id: c.clone(), ..Default::default() });
            call!(drill_restore, v1::DrillRestoreRequest { database: a.clone(), cell: b.clone(), backup: c.clone(), checks: vec![d.clone()], check_database: b.clone(), nice: Some(size), ..Default::default() });
            call!(verify_backups, v1::VerifyBackupsRequest { database: a.clone(), cell: b.clone(), timeout, request_id: c.clone() });
            call!(expire_backups, v1::ExpireBackupsRequest { database: a.clone(), cell: b.clone(), backup: c.clone(), timeout, request_id: d.clone(), ..Default::default() });
            call!(run_job, v1::RunJobRequest { database: a.clone(), cell: b.clone(), kind: n, queue: false, timeout, request_id: c.clone() });
            call!(check_archive, v1::CheckArchiveRequest { database: a.clone(), timeout, request_id: b.clone() });
            let drill = v1::ScheduledDrill { cell: Some(b.clone()), checks: vec![d.clone()], check_database: c.clone(), nice: Some(size), ..Default::default() };
            let work = match n % 3 {
                0 => v1::scheduled_work::Work::Backup(v1::ScheduledBackup { cells: vec![a.clone(), b.clone()], r#type: n, ..Default::default() }),
                1 => v1::scheduled_work::Work::Drill(drill),
                _ => v1::scheduled_work::Work::Verify(v1::ScheduledVerification {}),
            };
            let work = Some(v1::ScheduledWork { work: Some(work) });
            call!(list_schedules, v1::ListSchedulesRequest { database: a.clone() });
            call!(put_schedule, v1::PutScheduleRequest { database: a.clone(), name: b.clone(), cron: c.clone(), time_zone: d.clone(), work: work.clone(), paused: None });
            call!(put_schedule, v1::PutScheduleRequest { name: "nightly".into(), cron: a.clone(), time_zone: b.clone(), work, ..Default::default() });
            call!(delete_schedule, v1::DeleteScheduleRequest { database: a.clone(), name: b.clone() });
            call!(set_durability, v1::SetDurabilityRequest { database: a.clone(), durability: n % 2 });
            call!(list_failovers, v1::ListFailoversRequest { database: a.clone() });
            call!(get_failover_plan, v1::GetFailoverPlanRequest { database: a.clone(), to: b.clone() });
            let accept_loss = n % 2 == 0;
            call!(fail_over, v1::FailOverRequest { database: a.clone(), to: b.clone(), accept_loss, missing: vec![b.clone()] });
            call!(pause_database, v1::PauseDatabaseRequest { database: a.clone(), reason: b.clone() });
            call!(resume_database, v1::ResumeDatabaseRequest { database: a.clone() });
            call!(switch_primary, v1::SwitchPrimaryRequest { database: a.clone(), to: b.clone(), from: b.clone() });
            call!(change_settings, v1::ChangeSettingsRequest { database: a.clone(), set: [(b.clone(), c.clone())].into(), unset: vec![d.clone()] });
            for status in codes.into_iter().flatten() {
                // Refused with a stable code, and never because of a bug of ours.
                let reason = cellar_api::reason_of(&status).expect("a stable code");
                assert!(!matches!(reason, cellar_model::Code::Internal | cellar_model::Code::Unavailable), "{status}");
            }
            // Each call of a mutating method has two lines in the log, and they can be read.
            let lines = world.audit_lines();
            assert_eq!(lines.len(), 2 * 24, "{lines:?}");
        });
    }
}
