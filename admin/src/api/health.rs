//! The standard health service says whether this process has a picture to answer from.

use std::time::Duration;

use cellar_api::v1::multi_admin_server::MultiAdminServer;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::Admin;

/// How often it is looked at: a mirror that loses its watch tells nobody.
const CHECK: Duration = Duration::from_secs(1);

/// Keeps the health service true for as long as it is polled.
pub(crate) async fn report(admin: Admin, reporter: HealthReporter) {
    let mut ending = admin.ending();
    let mut told = None;
    loop {
        let serving = admin.is_current() && !*ending.borrow();
        if told != Some(serving) {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            reporter.set_service_status(<MultiAdminServer<Admin> as NamedService>::NAME, status).await;
            if told.is_some() || !serving {
                tracing::info!(serving, "health changed");
            }
            told = Some(serving);
        }
        if *ending.borrow() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(CHECK) => {}
            _ = ending.wait_for(|ending| *ending) => {}
        }
    }
}
