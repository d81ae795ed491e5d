//! The standard health service: whether this process has a current view to answer from.

use std::time::Duration;

use cellar_api::v1::multi_admin_server::MultiAdminServer;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::Admin;

/// How often to check: a mirror that loses its watch sends no notice.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the health service up to date until the server shuts down.
pub(crate) async fn report(admin: Admin, reporter: HealthReporter) {
    let mut ending = admin.ending();
    // The same task accepts connections.
    let pulse = admin.watchdog.watch();
    let mut reported = None;
    loop {
        pulse.beat();
        let serving = admin.is_current() && !*ending.borrow();
        if reported != Some(serving) {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            reporter.set_service_status(<MultiAdminServer<Admin> as NamedService>::NAME, status).await;
            if reported.is_some() || !serving {
                tracing::info!(serving, "health changed");
            }
            reported = Some(serving);
        }
        if *ending.borrow() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pulse.rest(CHECK_INTERVAL)) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
}
