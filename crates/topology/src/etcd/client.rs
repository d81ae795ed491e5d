//! An etcd client that is a [`Kv`].

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    AlarmAction, AlarmType, AuthClient, Client, Compare, CompareOp, ConnectOptions, Error, EventType,
    GetOptions, KeyValue, KvClient, LeaseClient, MaintenanceClient, PutOptions, SortOrder, SortTarget,
    TlsOptions, Txn, TxnOp, WatchClient, WatchOptions, WatchResponse,
};
use futures_util::{StreamExt, stream};

use crate::error::StoreError;
use crate::etcd::errors::classify;
use crate::kv::{Change, Entry, Guard, Kv, LeaseId, Listing, Page, TxnOutcome, WatchStream, Write};

/// The TLS configuration of an etcd client.
pub type EtcdTls = TlsOptions;

/// How long one call may take. A healthy etcd answers in milliseconds; five seconds are enough to
/// elect a new leader (its default election timeout is one second).
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long connecting to one endpoint may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A half-open connection is noticed after the sum of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Keys per request when listing, so that no single answer blocks etcd's connection for long, or needs much memory here.
const LIST_PAGE_SIZE: i64 = 100;

/// gRPC clients refuse answers above 4 MiB by default. etcd limits the size of requests, not of
/// answers: a page, or the past changes that a watch begins with, is as large as the records in it.
const MAX_RESPONSE_BYTES: usize = usize::MAX;

/// etcd over gRPC. Clones share the connection.
#[derive(Clone)]
pub struct EtcdKv {
    endpoints: Arc<[String]>,
    connected: Arc<RwLock<Connected>>,
}

#[derive(Clone)]
struct Connected {
    kv: KvClient,
    watch: WatchClient,
    lease: LeaseClient,
    auth: AuthClient,
    maintenance: MaintenanceClient,
}

impl std::fmt::Debug for EtcdKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdKv")
    }
}

impl EtcdKv {
    /// A client of the given endpoints (`https://host:port`). Connects when first used and again
    /// whenever the connection breaks.
    ///
    /// # Errors
    /// [`StoreError::Terminal`] when an endpoint is not a URL.
    pub async fn connect(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, StoreError> {
        let connected = Connected::new(endpoints, tls).await?;
        Ok(Self { endpoints: endpoints.into(), connected: Arc::new(RwLock::new(connected)) })
    }

    /// Makes every call from now on over a new connection with other certificates. Open watches continue on the old
    /// connection until it breaks, so that no change is missed.
    ///
    /// # Errors
    /// When the TLS settings are refused; the old connection stays.
    pub async fn reconnect(&self, tls: EtcdTls) -> Result<(), StoreError> {
        let connected = Connected::new(&self.endpoints, Some(tls)).await?;
        *self.connected.write().unwrap_or_else(PoisonError::into_inner) = connected;
        Ok(())
    }

    fn clients(&self) -> Connected {
        self.connected.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// etcd's users and roles.
    pub(crate) fn auth(&self) -> AuthClient {
        self.clients().auth
    }
}

impl Connected {
    async fn new(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, StoreError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT)
            .with_keep_alive_while_idle(true)
            // A member without a majority would keep a watch open and send nothing.
            .with_require_leader(true);
        if let Some(tls) = tls {
            options = options.with_tls(tls);
        }
        let client = Client::connect(endpoints, Some(options)).await.map_err(|error| classify(&error))?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(MAX_RESPONSE_BYTES),
            watch: client.watch_client().max_decoding_message_size(MAX_RESPONSE_BYTES),
            lease: client.lease_client(),
            auth: client.auth_client(),
            maintenance: client.maintenance_client(),
        })
    }
}

pub(crate) async fn timed<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result.map_err(|error| classify(&error)),
        Err(_) => Err(StoreError::Retryable(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))),
    }
}

fn ended() -> StoreError {
    StoreError::Retryable("the watch ended".to_owned())
}

/// The changes in one message of a watch.
fn changes(response: &WatchResponse) -> Result<Vec<Change>, StoreError> {
    if response.compact_revision() != 0 {
        return Err(StoreError::Compacted);
    }
    if response.canceled() {
        return Err(StoreError::Retryable(response.cancel_reason().to_owned()));
    }
    let change = |event: &etcd_client::Event| {
        let entry = entry(event.kv()?);
        Some(match event.event_type() {
            EventType::Put => Change::Put(entry),
            EventType::Delete => Change::Delete { key: entry.key, revision: entry.revision },
        })
    };
    Ok(response.events().iter().filter_map(change).collect())
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        // A key that is not UTF-8 is not one of ours; its readable part is listed as unreadable.
        key: String::from_utf8_lossy(kv.key()).into_owned(),
        value: kv.value().to_vec(),
        revision: kv.mod_revision(),
    }
}

