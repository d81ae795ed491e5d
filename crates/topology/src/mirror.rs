//! List, then watch from that revision; list again when the watch breaks.
//!
//! As Kubernetes' informers do it: a watch that ends, for whatever reason, is
//! followed by a new listing, because the changes in between are not known
//! (compaction, or an etcd that was restored to an older state).

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::store::Store;
use crate::view::ended_jobs::Scope;
use crate::view::records::View;

/// How soon a new listing follows a broken watch.
const RELIST_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
struct Shared {
    view: RwLock<View>,
    /// Counts changes of the view, to wake those who wait.
    version: watch::Sender<u64>,
    /// For each prefix whether its watch is open, else since when it is not.
    watches: RwLock<Vec<Result<(), Instant>>>,
    scope: Scope,
    /// Counts the demands for new listings of every prefix.
    relist: watch::Sender<u64>,
}

impl Shared {
    fn set_open(&self, at: usize, open: bool) {
        let mut watches = self.watches.write().unwrap_or_else(PoisonError::into_inner);
        match (open, watches[at]) {
            (true, _) => watches[at] = Ok(()),
            (false, Ok(())) => watches[at] = Err(Instant::now()),
            (false, Err(_)) => {}
        }
    }
}

/// A [`View`] of some prefixes that follows the store.
#[derive(Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Mirror {
    /// Begins to follow the given prefixes, with everything below them.
    #[must_use]
    pub fn start(store: &Store, prefixes: Vec<String>) -> Self {
        Self::start_with(store, prefixes, Scope::Everything)
    }

    /// Begins to follow the given prefixes, with the jobs of `scope`.
    #[must_use]
    pub fn start_with(store: &Store, prefixes: Vec<String>, scope: Scope) -> Self {
        let shared = Arc::new(Shared {
            view: RwLock::new(View::of_scope(scope.clone())),
            scope,
            relist: watch::Sender::new(0),
            version: watch::Sender::new(0),
            watches: RwLock::new(vec![Err(Instant::now()); prefixes.len()]),
        });
        let tasks = prefixes
            .into_iter()
            .enumerate()
            .map(|(at, prefix)| {
                let (store, shared) = (store.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    loop {
                        if let Err(error) = follow(&store, &prefix, at, &shared).await {
                            tracing::debug!(prefix, %error, "listing again");
                        }
                        shared.set_open(at, false);
                        tokio::time::sleep(RELIST_INTERVAL).await;
                    }
                })
            })
            .collect();
        Self { shared, tasks }
    }

    /// The view as it is now. Do not hold the guard across an await.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.shared.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that sees a new value whenever the view has changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// For how long the view may have been out of date; `None` while every watch is open.
    ///
    /// Counts from when the loss was noticed: at once for a connection that was closed, after the
    /// keepalive's eight seconds for an etcd that stopped answering.
    #[must_use]
    pub fn stale_for(&self) -> Option<Duration> {
        let watches = self.shared.watches.read().unwrap_or_else(PoisonError::into_inner);
        watches.iter().filter_map(|watch| watch.err()).map(|since| since.elapsed()).max()
    }

    /// Waits until every prefix has been listed and is watched.
    ///
    /// # Errors
    /// [`StoreError::Retryable`] when that takes longer than `timeout`.
    pub async fn ready(&self, timeout: Duration) -> Result<(), StoreError> {
        self.wait_for(timeout, |_| self.stale_for().is_none()).await
    }

    /// Waits until the view satisfies `condition`.
    ///
    /// # Errors
    /// [`StoreError::Retryable`] when that takes longer than `timeout`.
    pub async fn wait_for(
        &self,
        timeout: Duration,
        mut condition: impl FnMut(&View) -> bool,
    ) -> Result<(), StoreError> {
        let mut changes = self.changes();
        let wait = async {
            loop {
                changes.borrow_and_update();
                if condition(&self.view()) {
                    return;
                }
                // The sender lives as long as `self`.
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(timeout, wait)
            .await
            .map_err(|_| StoreError::Retryable(format!("not within {} s", timeout.as_secs_f32())))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// One round: list, then watch until the watch breaks.
async fn follow(store: &Store, prefix: &str, at: usize, shared: &Shared) -> Result<(), StoreError> {
    let mut demanded = shared.relist.subscribe();
    demanded.borrow_and_update();
    let mut listed = View::of_scope(shared.scope.clone());
    let mut next = None;
    let revision = loop {
        let page = store.kv().list_page(prefix, next.take()).await?;
        listed.load(store.keys(), &page.entries);
        match page.next {
            Some(from) => next = Some((from, page.revision)),
            None => break page.revision,
        }
    };
    let mut watch = store.kv().watch(prefix, revision + 1).await?;
    // The first item says that the watch is open.
    match watch.next().await {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Err(error),
        None => return Ok(()),
    }
    {
        let mut view = shared.view.write().unwrap_or_else(PoisonError::into_inner);
        view.replace(store.keys(), prefix, listed);
        if view.take_behind() {
            shared.relist.send_modify(|count| *count += 1);
        }
    }
    shared.set_open(at, true);
    shared.version.send_modify(|version| *version += 1);
    loop {
        let changes = tokio::select! {
            changes = watch.next() => changes,
            _ = demanded.changed() => return Ok(()),
        };
        let Some(changes) = changes else { return Ok(()) };
        let changes = changes?;
        if changes.is_empty() {
            continue;
        }
        {
            let mut view = shared.view.write().unwrap_or_else(PoisonError::into_inner);
            for change in &changes {
                view.apply(store.keys(), change);
            }
            if view.take_behind() {
                shared.relist.send_modify(|count| *count += 1);
            }
        }
        shared.version.send_modify(|version| *version += 1);
    }
}
