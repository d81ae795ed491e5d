//! A multipooler: the real code of quorum commit on a modelled PostgreSQL, with a model of what starts and stops that.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cellar_api::v1::MemberFacts;
use cellar_model::availability::Stop;
use cellar_model::{
    CLAIM_LEASE_SECONDS, CellName, CopyNumber, Database, DatabaseName, Keyspace, Leadership, Lsn, OwnClaims,
    Phase, Pooler, SegmentSize, SystemIdentifier, Term, Timeline,
};
use cellar_pooler::failover::{
    Availability, Canary, ConfigFileError, Kept, KeptFile, NoAnswer, Server, run as act, under_quorum,
};
use cellar_pooler::{ClaimOnCell, Member};
use cellar_postgres::{MemberLook, PostgresError, Receiver, ShownSettings, StreamingStandby};
use cellar_system::clock;
use cellar_topology::{Kv, LeaseKeeper, Mirror, Scope, Store};
use tokio::sync::{Notify, oneshot};

use crate::random::Chance;
use crate::replication::data::{Content, lsn};
use crate::replication::network::Network;
use crate::replication::postgres::{Config, Servers};

/// How often whoever starts and stops PostgreSQL looks.
const SUPERVISE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a look may take (`LOOK_TIMEOUT` of the multipooler).
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time that a restore takes.
const MAX_RESTORE: Duration = Duration::from_secs(15);

/// Everything that a member of the simulation is made from.
#[derive(Debug, Clone)]
pub struct MemberSetup {
    /// The database.
    pub database: DatabaseName,
    /// The cell.
    pub cell: CellName,
    /// The cell's index in [`Servers`].
    pub index: usize,
    /// Where etcd's keys are.
    pub keys: Keyspace,
    /// PostgreSQL.
    pub servers: Rc<RefCell<Servers>>,
    /// The network to the other members.
    pub network: Network,
    /// Chance.
    pub chance: Chance,
}

struct Host {
    process: Member,
    availability: Availability,
    nudge: Rc<Notify>,
    setup: MemberSetup,
}

/// Runs a multipooler until it is killed.
pub async fn run(setup: MemberSetup, kv: Arc<dyn Kv>) {
    let prefixes = setup.keys.watched_by_pooler(&setup.database, &setup.cell);
    let store = Store::new(Arc::clone(&kv), setup.keys.clone());
    let mirror = Mirror::start_with(&store, prefixes, Scope::OpenJobsOf(setup.cell.clone()));
    let process = Member {
        database: setup.database.clone(),
        cell: setup.cell.clone(),
        epoch: clock::new_id().to_string(),
        store,
        mirror,
        lease: LeaseKeeper::start(kv, CLAIM_LEASE_SECONDS),
        claim: ClaimOnCell::new(setup.cell.to_string(), OwnClaims::default()),
    };
    let (servers, index) = (Rc::clone(&setup.servers), setup.index);
    let kept = servers.borrow().cells[index].kept.clone();
    let keep = move |kept: &Kept| {
        servers.borrow_mut().keep(index, kept);
        Ok(())
    };
    let availability = Availability::new(KeptFile::with(kept, Box::new(keep)));
    let host = Rc::new(Host { process, availability, nudge: Rc::default(), setup });
    while host.process.mirror.ready(Duration::from_secs(10)).await.is_err() {}
    tokio::join!(act(Rc::clone(&host)), host.supervise(), host.answer());
}

impl Host {
    fn servers<T>(&self, work: impl FnOnce(&mut Servers, usize) -> T) -> T {
        work(&mut self.setup.servers.borrow_mut(), self.setup.index)
    }

    /// What passes between this process and its PostgreSQL takes a moment.
    async fn round_trip(&self) {
        tokio::time::sleep(self.setup.chance.between(Duration::from_millis(1), Duration::from_millis(6)))
            .await;
    }

    /// Waits until the instance lets somebody in who has come.
    async fn enter(&self) -> Result<(), PostgresError> {
        self.round_trip().await;
        let (now, is_open, running) = self.servers(|servers, index| {
            let server = &servers.cells[index];
            let running = server.running.as_ref().map(|it| (it.ready, it.frozen_until));
            (servers.now, server.is_open(servers.now), running)
        });
        match running {
            _ if is_open => Ok(()),
            None => Err(PostgresError::NotRunning("no socket".to_owned())),
            Some((ready, _)) if ready > now => Err(PostgresError::NotReady("it starts".to_owned())),
            Some(_) => {
                tokio::time::sleep(LOOK_TIMEOUT).await;
                Err(PostgresError::NoAnswer { endpoint: "the socket".to_owned(), after: LOOK_TIMEOUT })
            }
        }
    }

    /// Answers whoever asks how this member is.
    async fn answer(&self) {
        let mut questions = self.setup.network.listen(self.setup.index);
        while let Some(question) = questions.recv().await {
            let facts = self.availability.member_facts().ok_or_else(NoAnswer::default);
            self.setup.network.answer(self.setup.index, question, facts);
        }
    }

    fn config_now(&self) -> Config {
        Config(under_quorum(&self.process, &self.availability, self.process.leader().as_ref()))
    }

