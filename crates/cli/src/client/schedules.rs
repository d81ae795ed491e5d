//! The schedules of a cluster.

use cellar_api::v1::{ListSchedulesRequest, ListSchedulesResponse};

use crate::client::target::Target;
use crate::failure::Outcome;

/// Every schedule of a database. An empty name stands for all databases.
pub(crate) async fn schedules(target: &Target, database: &str) -> Outcome<ListSchedulesResponse> {
    let request = ListSchedulesRequest { database: database.to_owned() };
    target.call(request, async |mut client, request| client.list_schedules(request).await).await
}
