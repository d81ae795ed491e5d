//! What the failover of a member needs of its host: PostgreSQL, its files, and the other parts of the process.

use std::cell::RefCell;
use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cellar_api::v1::multi_pooler_client::MultiPoolerClient;
use cellar_api::v1::{GetMemberFactsRequest, MemberFacts};
use cellar_model::{CellName, CopyNumber, Database, Lsn, Pooler, SegmentSize, Term, Timeline};
use cellar_postgres::{
    CanarySession, DataDirectory, Endpoint, InstanceConfig, MemberLook, MemberProbe, PostgresError,
    ShownSettings, configure, execute, inspect, promote, reload, resume_replay, running, write_term_row,
};
use cellar_system::Process;
use tonic::transport::Channel;

use crate::agent::Agent;
use crate::availability::Availability;
use crate::config_files::{ConfigFileError, instance_config};
use crate::instance::failover::canary::Canary;
use crate::instance::failover::hold_clients::hold_clients;
use crate::instance::failover::leaving;
use crate::member::Member;
use crate::{peers, wal_files};

/// The process that synchronises slots is told to end at once.
const END_SYNCHRONISATION: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'slotsync worker'";

/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a statement of ours may take.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the checkpoint before a planned stop may take. With it, holding clients and the stop itself end before multiadmin gives
/// the move up.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a promotion is waited for before it is looked at again. It goes on.
const PROMOTION_TIMEOUT: Duration = Duration::from_secs(60);

/// A question to another member's multipooler without an answer.
#[derive(Debug, Default)]
pub struct NoAnswer {
    /// Nobody listens there.
    pub is_refused: bool,
}

/// The host of a member: that of a multipooler, or a model of one in a simulation.
///
/// What it is asked to do is decided elsewhere; nothing here decides.
#[expect(async_fn_in_trait, reason = "everything of one pooler lives on one thread")]
pub trait Server: 'static {
    /// What PostgreSQL is configured with.
    type Config: PartialEq;

    /// This process as etcd knows it.
    fn process(&self) -> &Member;
    /// What the parts of the process tell each other of quorum commit.
    fn availability(&self) -> &Availability;
    /// This member's address card and its database's record; none while it is not to work on its instance.
    fn assignment(&self) -> Option<(Pooler, Database)>;
    /// Wakes whoever starts and stops PostgreSQL.
    fn wake_supervisor(&self);
    /// The status in etcd is to say that commits wait, or that they do not any more.
    fn report_isolation(&self);
    /// Whether a job has the instance to itself.
    fn is_held(&self) -> bool;
    /// Whether this member shall not lead, because its host is about to stop.
    fn is_leaving(&self) -> bool;
    /// The term by which another member deposed this primary, though the database has given quorum commit up since.
    fn deposed_by(&self) -> Option<Term>;
    /// That member says that its term is established.
    fn note_established(&self, cell: &CellName, term: Term);
    /// Asks another member how it is. The caller bounds it.
    async fn ask(&self, card: &Pooler) -> Result<MemberFacts, NoAnswer>;

    /// Whether the data directory is a standby's.
    fn is_standby(&self) -> bool;
    /// Whether a restore into the data directory is not finished.
    fn is_seeding(&self) -> bool;
    /// Whether the postmaster is stopped by a signal; none without a postmaster.
    fn stopped_postmaster(&self, card: &Pooler) -> Option<bool>;
    /// How the instance is now.
    async fn look(&self, card: &Pooler) -> Result<MemberLook, PostgresError>;
    /// The history of a timeline that the data has.
    fn history(&self, timeline: Timeline) -> Option<String>;
    /// The timeline on which the WAL goes on, of data that knows of `known` and begins to replay at `redo`.
    fn timeline_of_wal(&self, known: Timeline, redo: Lsn) -> Timeline;
    /// The size of the segments of its WAL; none of data that is not whole.
    async fn segment_size(&self, card: &Pooler) -> Result<Option<SegmentSize>, PostgresError>;

    /// What PostgreSQL is to be configured with now.
    fn config(&self, card: &Pooler, database: &Database) -> Result<Self::Config, ConfigFileError>;
    /// What a session shows once that is in force.
    fn shown(config: &Self::Config) -> ShownSettings;
    /// Writes the configuration, and has an instance that runs read it; true when it differs from what was there.
    fn configure(&self, card: &Pooler, config: &Self::Config) -> Result<bool, PostgresError>;
    /// Ends a pause of the replay.
    async fn resume_replay(&self, card: &Pooler) -> Result<(), PostgresError>;
    /// Promotes the standby.
    async fn promote(&self, card: &Pooler) -> Result<(), PostgresError>;
    /// Writes the row of a term and flushes it here. Returns a position behind it.
    async fn write_term_row(&self, card: &Pooler, term: Term, copy: CopyNumber)
    -> Result<Lsn, PostgresError>;
    /// Begins to commit once a second.
    fn start_canary(&self, card: &Pooler) -> Canary;
    /// Ends the present segment, some time.
    fn switch_wal(&self, card: &Pooler);
    /// What comes before a planned stop of the leader of that term. Whether the stop may follow, because it will not take long.
    fn before_stop(&self, card: &Pooler, term: Term) -> impl Future<Output = bool> + 'static;
}

