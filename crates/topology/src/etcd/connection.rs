//! The connection in use: to one member of etcd at a time, chosen by asking all of them.
//!
//! etcd-client would spread calls over all endpoints at random, whatever their state (measured by `findings/etcd-client-keeps-calling-a-frozen-member.sh`): a
//! member that is dead, frozen or cut off would go on getting its share of the calls, and so would the second attempt
//! at each of them. Here a member is in use that has answered a linearizable read, which takes a majority; as soon as a
//! call to it fails, all are asked again and the first to answer is used. That is mostly the nearest.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{
    AuthClient, Client, ClusterClient, ConnectOptions, GetOptions, KvClient, LeaseClient, MaintenanceClient,
    TlsOptions, WatchClient,
};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::error::StoreError;
use crate::etcd::errors::classify;

/// The TLS configuration of an etcd client.
pub type EtcdTls = TlsOptions;

/// How long connecting to one endpoint may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a member may take to connect and to answer when all are asked. As long as a new leader needs that the
/// followers elect when theirs is gone, with room.
const CHOICE_TIMEOUT: Duration = Duration::from_secs(4);

/// A half-open connection is noticed after the sum of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// gRPC clients refuse answers above 4 MiB by default. etcd limits the size of requests, not of
/// answers: a page, or the past changes that a watch begins with, is as large as the records in it.
const MAX_RESPONSE_BYTES: usize = usize::MAX;

/// A key that nobody writes. Reading it takes a majority; being refused to read it does too, because etcd looks at
/// permissions after that.
const NO_KEY: &str = "cellar";

/// Clients that share one connection to one member.
#[derive(Clone)]
pub(crate) struct Connection {
    /// Counts the choices, so that a late failure of an earlier connection does not end the present one.
    number: u64,
    endpoint: String,
    pub(crate) kv: KvClient,
    pub(crate) watch: WatchClient,
    pub(crate) lease: LeaseClient,
    pub(crate) auth: AuthClient,
    pub(crate) maintenance: MaintenanceClient,
    pub(crate) cluster: ClusterClient,
}

impl Connection {
    /// To one endpoint; connects when first used and again whenever the connection breaks.
    pub(crate) async fn new(endpoint: &str, tls: Option<&EtcdTls>) -> Result<Self, StoreError> {
        // A member without a majority would keep a watch open and send nothing.
        Self::with(endpoint, tls, true).await
    }

