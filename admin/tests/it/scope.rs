//! Callers whose certificates are for some databases only.

use cellar_api::v1;
use cellar_api::v1::multi_admin_client::MultiAdminClient;
use cellar_model::{Code, Database, DatabaseScope, Key, access};
use cellar_tls::{LeafRequest, OperatorRole};
use tonic::Status;
use tonic::transport::Channel;

use crate::support::tls::{Guarded, cluster};
use crate::support::{World, backup_of, database, db};

/// `app` with a job, and `sales` beside it, in which the caller may do anything.
struct Scene {
    world: World,
    server: Guarded,
    limited: MultiAdminClient<Channel>,
    job: String,
}

async fn scene() -> Scene {
    let world = World::new().await;
    let sales = Database { is_qualified: true, ..database("sales") };
    world.put(&Key::Database("sales".parse().unwrap()), &sales).await;
    let server = Guarded::serve(&world.admin().await).await;
    let of_app = v1::BackupRequest { database: "app".into(), ..backup_of(3) };
    let job = server.ann().await.backup(of_app).await.unwrap().into_inner().id;
    let limited = limited(&server, &["sales"]).await;
    Scene { world, server, limited, job }
}

async fn limited(server: &Guarded, databases: &[&str]) -> MultiAdminClient<Channel> {
    let scope = DatabaseScope::Only(databases.iter().map(|name| name.parse().unwrap()).collect());
    let request = LeafRequest::operator_of(&cluster(), OperatorRole::Admin, &scope, "bob").unwrap();
    MultiAdminClient::new(server.connect_as(&request).await)
}

