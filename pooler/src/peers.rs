//! Asking another cell's pooler how its instance is, just now.

use std::path::Path;
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_api::v1::{GetLiveStatusRequest, LiveStatus};
use cellar_model::{Code, Pooler, Refusal};
use cellar_tls::ClientTls;

use crate::agent::Agent;

/// How long another pooler may take. It answers in milliseconds, or after its own probe's timeout.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What a pooler's instance says of itself now.
pub(crate) async fn live_status(agent: &Agent, card: &Pooler) -> Result<LiveStatus, Refusal> {
    let no_answer = |why: &dyn std::fmt::Display| {
        Refusal::new(Code::NoPrimary, format!("the pooler of cell {} does not answer: {why}", card.cell))
            .hint("look at `cellar status`")
            .about("cell", &card.cell)
    };
    let tls = agent.layout.tls();
    let file = |name: &str| tls.join(name);
    let (ca, certificate, key) = (file("ca.crt"), file("pooler.crt"), file("server.key"));
    let files: [&Path; 3] = [&ca, &certificate, &key];
    let client = ClientTls::from_files(files[0], files[1], files[2]).map_err(|error| no_answer(&error))?;
    let address = format!("{}:{}", card.host, card.grpc_port);
    let endpoint = client
        .domain_name(&card.host)
        .endpoint(&address, Some(TIMEOUT))
        .map_err(|error| no_answer(&error))?;
    let ask = async {
        let channel = endpoint.connect().await.map_err(|error| no_answer(&error))?;
        let answer = MultiPoolerClient::new(channel).get_live_status(GetLiveStatusRequest {}).await;
        answer.map(tonic::Response::into_inner).map_err(|status| no_answer(&status.message()))
    };
    tokio::time::timeout(TIMEOUT, ask).await.unwrap_or_else(|_| Err(no_answer(&"nothing came in time")))
}
