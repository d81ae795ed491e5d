//! A multiadmin: the real service, its candidacy, its housekeeping and its scheduler, asked through the methods of its API.

use std::sync::Arc;
use std::time::Duration;

use cellar_admin::{Admin, AuditLog, Leading, Scheduler};
use cellar_api::v1;
use cellar_api::v1::multi_admin_server::MultiAdmin as Api;
use cellar_model::Keyspace;
use cellar_system::clock;
use cellar_topology::{Kv, Store};
use tokio::sync::mpsc;
use tonic::Request;

/// What an operator asks for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A backup.
    Backup(v1::BackupRequest),
    /// A rebuild of a standby.
    Rebuild(v1::RebuildStandbyRequest),
    /// A restore.
    Restore(v1::RestoreDatabaseRequest),
    /// The rollback of a restore.
    Rollback(v1::RestoreJobRequest),
    /// The confirmation of a restore.
    Confirm(v1::RestoreJobRequest),
    /// An expiry.
    Expire(v1::ExpireBackupsRequest),
    /// A verification.
    Verify(v1::VerifyBackupsRequest),
    /// A check of archiving.
    Check(v1::CheckArchiveRequest),
    /// A drill.
    Drill(v1::DrillRestoreRequest),
    /// The end of a job.
    Cancel(String),
    /// A schedule.
    Schedule(v1::PutScheduleRequest),
}

/// Runs a multiadmin until it is killed.
pub async fn run(keys: Keyspace, kv: Arc<dyn Kv>, mut inbox: mpsc::UnboundedReceiver<Ask>) {
    let store = Store::new(kv, keys);
    let nobody = Arc::new(|_: &cellar_model::Pooler| Err("no network to poolers in a simulation".to_owned()));
    let admin = Admin::start(store, nobody, AuditLog::discarding());
    let identity = clock::new_id().to_string();
    let _leading = Leading::start(&admin, identity.clone());
    tokio::spawn(Scheduler::new(admin.clone(), identity).run());
    while let Some(ask) = inbox.recv().await {
        tokio::spawn(answer(admin.clone(), ask));
    }
    // Nobody asks any more: it goes on leading.
    loop {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
}

async fn answer(admin: Admin, ask: Ask) {
    let shown = format!("{ask:?}");
    let answered = match ask {
        Ask::Backup(message) => Api::backup(&admin, Request::new(message)).await.map(drop),
        Ask::Rebuild(message) => Api::rebuild_standby(&admin, Request::new(message)).await.map(drop),
        Ask::Restore(message) => Api::restore_database(&admin, Request::new(message)).await.map(drop),
        Ask::Rollback(message) => Api::rollback_restore(&admin, Request::new(message)).await.map(drop),
        Ask::Confirm(message) => Api::confirm_restore(&admin, Request::new(message)).await.map(drop),
        Ask::Expire(message) => Api::expire_backups(&admin, Request::new(message)).await.map(drop),
        Ask::Verify(message) => Api::verify_backups(&admin, Request::new(message)).await.map(drop),
        Ask::Check(message) => Api::check_archive(&admin, Request::new(message)).await.map(drop),
        Ask::Drill(message) => Api::drill_restore(&admin, Request::new(message)).await.map(drop),
        Ask::Cancel(id) => Api::cancel_job(&admin, Request::new(v1::CancelJobRequest { id })).await.map(drop),
        Ask::Schedule(message) => Api::put_schedule(&admin, Request::new(message)).await.map(drop),
    };
    match answered {
        Ok(()) => tracing::debug!(ask = shown, "accepted"),
        Err(status) => tracing::debug!(ask = shown, reason = status.message(), "refused"),
    }
}