    /// The same; without `require_leader` also to a member that has lost its majority.
    pub(crate) async fn with(
        endpoint: &str,
        tls: Option<&EtcdTls>,
        require_leader: bool,
    ) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_require_leader(require_leader);
        if let Some(tls) = tls {
            let mut tls = tls.clone();
            if let Some(host) = host_of(endpoint) {
                tls = tls.domain_name(host);
            }
            options = options.with_tls(tls);
        }
        let client = Client::connect([endpoint], Some(options)).await.map_err(|error| classify(&error))?;
        Ok(Self {
            number: 0,
            endpoint: endpoint.to_owned(),
            kv: client.kv_client().max_decoding_message_size(MAX_RESPONSE_BYTES),
            watch: client.watch_client().max_decoding_message_size(MAX_RESPONSE_BYTES),
            lease: client.lease_client(),
            auth: client.auth_client(),
            maintenance: client.maintenance_client(),
            cluster: client.cluster_client(),
        })
    }

    /// Waits for an answer that this member can give only with a majority.
    pub(crate) async fn answers(&self) -> Result<(), StoreError> {
        let mut kv = self.kv.clone();
        let options = GetOptions::new().with_count_only();
        match kv.get(NO_KEY, Some(options)).await.map_err(|error| classify(&error)) {
            Err(error @ StoreError::Retryable(_)) => Err(error),
            // A refusal is an answer too; the call itself will meet it and say so.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// All endpoints, and the connection in use.
pub(crate) struct Connections {
    endpoints: Box<[String]>,
    state: Mutex<State>,
    /// Held while the members are asked, so that they are asked once for all calls that wait.
    choosing: tokio::sync::Mutex<()>,
}

struct State {
    tls: Option<EtcdTls>,
    /// Counts the connections that were taken into use or given up.
    number: u64,
    connection: Option<Connection>,
}

impl Connections {
    pub(crate) async fn new(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, StoreError> {
        let connection = only(endpoints, tls.as_ref()).await?;
        Ok(Self {
            endpoints: endpoints.into(),
            state: Mutex::new(State { tls, number: 0, connection }),
            choosing: tokio::sync::Mutex::new(()),
        })
    }

    /// Connects anew, with other certificates.
    pub(crate) async fn replace_tls(&self, tls: EtcdTls) -> Result<(), StoreError> {
        let connection = only(&self.endpoints, Some(&tls)).await?;
        let mut state = self.state();
        state.tls = Some(tls);
        state.number += 1;
        let number = state.number;
        state.connection = connection.map(|connection| Connection { number, ..connection });
        Ok(())
    }

    pub(crate) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    pub(crate) fn tls(&self) -> Option<EtcdTls> {
        self.state().tls.clone()
    }

    /// The endpoint of the connection in use.
    pub(crate) fn in_use(&self) -> Option<String> {
        self.state().connection.as_ref().map(|connection| connection.endpoint.clone())
    }

    /// Whether another member could be used in place of one that fails.
    pub(crate) fn has_alternatives(&self) -> bool {
        self.endpoints.len() > 1
    }

    /// The connection in use, or a new one to the member that answers first.
    pub(crate) async fn connection(&self) -> Result<Connection, StoreError> {
        loop {
            if let Some(connection) = self.state().connection.clone() {
                return Ok(connection);
            }
            let _choosing = self.choosing.lock().await;
            let (tls, number) = {
                let state = self.state();
                if let Some(connection) = state.connection.clone() {
                    return Ok(connection);
                }
                (state.tls.clone(), state.number)
            };
            let chosen = choose(&self.endpoints, tls.as_ref()).await?;
            let mut state = self.state();
            // Other certificates may have come meanwhile.
            if state.number == number {
                state.number += 1;
                state.connection = Some(Connection { number: state.number, ..chosen });
            }
        }
    }

    /// Gives a connection up that failed, so that the next call asks all members again. With one endpoint there is
    /// nothing to choose: its connection breaks and comes back by itself.
    pub(crate) fn give_up(&self, failed: &Connection, reason: &StoreError) {
        if !self.has_alternatives() {
            return;
        }
        let mut state = self.state();
        if state.connection.as_ref().is_some_and(|connection| connection.number == failed.number) {
            tracing::debug!(failed = failed.endpoint, %reason, "asking all members of etcd which of them answers");
            state.connection = None;
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks the settings of every endpoint; when there is one only, this is its connection.
async fn only(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Option<Connection>, StoreError> {
    if endpoints.is_empty() {
        return Err(StoreError::Terminal("no endpoint of etcd is given".to_owned()));
    }
    let mut connection = None;
    for endpoint in endpoints {
        connection = Some(Connection::new(endpoint, tls).await?);
    }
    Ok(connection.filter(|_| endpoints.len() == 1))
}

/// A connection to the member that answers first.
async fn choose(endpoints: &[String], tls: Option<&EtcdTls>) -> Result<Connection, StoreError> {
    let ask = |endpoint: &str| {
        let endpoint = endpoint.to_owned();
        async move {
            let asked = timeout(CHOICE_TIMEOUT, async {
                let connection = Connection::new(&endpoint, tls).await?;
                connection.answers().await?;
                Ok::<_, StoreError>(connection)
            });
            match asked.await {
                Ok(Ok(connection)) => Ok(connection),
                Ok(Err(StoreError::Retryable(reason))) => Err(format!("{endpoint}: {reason}")),
                Ok(Err(error)) => Err(format!("{endpoint}: {error}")),
                Err(_) => Err(format!("{endpoint}: no answer within {} s", CHOICE_TIMEOUT.as_secs())),
            }
        }
    };
    let mut asked: FuturesUnordered<_> = endpoints.iter().map(|endpoint| ask(endpoint)).collect();
    let mut problems = Vec::new();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(connection) => return Ok(connection),
            Err(problem) => problems.push(problem),
        }
    }
    problems.sort();
    Err(StoreError::Retryable(problems.join("; ")))
}

/// The host in an endpoint's URL, which that member's certificate must name.
fn host_of(endpoint: &str) -> Option<String> {
    let uri: http::Uri = endpoint.parse().ok()?;
    // A URL has an IPv6 address in brackets, a certificate has not.
    uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_must_name_the_host_of_its_own_endpoint() {
        for (endpoint, host) in [
            ("https://localhost:12379", Some("localhost")),
            ("https://db1.example.net:12379/", Some("db1.example.net")),
            ("https://10.0.0.7:12379", Some("10.0.0.7")),
            ("https://[::1]:12379", Some("::1")),
            ("https://[fd00::7]", Some("fd00::7")),
            ("db1:12379", Some("db1")),
            ("", None),
        ] {
            assert_eq!(host_of(endpoint).as_deref(), host, "{endpoint}");
        }
    }
}