/// What a method answers when it is asked about `app`, or a job of it; none for one that is about no database.
async fn asked(
    client: &mut MultiAdminClient<Channel>,
    method: &str,
    job: &str,
) -> Option<Result<(), Status>> {
    let (database, id, cell) = (|| "app".to_owned(), || job.to_owned(), || "zone3".to_owned());
    let latest = || {
        let target = v1::restore_target::Target::Latest(v1::LatestTarget {});
        Some(v1::RestoreTarget { target: Some(target) })
    };
    let restore =
        || v1::RestoreDatabaseRequest { database: database(), target: latest(), ..Default::default() };
    let of_restore = || v1::RestoreJobRequest { id: id(), ..Default::default() };
    Some(match method {
        "Backup" => {
            let request = v1::BackupRequest { database: database(), cell: cell(), ..Default::default() };
            client.backup(request).await.map(drop)
        }
        "RebuildStandby" => {
            let request =
                v1::RebuildStandbyRequest { database: database(), cell: cell(), ..Default::default() };
            client.rebuild_standby(request).await.map(drop)
        }
        "RestoreDatabase" => client.restore_database(restore()).await.map(drop),
        "PlanRestore" => client.plan_restore(restore()).await.map(drop),
        "ConfirmRestore" => client.confirm_restore(of_restore()).await.map(drop),
        "RollbackRestore" => client.rollback_restore(of_restore()).await.map(drop),
        "DrillRestore" => {
            let request = v1::DrillRestoreRequest { database: database(), ..Default::default() };
            client.drill_restore(request).await.map(drop)
        }
        "VerifyBackups" => {
            let request = v1::VerifyBackupsRequest { database: database(), ..Default::default() };
            client.verify_backups(request).await.map(drop)
        }
        "ExpireBackups" => {
            let request = v1::ExpireBackupsRequest { database: database(), ..Default::default() };
            client.expire_backups(request).await.map(drop)
        }
        "CheckArchive" => {
            let request = v1::CheckArchiveRequest { database: database(), ..Default::default() };
            client.check_archive(request).await.map(drop)
        }
        "RunJob" => {
            let kind = v1::JobKind::Check.into();
            let request = v1::RunJobRequest { database: database(), kind, ..Default::default() };
            client.run_job(request).await.map(drop)
        }
        "GetJob" => client.get_job(v1::GetJobRequest { id: id() }).await.map(drop),
        "WatchJob" => client.watch_job(v1::GetJobRequest { id: id() }).await.map(drop),
        "CancelJob" => client.cancel_job(v1::CancelJobRequest { id: id() }).await.map(drop),
        "TailJobLog" => {
            client.tail_job_log(v1::TailJobLogRequest { id: id(), ..Default::default() }).await.map(drop)
        }
        "ListJobs" => {
            let request = v1::ListJobsRequest { database: database(), ..Default::default() };
            client.list_jobs(request).await.map(drop)
        }
        "ListBackups" => client.list_backups(v1::ListBackupsRequest { database: database() }).await.map(drop),
        "GetBackup" => {
            let label = "20240101-000000F".to_owned();
            client.get_backup(v1::GetBackupRequest { database: database(), label }).await.map(drop)
        }
        "GetDatabase" => client.get_database(v1::GetDatabaseRequest { name: database() }).await.map(drop),
        "GetFailoverOutlook" => {
            let request = v1::GetFailoverOutlookRequest { database: database() };
            client.get_failover_outlook(request).await.map(drop)
        }
        "SetDurability" => {
            let durability = v1::Durability::Quorum.into();
            client
                .set_durability(v1::SetDurabilityRequest { database: database(), durability })
                .await
                .map(drop)
        }
        "SwitchPrimary" => {
            let request =
                v1::SwitchPrimaryRequest { database: database(), to: String::new(), from: String::new() };
            client.switch_primary(request).await.map(drop)
        }
        "ListSettings" => {
            client.list_settings(v1::ListSettingsRequest { database: database() }).await.map(drop)
        }
        "ChangeSettings" => {
            let unset = vec!["work_mem".to_owned()];
            let request = v1::ChangeSettingsRequest { database: database(), unset, ..Default::default() };
            client.change_settings(request).await.map(drop)
        }
        "ListFailovers" => {
            let request = v1::ListFailoversRequest { database: database() };
            client.list_failovers(request).await.map(drop)
        }
        "GetFailoverPlan" => {
            let request = v1::GetFailoverPlanRequest { database: database(), to: "zone1".to_owned() };
            client.get_failover_plan(request).await.map(drop)
        }
        "FailOver" => {
            let request =
                v1::FailOverRequest { database: database(), to: "zone1".to_owned(), ..Default::default() };
            client.fail_over(request).await.map(drop)
        }
        "PauseDatabase" => {
            let request = v1::PauseDatabaseRequest { database: database(), reason: String::new() };
            client.pause_database(request).await.map(drop)
        }
        "ResumeDatabase" => {
            let request = v1::ResumeDatabaseRequest { database: database() };
            client.resume_database(request).await.map(drop)
        }
        "ListPoolers" => {
            let request = v1::ListPoolersRequest { database: database(), ..Default::default() };
            client.list_poolers(request).await.map(drop)
        }
        "GetPooler" => {
            let request = v1::GetPoolerRequest { database: database(), cell: cell() };
            client.get_pooler(request).await.map(drop)
        }
        "ListSchedules" => {
            client.list_schedules(v1::ListSchedulesRequest { database: database() }).await.map(drop)
        }
        "PutSchedule" => {
            let request = v1::PutScheduleRequest {
                database: database(),
                name: "nightly".into(),
                cron: "0 1 * * *".into(),
                ..Default::default()
            };
            client.put_schedule(request).await.map(drop)
        }
        "DeleteSchedule" => {
            let request = v1::DeleteScheduleRequest { database: database(), name: "nightly".into() };
            client.delete_schedule(request).await.map(drop)
        }
        "ListRoles" => client.list_roles(v1::ListRolesRequest { database: database() }).await.map(drop),
        "CreateRole" => {
            let (name, certificate) = ("reports".to_owned(), true);
            let request =
                v1::CreateRoleRequest { database: database(), name, certificate, ..Default::default() };
            client.create_role(request).await.map(drop)
        }
        "SetRolePassword" => {
            let name = "reports".to_owned();
            // Of another database, so nothing is done with it.
            let scram_verifier = format!(
                "SCRAM-SHA-256$4096:{0}$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
                "W22ZaJ0SNY7soEsUEjb6gQ=="
            );
            let request = v1::SetRolePasswordRequest {
                database: database(),
                name,
                scram_verifier,
                ..Default::default()
            };
            client.set_role_password(request).await.map(drop)
        }
        "DropRole" => {
            let request = v1::DropRoleRequest { database: database(), name: "reports".into() };
            client.drop_role(request).await.map(drop)
        }
        // They change every database.
        "AddCell" => {
            client.add_cell(v1::AddCellRequest { name: "zone9".into(), ..Default::default() }).await.map(drop)
        }
        "RemoveCell" => client.remove_cell(v1::RemoveCellRequest { name: cell() }).await.map(drop),
        "ListCells" | "ListDatabases" | "ListAudit" => return None,
        other => panic!("{other} is new: is it about a database?"),
    })
}

