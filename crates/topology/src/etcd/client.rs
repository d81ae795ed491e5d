//! An etcd client that is a [`Kv`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    AlarmAction, AlarmType, Compare, CompareOp, Error, EventType, GetOptions, KeyValue, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, WatchOptions, WatchResponse,
};
use futures_util::{StreamExt, stream};
use tokio::time::timeout;

use crate::error::StoreError;
use crate::etcd::connection::{Connection, Connections, EtcdTls};
use crate::etcd::errors::classify;
use crate::kv::{Change, Entry, Guard, Kv, LeaseId, Listing, Page, TxnOutcome, WatchStream, Write};

/// How long one call may take. A healthy etcd answers in milliseconds; five seconds are enough to
/// elect a new leader (its default election timeout is one second).
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the first attempt at a call may take that may be repeated at another member: then half of the call's time
/// is left for that one.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(2500);

/// Keys per request when listing, so that no single answer blocks etcd's connection for long, or needs much memory here.
const LIST_PAGE_SIZE: i64 = 100;

/// etcd over gRPC. Clones share the connection, which is one to one member.
#[derive(Clone)]
pub struct EtcdKv {
    connections: Arc<Connections>,
}

impl std::fmt::Debug for EtcdKv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EtcdKv")
    }
}

impl EtcdKv {
    /// A client of the given endpoints (`https://host:port`), those of all members or some. Connects when first used,
    /// and again whenever the connection breaks: to the member that answers first. The certificate of each must name
    /// the host in its endpoint, whatever name `tls` has.
    ///
    /// # Errors
    /// [`StoreError::Terminal`] when an endpoint is not a URL.
    pub async fn connect(endpoints: &[String], tls: Option<EtcdTls>) -> Result<Self, StoreError> {
        Ok(Self { connections: Arc::new(Connections::new(endpoints, tls).await?) })
    }

    /// Makes every call from now on over a new connection with other certificates. Open watches continue on the old
    /// connection until it breaks, so that no change is missed.
    ///
    /// # Errors
    /// When the TLS settings are refused; the old connection stays.
    pub async fn reconnect(&self, tls: EtcdTls) -> Result<(), StoreError> {
        self.connections.replace_tls(tls).await
    }

    /// The endpoint that is in use, if one is: for logs and tests.
    #[must_use]
    pub fn endpoint_in_use(&self) -> Option<String> {
        self.connections.in_use()
    }

    pub(crate) fn connections(&self) -> &Connections {
        &self.connections
    }

    /// A call that must not be repeated unseen: it may have been carried out although no answer came.
    pub(crate) async fn once<T, F>(&self, call: impl FnOnce(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.within(CALL_TIMEOUT, call).await
    }

    /// A call that may be carried out twice: when a member fails it, another gets it within the same time.
    pub(crate) async fn repeatable<T, F>(&self, call: impl Fn(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        if !self.connections.has_alternatives() {
            return self.once(call).await;
        }
        match self.within(ATTEMPT_TIMEOUT, &call).await {
            Err(StoreError::Retryable(reason)) => {
                tracing::debug!(reason, "trying another member of etcd");
                self.within(CALL_TIMEOUT.saturating_sub(ATTEMPT_TIMEOUT), &call).await
            }
            outcome => outcome,
        }
    }

    async fn within<T, F>(&self, limit: Duration, call: impl FnOnce(Connection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut used = None;
        let made = async {
            let connection = self.connections.connection().await?;
            used = Some(connection.clone());
            call(connection).await.map_err(|error| classify(&error))
        };
        let outcome = timeout(limit, made).await.unwrap_or_else(|_| {
            Err(StoreError::Retryable(format!("no answer within {} s", limit.as_secs_f32())))
        });
        if let (Some(used), Err(error @ StoreError::Retryable(_))) = (used, &outcome) {
            self.connections.give_up(&used, error);
        }
        outcome
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
        let response = self.repeatable(|mut to| async move { to.kv.get(key, None).await }).await?;
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
        // All pages at the first page's revision: one consistent picture.
        let (from, revision) = next.unwrap_or_else(|| (prefix.as_bytes().to_vec(), 0));
        let options = GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_limit(LIST_PAGE_SIZE)
            .with_sort(SortTarget::Key, SortOrder::Ascend)
            .with_revision(revision);
        let get = |mut to: Connection| {
            let (from, options) = (from.clone(), options.clone());
            async move { to.kv.get(from, Some(options)).await }
        };
        let response = self.repeatable(get).await?;
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
        let txn = Txn::new().when(compares).and_then(ops);
        let response = self.once(|mut to| async move { to.kv.txn(txn).await }).await?;
        if response.succeeded() {
            Ok(TxnOutcome::Committed(response.header().map_or(0, etcd_client::ResponseHeader::revision)))
        } else {
            Ok(TxnOutcome::Conflict)
        }
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        let options = WatchOptions::new().with_range(prefix_end(prefix)).with_start_revision(revision);
        // etcd's first message says that the watch was created.
        let open = |mut to: Connection| {
            let options = options.clone();
            async move {
                let mut watch = to.watch.watch(prefix, Some(options)).await?;
                let first = watch.message().await?;
                Ok((first, watch, to))
            }
        };
        let (first, watch, to) = self.repeatable(open).await?;
        let first = changes(&first.ok_or_else(ended)?);
        let watch = first.is_ok().then_some(watch);
        let open = watch.map(|watch| (watch, to, Arc::clone(&self.connections)));
        let rest = stream::unfold(open, |open| async move {
            let (mut watch, to, connections) = open?;
            let item = match watch.message().await {
                Ok(Some(response)) => changes(&response),
                Ok(None) => Err(ended()),
                Err(error) => Err(classify(&error)),
            };
            // Calls on this connection would only find out for themselves, each after its whole time.
            if let Err(error @ StoreError::Retryable(_)) = &item {
                connections.give_up(&to, error);
            }
            let open = item.is_ok().then_some((watch, to, connections));
            Some((item, open))
        });
        Ok(stream::once(std::future::ready(first)).chain(rest).boxed())
    }

    async fn alarms(&self) -> Result<Vec<String>, StoreError> {
        let ask = |mut to: Connection| async move {
            to.maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await
        };
        let response = self.repeatable(ask).await?;
        let names = response.alarms().iter().map(|alarm| alarm_name(alarm.alarm()));
        // Each member sets its own.
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        // A lease that was granted without an answer ends by itself.
        let grant = |mut to: Connection| async move { to.lease.grant(i64::from(ttl), None).await };
        Ok(LeaseId(self.repeatable(grant).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        // Opening the stream renews once and waits for the answer, which is all that is needed here;
        // an ended lease is reported by etcd-client as an error of its own.
        let renew = |mut to: Connection| async move {
            match to.lease.keep_alive(lease.0).await {
                Ok(_) => Ok(true),
                Err(error) if is_not_found(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.repeatable(renew).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoke = |mut to: Connection| async move {
            match to.lease.revoke(lease.0).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(()),
            }
        };
        self.repeatable(revoke).await
    }
}

/// The name of an alarm.
pub(crate) fn alarm_name(alarm: AlarmType) -> String {
    match alarm {
        AlarmType::None => "NONE",
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
    }
    .to_owned()
}

fn is_not_found(error: &Error) -> bool {
    error.to_string().contains("lease not found")
}

/// The first key after all keys with the prefix, which ends with `/`, so that the last byte can be raised; of any other text
/// the first after the key that it is.
pub(crate) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if !prefix.ends_with('/') {
        end.push(0);
        return end;
    }
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