/// The host that a multipooler runs on.
pub(super) struct Host {
    agent: Rc<Agent>,
    probe: RefCell<Option<MemberProbe>>,
    /// The connection to whom was asked last.
    client: RefCell<Option<(Pooler, MultiPoolerClient<Channel>)>>,
}

impl Host {
    pub(super) fn new(agent: Rc<Agent>) -> Self {
        Self { agent, probe: RefCell::new(None), client: RefCell::new(None) }
    }

    fn endpoint(&self, card: &Pooler) -> Endpoint {
        self.agent.endpoint(card)
    }
}

impl Server for Host {
    type Config = InstanceConfig;

    fn process(&self) -> &Member {
        &self.agent.member
    }

    fn availability(&self) -> &Availability {
        &self.agent.availability
    }

    fn assignment(&self) -> Option<(Pooler, Database)> {
        self.agent.assignment().ok()
    }

    fn wake_supervisor(&self) {
        self.agent.nudge.notify_one();
    }

    fn report_isolation(&self) {
        self.agent.reported.notify_one();
    }

    fn is_held(&self) -> bool {
        self.agent.instance_lock.is_held()
    }

    fn is_leaving(&self) -> bool {
        leaving::heed(&self.agent)
    }

    fn deposed_by(&self) -> Option<Term> {
        self.agent.deposed_by()
    }

    fn note_established(&self, cell: &CellName, term: Term) {
        self.agent.pooling.note_established(cell, term);
    }

    async fn ask(&self, card: &Pooler) -> Result<MemberFacts, NoAnswer> {
        // Put back after an answer only.
        let known = self.client.take().filter(|(known, _)| known == card);
        let mut client = match known {
            Some((_, client)) => client,
            None => {
                let connected = peers::connect(&self.agent, card).await;
                connected.map_err(|error| NoAnswer { is_refused: error.is_refused })?
            }
        };
        let answer = client.get_member_facts(GetMemberFactsRequest {}).await;
        let answer = answer.map_err(|_| NoAnswer::default())?;
        self.client.replace(Some((card.clone(), client)));
        Ok(answer.into_inner())
    }

    fn is_standby(&self) -> bool {
        self.agent.layout.data().join("standby.signal").exists()
    }

    fn is_seeding(&self) -> bool {
        self.agent.layout.seeding_marker().exists()
    }

    fn stopped_postmaster(&self, card: &Pooler) -> Option<bool> {
        let Some(postmaster) = running(Path::new(&card.data_directory)).ok().flatten() else {
            self.probe.replace(None);
            return None;
        };
        Some(Process::find(postmaster.pid).is_some_and(|process| process.is_stopped()))
    }

    async fn look(&self, card: &Pooler) -> Result<MemberLook, PostgresError> {
        let endpoint = self.endpoint(card);
        let kept = self.probe.take().filter(|probe| *probe.endpoint() == endpoint);
        let mut probe = kept.unwrap_or_else(|| MemberProbe::new(endpoint, LOOK_TIMEOUT));
        let look = probe.look().await;
        self.probe.replace(Some(probe));
        look
    }