    /// Starts and stops PostgreSQL, as the multipooler's supervisor does.
    async fn supervise(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(SUPERVISE_INTERVAL) => {}
            }
            self.supervise_once().await;
        }
    }

    async fn supervise_once(&self) {
        let availability = &self.availability;
        let (runs, recovers) = self.servers(|servers, index| {
            let server = &servers.cells[index];
            (server.running.is_some(), server.data.as_ref().is_some_and(|data| data.recovers))
        });
        if runs {
            let leader_must_end = availability.frozen.get() || availability.stop.get().is_some();
            let must_end = !recovers && leader_must_end || availability.replace.get();
            if must_end {
                self.round_trip().await;
                self.servers(|servers, index| servers.cells[index].kill());
                availability.frozen.set(false);
                self.nudge.notify_one();
            } else if availability.hands_over.get() && !recovers {
                self.servers(Servers::shut_down);
            }
            return;
        }
        let Some(record) = self.process.governing() else {
            self.start();
            return;
        };
        let is_seeding = self.servers(|servers, index| {
            let server = &servers.cells[index];
            server.seeding || server.data.is_none()
        });
        let leads = record.is_led_by(&self.process.cell, availability.kept.own_term());
        if is_seeding || availability.replace.get() && recovers && record.phase != Phase::Recruiting {
            self.restore(&record).await;
        } else if recovers {
            self.start();
        } else if leads {
            let is_cut_off = availability.stop.get() == Some(Stop::CutOff) && !self.process.hears_etcd();
            if !availability.hands_over.get() && !is_cut_off {
                self.start();
            }
        } else if availability.kept.was_established() {
            self.servers(|servers, index| {
                if let Some(data) = &mut servers.cells[index].data {
                    data.recovers = true;
                }
            });
            // This disk refuses nothing.
            let _ = availability.kept.update(|kept| kept.rule = None);
            self.nudge.notify_one();
        } else if availability.may_replace.get() {
            self.restore(&record).await;
        }
    }

    fn start(&self) {
        self.availability.stop.set(None);
        let config = self.config_now();
        self.servers(|servers, index| {
            servers.configure(index, &config);
            servers.start(index);
        });
    }

    /// Restores a backup of the leader's line over the data, which counts as another copy from before that on.
    async fn restore(&self, record: &Leadership) {
        let leader = self.setup.servers.borrow().names.iter().position(|name| *name == record.cell);
        let Some(from) = leader.filter(|leader| *leader != self.setup.index) else { return };
        // What is on no other member is in no backup either.
        let archived = |servers: &Servers| {
            let source = servers.cells.get(from).filter(|source| source.is_primary())?;
            let data = source.data.as_ref()?;
            let fork = data.left.last().map_or(0, |(_, at)| *at);
            Some(data.until(if source.acknowledges() { data.len() } else { fork }))
        };
        if self.servers(|servers, _| archived(servers)).is_none() {
            return;
        }
        if self.availability.kept.begin_copy().is_err() {
            return;
        }
        self.servers(|servers, index| {
            servers.cells[index].seeding = true;
            servers.cells[index].data = None;
        });
        tokio::time::sleep(self.setup.chance.between(Duration::from_millis(500), MAX_RESTORE)).await;
        let age = self.setup.chance.below(60) as u64;
        self.servers(|servers, index| {
            if let Some(data) = archived(servers) {
                servers.cells[index].data = Some(data.until(data.len().saturating_sub(age).max(4)));
                servers.cells[index].seeding = false;
            }
        });
        self.availability.replace.set(false);
        self.nudge.notify_one();
    }
}

impl Server for Host {
    type Config = Config;

    fn process(&self) -> &Member {
        &self.process
    }

    fn availability(&self) -> &Availability {
        &self.availability
    }

    fn assignment(&self) -> Option<(Pooler, Database)> {
        let card = self.process.card_of(&self.process.cell)?;
        let database = self.process.mirror.view().databases.get(&self.process.database).cloned()?;
        Some((card, database))
    }

    fn wake_supervisor(&self) {
        self.nudge.notify_one();
    }

    fn report_isolation(&self) {}

    fn is_held(&self) -> bool {
        false
    }

    fn is_leaving(&self) -> bool {
        false
    }

    fn deposed_by(&self) -> Option<Term> {
        None
    }

    fn note_established(&self, _: &CellName, _: Term) {}

    async fn ask(&self, card: &Pooler) -> Result<MemberFacts, NoAnswer> {
        let to = self.setup.servers.borrow().names.iter().position(|name| *name == card.cell);
        self.setup.network.ask(self.setup.index, to.unwrap_or(self.setup.index)).await
    }

    fn is_standby(&self) -> bool {
        self.servers(|servers, index| servers.cells[index].data.as_ref().is_some_and(|data| data.recovers))
    }

    fn is_seeding(&self) -> bool {
        self.servers(|servers, index| servers.cells[index].seeding)
    }

    fn stopped_postmaster(&self, _: &Pooler) -> Option<bool> {
        self.servers(|servers, index| {
            let running = servers.cells[index].running.as_ref()?;
            Some(running.frozen_until > servers.now)
        })
    }

