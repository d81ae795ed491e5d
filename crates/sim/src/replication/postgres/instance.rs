//! One instance: its processes with the settings that they go by, who streams to and from it, and what waits.

use std::collections::BTreeMap;
use std::time::Duration;

use cellar_pooler::failover::{Kept, Replication};
use cellar_postgres::{NOBODY, ShownSettings};
use tokio::sync::oneshot;

use crate::replication::data::Data;

/// What PostgreSQL is configured with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config(pub Replication);

impl Config {
    /// What a session shows.
    #[must_use]
    pub fn shown(&self) -> ShownSettings {
        let upstream = self.0.upstream.as_ref();
        ShownSettings {
            primary_conninfo: upstream.map_or_else(String::new, |cell| {
                format!("host={cell} application_name={}", self.0.standby_name)
            }),
            restore_command: format!("{:?}", self.0.from_archive),
            synchronous_standby_names: self.0.acknowledge.clone().unwrap_or_default(),
        }
    }

    /// Of whom how many must have a commit; none when nothing is acknowledged.
    pub(super) fn rule(&self) -> Option<(usize, Vec<&str>)> {
        let text = self.0.acknowledge.as_deref().unwrap_or_default();
        if text.is_empty() {
            return Some((0, Vec::new()));
        }
        if text == NOBODY {
            return None;
        }
        let (k, names) = text.strip_prefix("ANY ")?.split_once(' ')?;
        let names = names.trim_matches(['(', ')']).split(", ").map(|name| name.trim_matches('"')).collect();
        Some((k.parse().ok()?, names))
    }
}

/// One kind of PostgreSQL's processes, with the settings that it goes by.
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) goes_by: Config,
    /// What it has been told, and when it heeds that.
    pub(super) told: Option<(Duration, Config)>,
}

impl Process {
    pub(super) fn new(config: &Config) -> Self {
        Self { goes_by: config.clone(), told: None }
    }

    pub(super) fn heed(&mut self, now: Duration) {
        if let Some((_, config)) = self.told.take_if(|(at, _)| *at <= now) {
            self.goes_by = config;
        }
    }
}

/// A standby's WAL receiver.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// From whom.
    pub from: usize,
    /// As which standby.
    pub(super) name: String,
    /// When something came last.
    pub heard: Duration,
}

/// A standby as its primary knows it.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Its name.
    pub name: String,
    /// How many records it has flushed.
    pub flushed: u64,
    pub(super) heard: Duration,
}

/// A commit that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    /// Before how many records it lies.
    pub(super) place: u64,
    pub(super) id: u64,
    /// Of the canary: whom to tell.
    pub(super) canary: Option<oneshot::Sender<()>>,
}

/// A running instance.
#[derive(Debug)]
pub struct Running {
    /// It recovers until then.
    pub ready: Duration,
    /// It does nothing until then.
    pub frozen_until: Duration,
    pub(super) session: Process,
    pub(super) walsenders: Process,
    /// Startup process, walreceiver, archiver.
    pub(super) others: Process,
    /// The walreceiver.
    pub receiver: Option<Receiver>,
    pub(super) connects: Duration,
    /// Who streams from here, by cell.
    pub senders: BTreeMap<usize, Sender>,
    pub(super) waiters: Vec<Waiter>,
    /// It leaves recovery then.
    pub(super) promotes: Option<Duration>,
    /// It shuts down: it takes no commit any more, and ends when its standbys have all, or at that moment.
    pub(super) shuts_down: Option<Duration>,
    pub(super) archives_at: Duration,
    /// Why the archive did not take what was brought last: pgBackRest takes no other content under a name that it has.
    pub refused: Option<String>,
}

/// One cell's host, without its multipooler.
#[derive(Debug, Default)]
pub struct Server {
    /// The data directory.
    pub data: Option<Data>,
    /// A restore into it was begun and is not finished.
    pub seeding: bool,
    /// The file of what must not be forgotten.
    pub kept: Option<Kept>,
    /// The configuration files.
    pub config: Option<Config>,
    /// PostgreSQL.
    pub running: Option<Running>,
}

/// A commit that a client was told of.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// By which cell.
    pub by: usize,
    /// Before how many records it lies.
    pub place: u64,
    /// The record.
    pub id: u64,
}

impl Server {
    /// Whether it runs and lets sessions in.
    #[must_use]
    pub fn is_open(&self, now: Duration) -> bool {
        self.running.as_ref().is_some_and(|running| running.ready <= now && running.frozen_until <= now)
    }

    /// Whether it runs as a primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.running.is_some() && self.data.as_ref().is_some_and(|data| !data.recovers)
    }

    /// Whether it runs as a primary that may acknowledge.
    #[must_use]
    pub fn acknowledges(&self) -> bool {
        let rule = self.running.as_ref().map(|running| running.walsenders.goes_by.rule().is_some());
        self.is_primary() && rule == Some(true)
    }

    /// What a session shows of the settings.
    #[must_use]
    pub fn shown(&self) -> Option<ShownSettings> {
        self.running.as_ref().map(|running| running.session.goes_by.shown())
    }

    /// Whether a canary's commit waits for standbys.
    #[must_use]
    pub fn canary_waits(&self) -> bool {
        let waits = |waiter: &Waiter| waiter.canary.as_ref().is_some_and(|canary| !canary.is_closed());
        self.running.as_ref().is_some_and(|running| running.waiters.iter().any(waits))
    }

    /// Ends PostgreSQL at once.
    pub fn kill(&mut self) {
        self.running = None;
    }
}

impl Running {
    /// Whether a standby's acknowledgement counts, as its walsender sees it.
    #[must_use]
    pub fn counts(&self, name: &str) -> bool {
        self.walsenders.goes_by.rule().is_some_and(|(_, names)| names.contains(&name))
    }
}