    fn history(&self, timeline: Timeline) -> Option<String> {
        wal_files::history(&self.agent.layout.data(), timeline)
    }

    fn timeline_of_wal(&self, known: Timeline, redo: Lsn) -> Timeline {
        wal_files::timeline_of_wal(&self.agent.layout.data().join("pg_wal"), known, redo)
    }

    async fn segment_size(&self, card: &Pooler) -> Result<Option<SegmentSize>, PostgresError> {
        let data = inspect(&self.agent.tools, Path::new(&card.data_directory)).await?;
        let DataDirectory::Valid { control, .. } = data else { return Ok(None) };
        Ok(Some(control.segment_size))
    }

    fn config(&self, card: &Pooler, database: &Database) -> Result<InstanceConfig, ConfigFileError> {
        instance_config(&self.agent, database, card, self.agent.leader().as_ref())
    }

    fn shown(config: &InstanceConfig) -> ShownSettings {
        let settings = &config.settings;
        ShownSettings {
            primary_conninfo: settings.primary_conninfo.clone().unwrap_or_default(),
            restore_command: settings.restore_command.clone().unwrap_or_default(),
            synchronous_standby_names: settings.synchronous_standby_names.clone().unwrap_or_default(),
        }
    }

    fn configure(&self, card: &Pooler, config: &InstanceConfig) -> Result<bool, PostgresError> {
        let data = Path::new(&card.data_directory);
        let changed = configure(data, config)?;
        // One that does not run reads them when it starts.
        if changed && running(data)?.is_some() {
            reload(data)?;
        }
        Ok(changed)
    }

    async fn resume_replay(&self, card: &Pooler) -> Result<(), PostgresError> {
        resume_replay(&self.endpoint(card), STATEMENT_TIMEOUT).await
    }

    async fn promote(&self, card: &Pooler) -> Result<(), PostgresError> {
        // A promotion waits for it, and it may wait for the answer of a primary that is gone. What it has synchronised stays. Another
        // process of the multipooler may have told PostgreSQL of it, so it is looked for each time.
        let ended = execute(&self.endpoint(card), END_SYNCHRONISATION, STATEMENT_TIMEOUT).await;
        if let Err(error) = ended {
            tracing::warn!(%error, "whether slots are synchronised was not seen before the promotion");
        }
        promote(&self.agent.tools, Path::new(&card.data_directory), PROMOTION_TIMEOUT).await
    }

    async fn write_term_row(
        &self,
        card: &Pooler,
        term: Term,
        copy: CopyNumber,
    ) -> Result<Lsn, PostgresError> {
        write_term_row(&self.endpoint(card), term, &self.agent.cell, copy, STATEMENT_TIMEOUT).await
    }

    fn start_canary(&self, card: &Pooler) -> Canary {
        let endpoint = self.endpoint(card);
        let mut session = None;
        Canary::start(async move |begun: &dyn Fn()| {
            // Put back after a commit only.
            let connected = match session.take() {
                Some(connected) => connected,
                None => CanarySession::connect(&endpoint).await?,
            };
            begun();
            connected.commit().await?;
            session = Some(connected);
            Ok(())
        })
    }

    fn switch_wal(&self, card: &Pooler) {
        let endpoint = self.endpoint(card);
        tokio::task::spawn_local(async move {
            if let Err(error) = execute(&endpoint, "SELECT pg_switch_wal()", STATEMENT_TIMEOUT).await {
                tracing::debug!(%error, "the segment of the promotion is archived when it is full");
            }
        });
    }

    fn before_stop(&self, card: &Pooler, term: Term) -> impl Future<Output = bool> + 'static {
        let (endpoint, agent) = (self.endpoint(card), Rc::clone(&self.agent));
        async move {
            if let Err(error) = execute(&endpoint, "CHECKPOINT", CHECKPOINT_TIMEOUT).await {
                tracing::warn!(%error, "no checkpoint before the stop; PostgreSQL may go on with it, and a later move finds less to write");
                return false;
            }
            hold_clients(agent, term).await;
            true
        }
    }
}