    async fn look(&self, _: &Pooler) -> Result<MemberLook, PostgresError> {
        self.enter().await?;
        let view = self.process.mirror.view();
        let address = |cell: &CellName| {
            let card = view.poolers.get(&(self.process.database.clone(), cell.clone()))?;
            Some((card.host.to_string(), card.postgres_port))
        };
        self.servers(|servers, index| {
            let (now, server) = (servers.now, &servers.cells[index]);
            let gone = || PostgresError::NotRunning("it has just ended".to_owned());
            let (running, data) = server.running.as_ref().zip(server.data.as_ref()).ok_or_else(gone)?;
            let receiver = running.receiver.as_ref();
            let standbys = running.senders.values().filter(|_| !data.recovers);
            Ok(MemberLook {
                is_primary: !data.recovers,
                system_identifier: SystemIdentifier::new(7),
                timeline: Timeline::new(data.timeline),
                term: data.term,
                lsn: lsn(data.len()),
                redo: (data.recovers && receiver.is_none()).then(|| lsn(0)),
                replay_waits: data.recovers,
                replay_paused: false,
                receiver: receiver.map(|receiver| Receiver {
                    streams: true,
                    sender: address(&servers.names[receiver.from]),
                    message_age: Some(now.saturating_sub(receiver.heard)),
                }),
                standbys: standbys
                    .map(|sender| StreamingStandby {
                        name: sender.name.clone(),
                        flushed: lsn(sender.flushed),
                        acknowledges: running.counts(&sender.name),
                    })
                    .collect(),
                settings: server.shown().ok_or_else(gone)?,
                canary_waits: server.canary_waits(),
                next_xid: None,
                last_commit: None,
            })
        })
    }

    fn history(&self, timeline: Timeline) -> Option<String> {
        self.servers(|servers, index| {
            let data = servers.cells[index].data.as_ref()?;
            (data.timeline == timeline.get() && timeline.get() > 1).then(|| data.history())
        })
    }

    fn timeline_of_wal(&self, known: Timeline, _: Lsn) -> Timeline {
        known
    }

    async fn segment_size(&self, _: &Pooler) -> Result<Option<SegmentSize>, PostgresError> {
        self.round_trip().await;
        Ok(Some(SegmentSize::default()))
    }

    fn config(&self, _: &Pooler, _: &Database) -> Result<Config, ConfigFileError> {
        Ok(self.config_now())
    }

    fn shown(config: &Config) -> ShownSettings {
        config.shown()
    }

    fn configure(&self, _: &Pooler, config: &Config) -> Result<bool, PostgresError> {
        Ok(self.servers(|servers, index| servers.configure(index, config)))
    }

    async fn resume_replay(&self, _: &Pooler) -> Result<(), PostgresError> {
        self.enter().await
    }

    async fn promote(&self, _: &Pooler) -> Result<(), PostgresError> {
        self.round_trip().await;
        self.servers(Servers::promote);
        // It goes on without whoever asked for it.
        while self.servers(|servers, index| {
            let server = &servers.cells[index];
            server.running.is_some() && server.data.as_ref().is_some_and(|data| data.recovers)
        }) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.enter().await
    }

    async fn write_term_row(&self, _: &Pooler, term: Term, _: CopyNumber) -> Result<Lsn, PostgresError> {
        self.enter().await?;
        let written = self.servers(|servers, index| {
            // ON CONFLICT DO NOTHING.
            let data = servers.cells[index].data.as_ref()?;
            let content = if data.term >= term { Content::Other } else { Content::Term(term) };
            servers.write(index, content).map(|(place, _)| lsn(place + 1))
        });
        written.ok_or_else(|| PostgresError::NotRunning("it takes no writes".to_owned()))
    }

    fn start_canary(&self, _: &Pooler) -> Canary {
        let (servers, index, chance) =
            (Rc::clone(&self.setup.servers), self.setup.index, self.setup.chance.clone());
        Canary::start(async move |begun: &dyn Fn()| {
            tokio::time::sleep(chance.between(Duration::from_millis(1), Duration::from_millis(6))).await;
            let gone = || PostgresError::NotRunning("it has ended".to_owned());
            let is_open = {
                let servers = servers.borrow();
                servers.cells[index].is_open(servers.now) && servers.cells[index].is_primary()
            };
            if !is_open {
                return Err(gone());
            }
            begun();
            let (acknowledge, acknowledged) = oneshot::channel();
            servers.borrow_mut().commit(index, Some(acknowledge));
            acknowledged.await.map_err(|_| gone())
        })
    }

    fn switch_wal(&self, _: &Pooler) {
        self.servers(|servers, index| {
            servers.write(index, Content::Other);
        });
    }

    fn before_stop(&self, _: &Pooler, _: Term) -> impl Future<Output = bool> + 'static {
        let takes = self.setup.chance.between(Duration::from_millis(20), Duration::from_secs(2));
        // A checkpoint that does not end in time.
        let is_prepared = !self.setup.chance.once_in(8);
        async move {
            tokio::time::sleep(takes).await;
            is_prepared
        }
    }
}