#[tokio::test]
async fn every_method_refuses_what_is_of_another_database() {
    let Scene { world, server, mut limited, job } = scene().await;
    let before = world.contents().await;
    let methods = access::METHODS.iter().filter_map(|(path, ..)| path.strip_prefix("/cellar.v1.MultiAdmin/"));
    let mut refused = 0;
    for method in methods {
        let Some(answer) = asked(&mut limited, method, &job).await else { continue };
        let status = answer.expect_err(method);
        assert_eq!(cellar_api::reason_of(&status), Some(Code::PermissionDenied), "{method}: {status}");
        refused += 1;
        // Nobody else is refused so: what they are told is about the request.
        let answer = asked(&mut server.ann().await, method, &job).await.unwrap();
        let reason = answer.as_ref().err().and_then(cellar_api::reason_of);
        assert_ne!(reason, Some(Code::PermissionDenied), "{method}: {answer:?}");
        if method == "Backup" {
            // What the limited caller asked for has changed nothing; what Ann asks for may.
            assert_eq!(world.contents().await.len(), before.len(), "{method}");
        }
    }
    assert!(refused > 25, "{refused}");
}

#[tokio::test]
async fn lists_and_what_names_no_database_are_of_the_callers_own() {
    let Scene { world, server, mut limited, job } = scene().await;
    assert_eq!(limited.list_jobs(v1::ListJobsRequest::default()).await.unwrap().into_inner().jobs, []);
    let all = limited.list_databases(v1::ListDatabasesRequest {}).await.unwrap().into_inner().databases;
    let names: Vec<String> = all.into_iter().map(|view| view.database.unwrap().name).collect();
    assert_eq!(names, ["sales"]);
    let bad = world.store.keys().path(&Key::Pooler(db(), "zone9".parse().unwrap()));
    world.put_raw(&bad, b"no record").await;
    let mut ann = server.ann().await;
    let unreadable = |answer: v1::ListPoolersResponse| answer.unreadable_records.len();
    crate::support::wait_for("the record to be found", || async {
        let answer = server.ann().await.list_poolers(v1::ListPoolersRequest::default()).await;
        unreadable(answer.unwrap().into_inner()) == 1
    })
    .await;
    let poolers = limited.list_poolers(v1::ListPoolersRequest::default()).await.unwrap().into_inner();
    assert_eq!((poolers.poolers.len(), poolers.unreadable_records.len()), (0, 0));
    // A certificate for one database means that one.
    let view = limited.get_database(v1::GetDatabaseRequest::default()).await.unwrap().into_inner();
    assert_eq!(view.database.unwrap().name, "sales");
    let both = limited_both(&server).await.get_database(v1::GetDatabaseRequest::default()).await.unwrap_err();
    assert_eq!(cellar_api::reason_of(&both), Some(Code::InvalidArgument));
    assert!(both.message().contains("app, sales"), "{both}");
    let mut both = limited_both(&server).await;
    assert_eq!(both.get_job(v1::GetJobRequest { id: job.clone() }).await.unwrap().into_inner().id, job);

    // The list of calls: of what was asked about the caller's databases.
    let _ = limited.cancel_job(v1::CancelJobRequest { id: job }).await.unwrap_err();
    let _ = limited.backup(v1::BackupRequest { database: "sales".into(), ..backup_of(3) }).await.unwrap_err();
    let calls = |answer: v1::ListAuditResponse| {
        answer.records.into_iter().map(|record| record.rpc).collect::<Vec<_>>()
    };
    crate::support::wait_for("the calls to be listed", || async {
        let answer = server.ann().await.list_audit(v1::ListAuditRequest::default()).await.unwrap();
        answer.into_inner().records.len() == 3
    })
    .await;
    let all = calls(ann.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner());
    assert_eq!(all, ["Backup", "CancelJob", "Backup"]);
    let own = limited.list_audit(v1::ListAuditRequest::default()).await.unwrap().into_inner();
    assert_eq!(own.records.len(), 1, "{own:?}");
    assert_eq!(own.records[0].identity, "spiffe://demo/admin-of/sales/bob");
}

async fn limited_both(server: &Guarded) -> MultiAdminClient<Channel> {
    limited(server, &["app", "sales"]).await
}
