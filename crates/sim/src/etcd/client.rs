//! Calls on their way to the store, and the client that makes them.

use async_trait::async_trait;
use cellar_topology::{Entry, Guard, Kv, LeaseId, Listing, StoreError, TxnOutcome, WatchStream, Write};
use tokio::sync::oneshot;

use crate::etcd::{Etcd, Event, HostId, retryable};

pub(super) enum Call {
    Get(String, oneshot::Sender<Result<Option<Entry>, StoreError>>),
    List(String, oneshot::Sender<Result<Listing, StoreError>>),
    Txn(Vec<Guard>, Vec<Write>, oneshot::Sender<Result<TxnOutcome, StoreError>>),
    Watch(String, i64, oneshot::Sender<Result<WatchStream, StoreError>>),
    Grant(u32, oneshot::Sender<Result<LeaseId, StoreError>>),
    KeepAlive(LeaseId, oneshot::Sender<Result<bool, StoreError>>),
    Revoke(LeaseId, oneshot::Sender<Result<(), StoreError>>),
}

impl Call {
    /// The event of its failure.
    pub(super) fn fails(self, text: &'static str) -> Event {
        Event::Answered(match self {
            Self::Get(_, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::List(_, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::Txn(_, _, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::Watch(_, _, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::Grant(_, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::KeepAlive(_, reply) => Box::new(move || drop(reply.send(retryable(text)))),
            Self::Revoke(_, reply) => Box::new(move || drop(reply.send(retryable(text)))),
        })
    }

    /// The same call with nobody who waits for it, and the event of its failure for whoever does.
    pub(super) fn split(self) -> (Self, Event) {
        let text = "request timed out";
        let silent = match &self {
            Self::Get(key, _) => Self::Get(key.clone(), oneshot::channel().0),
            Self::List(prefix, _) => Self::List(prefix.clone(), oneshot::channel().0),
            Self::Txn(guards, writes, _) => Self::Txn(guards.clone(), writes.clone(), oneshot::channel().0),
            Self::Watch(prefix, revision, _) => Self::Watch(prefix.clone(), *revision, oneshot::channel().0),
            Self::Grant(ttl, _) => Self::Grant(*ttl, oneshot::channel().0),
            Self::KeepAlive(lease, _) => Self::KeepAlive(*lease, oneshot::channel().0),
            Self::Revoke(lease, _) => Self::Revoke(*lease, oneshot::channel().0),
        };
        (silent, self.fails(text))
    }
}

/// One host's connection.
pub(super) struct Client {
    pub(super) etcd: Etcd,
    pub(super) host: HostId,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Client {
    async fn call<T>(
        &self,
        call: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Call,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.etcd.lock().send(self.host, call(reply));
        answer.await.unwrap_or_else(|_| retryable("the connection is gone"))
    }
}

#[async_trait]
impl Kv for Client {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.call(|reply| Call::Get(key.to_owned(), reply)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.call(|reply| Call::List(prefix.to_owned(), reply)).await
    }

    async fn txn(&self, guards: Vec<Guard>, writes: Vec<Write>) -> Result<TxnOutcome, StoreError> {
        self.call(|reply| Call::Txn(guards, writes, reply)).await
    }

    async fn watch(&self, prefix: &str, revision: i64) -> Result<WatchStream, StoreError> {
        self.call(|reply| Call::Watch(prefix.to_owned(), revision, reply)).await
    }

    async fn grant(&self, ttl: u32) -> Result<LeaseId, StoreError> {
        self.call(|reply| Call::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<bool, StoreError> {
        self.call(|reply| Call::KeepAlive(lease, reply)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|reply| Call::Revoke(lease, reply)).await
    }
}
