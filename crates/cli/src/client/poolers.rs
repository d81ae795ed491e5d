//! The poolers and the databases of a cluster.

use cellar_api::v1::{ListDatabasesRequest, ListDatabasesResponse, ListPoolersRequest, ListPoolersResponse};

use crate::client::target::Target;
use crate::failure::Outcome;

/// The largest page that multiadmin gives.
const PAGE_SIZE: u32 = 1000;

/// Every pooler of a database, over all pages, as one response. An empty name stands for all databases.
pub(crate) async fn poolers(target: &Target, database: &str) -> Outcome<ListPoolersResponse> {
    let mut all = ListPoolersResponse::default();
    let mut page_token = String::new();
    loop {
        let request = ListPoolersRequest { database: database.to_owned(), page_size: PAGE_SIZE, page_token };
        let page =
            target.call(request, async |mut client, request| client.list_poolers(request).await).await?;
        all.poolers.extend(page.poolers);
        all.unreadable_records = page.unreadable_records;
        all.etcd_alarms.extend(page.etcd_alarms);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

/// Every database.
pub(crate) async fn databases(target: &Target) -> Outcome<ListDatabasesResponse> {
    target
        .call(ListDatabasesRequest {}, async |mut client, request| client.list_databases(request).await)
        .await
}