#[async_trait]
impl Kv for EtcdKv {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let mut client = self.clients().kv;
        let response = timed(client.get(key, None)).await?;
        Ok(response.kvs().first().map(entry))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let (mut entries, mut next) = (Vec::new(), None);
        loop {
            match self.list_page(prefix, next.take()).await {
                // Somebody compacted between two pages: start again.
                Err(StoreError::Compacted) => entries.clear(),
                page => {
                    let page = page?;
                    entries.extend(page.entries);
                    match page.next {
                        Some(from) => next = Some((from, page.revision)),
                        None => return Ok(Listing { entries, revision: page.revision }),
                    }
                }
            }
        }
    }

    async fn list_page(&self, prefix: &str, next: Option<(Vec<u8>, i64)>) -> Result<Page, StoreError> {
        let mut client = self.clients().kv;
        // All pages at the first page's revision: one consistent picture.
        let (from, revision) = next.unwrap_or_else(|| (prefix.as_bytes().to_vec(), 0));
        let options = GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_limit(LIST_PAGE_SIZE)
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_revision(revision);
        let response = timed(client.get(from, Some(options))).await?;
        let of_first = || response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let next = response.kvs().last().filter(|_| response.more()).map(|last| {
            let mut from = last.key().to_vec();
            from.push(0);
            from
        });
        Ok(Page {
            entries: response.kvs().iter().map(entry).collect(),
            revision: if revision == 0 { of_first() } else { revision },
            next,
        })
    }

    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        let mut client = self.clients().kv;
        let compares: Vec<Compare> =
            guards.into_iter().map(|g| Compare::mod_revision(g.key, CompareOp::Equal, g.revision)).collect();
        let ops: Vec<TxnOp> = writes
            .into_iter()
            .map(|write| match write {
                Write::Put { key, value, lease } => {
                    let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                    TxnOp::put(key, value, options)
                }
                Write::Delete { key } => TxnOp::delete(key, None),
            })
            .collect();
        let response = timed(client.txn(Txn::new().when(compares).and_then(ops))).await?;
        if response.succeeded() {
            Ok(TxnOutcome::Committed(response.header().map_or(0, etcd_client::ResponseHeader::revision)))
        } else {
            Ok(TxnOutcome::Conflict)
        }
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        let mut client = self.clients().watch;
        let options = WatchOptions::new().with_prefix().with_start_revision(revision);
        // etcd's first message says that the watch was created.
        let opened = timed(async {
            let mut watch = client.watch(prefix, Some(options)).await?;
            let first = watch.message().await?;
            Ok((first, watch))
        });
        let (first, watch) = opened.await?;
        let first = changes(&first.ok_or_else(ended)?);
        let watch = first.is_ok().then_some(watch);
        let rest = stream::unfold(watch, |watch| async move {
            let mut watch = watch?;
            let item = match watch.message().await {
                Ok(Some(response)) => changes(&response),
                Ok(None) => Err(ended()),
                Err(error) => Err(classify(&error)),
            };
            let watch = item.is_ok().then_some(watch);
            Some((item, watch))
        });
        Ok(stream::once(std::future::ready(first)).chain(rest).boxed())
    }

    async fn alarms(&self) -> Result<Vec<String>, StoreError> {
        let mut client = self.clients().maintenance;
        let response = timed(client.alarm(AlarmAction::Get, AlarmType::None, None)).await?;
        let names = response.alarms().iter().map(|alarm| match alarm.alarm() {
            AlarmType::None => "NONE".to_owned(),
            AlarmType::Nospace => "NOSPACE".to_owned(),
            AlarmType::Corrupt => "CORRUPT".to_owned(),
        });
        // Each member sets its own.
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        let mut client = self.clients().lease;
        Ok(LeaseId(timed(client.grant(i64::from(ttl), None)).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        let mut client = self.clients().lease;
        // Opening the stream renews once and waits for the answer, which is all that is needed here;
        // an ended lease is reported by etcd-client as an error of its own.
        match timed(client.keep_alive(lease.0)).await {
            Ok(_) => Ok(true),
            Err(StoreError::Retryable(text) | StoreError::Terminal(text))
                if text.contains("lease not found") =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut client = self.clients().lease;
        match timed(client.revoke(lease.0)).await {
            Ok(_) => Ok(()),
            Err(StoreError::Terminal(text)) if text.contains("lease not found") => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The first key after all keys with the prefix. Ours end with `/`, so the last byte can be raised.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
