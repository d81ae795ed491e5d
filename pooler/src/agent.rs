//! What every part of the agent works with: this cell's identity, its programs, its view of the topology, and what the
//! parts tell each other.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{
    CellLayout, ClusterName, Code, Database, Incarnation, JobId, Pooler, Refusal, SegmentSize,
    SystemIdentifier, Term,
};
use cellar_pgbackrest::Pgbackrest;
use cellar_postgres::{Endpoint, InstanceFacts, Tools};
use cellar_system::{OsUser, PresentFiles};
use cellar_tls::{ClientTls, ReloadableServerConfig, Revoked};
use cellar_topology::EtcdKv;
use tokio::sync::Notify;

use crate::availability::Availability;
use crate::instance_lock::InstanceLock;
use crate::listening::Listening;
use crate::member::Member;
use crate::pooling::Pooling;
use crate::report::Report;
use crate::slot_sync::SlotSync;

/// How long a probe may take. A healthy instance answers within a millisecond; a frozen one must not hold up the loop.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// A look at the instance, which found [`Agent::facts`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// When it began, by [`cellar_system::clock::uptime`].
    pub(crate) begun: Duration,
    /// The incarnation's record as it was then.
    pub(crate) incarnation: Incarnation,
    /// Whether the data is of that incarnation; none when that could not be read.
    pub(crate) current: Option<bool>,
    /// Whether the postmaster was stopped by a signal.
    pub(crate) stopped: bool,
}

/// The agent of one instance. It lives on one thread, so its shared state is in `Cell`s and `RefCell`s.
#[derive(Debug)]
pub(crate) struct Agent {
    /// The cluster that it belongs to.
    pub(crate) cluster: ClusterName,
    /// Which one of that name, if it was told.
    pub(crate) cluster_id: Option<uuid::Uuid>,
    /// This process as etcd knows it.
    pub(crate) member: Rc<Member>,
    /// Where the cell's files are.
    pub(crate) layout: CellLayout,
    /// The user that everything runs as.
    pub(crate) user: OsUser,
    /// PostgreSQL's programs.
    pub(crate) tools: Tools,
    /// pgBackRest.
    pub(crate) pgbackrest: Pgbackrest,
    /// etcd's connection, whose certificate may be replaced.
    pub(crate) etcd: EtcdKv,
    /// Who this process is to the poolers of other cells: what was last put into use, whatever the files have since become.
    pub(crate) client: RefCell<ClientTls>,
    /// What the instance last answered; none when it did not answer.
    pub(crate) facts: RefCell<Option<InstanceFacts>>,
    /// What the supervisor's last look at the instance found beside them.
    pub(crate) look: RefCell<Option<Look>>,
    /// What the status says.
    pub(crate) report: RefCell<Report>,
    /// Wakes the reporter.
    pub(crate) reported: Notify,
    /// Wakes the supervisor before its next round.
    pub(crate) nudge: Notify,
    /// Notified when `pgbackrest.conf` or the certificates have changed.
    pub(crate) config_changed: Notify,
    /// The files that pgBackRest's server was given, and what they were; none while it does not run, or may use all.
    pub(crate) server_files: RefCell<Option<PresentFiles>>,
    /// Set while pgBackRest's server still has to reload its config.
    pub(crate) reload_waits: Cell<bool>,
    /// The size of the WAL segments of the data that was here, and whose it was, once it is known.
    pub(crate) segment_size: Cell<Option<(SystemIdentifier, SegmentSize)>>,
    /// Where an etcd member of this host reads which certificates are revoked, if there is one that cannot be told otherwise.
    pub(crate) etcd_tls: Option<PathBuf>,
    /// The gRPC server's certificate, once the server runs.
    pub(crate) grpc_tls: RefCell<Option<ReloadableServerConfig>>,
    /// The certificate of the health endpoints, once they are served.
    pub(crate) health_tls: RefCell<Option<ReloadableServerConfig>>,
    /// The certificates that the gRPC server refuses.
    pub(crate) revoked: Revoked,
    /// What the cell's servers listen on.
    pub(crate) listening: RefCell<Listening>,
    /// Quorum commit and failover.
    pub(crate) availability: Availability,
    /// The synchronisation of logical slots.
    pub(crate) slot_sync: SlotSync,
    /// The cell's PgBouncer.
    pub(crate) pooling: Pooling,
    /// Who may work on the instance: the supervisor or a job.
    pub(crate) instance_lock: InstanceLock,
}

impl Deref for Agent {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

/// How long the name of this host may take to resolve. Then what was known before stays in use.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

impl Agent {
    /// Finds out where this cell's servers are to listen now: the hosts file may have changed.
    pub(crate) async fn refresh_listening(&self, card: &Pooler) {
        let card = card.clone();
        let resolving = tokio::task::spawn_blocking(move || Listening::of(&card));
        let Ok(Ok(Some(found))) = tokio::time::timeout(RESOLVE_TIMEOUT, resolving).await else { return };
        if *self.listening.borrow() != found {
            tracing::info!(?found, "this cell's servers listen");
            self.listening.replace(found);
        }
    }

    /// The database's record.
    fn database_record(&self) -> Option<Database> {
        self.mirror.view().databases.get(&self.database).cloned()
    }

    /// This pooler's own address card and its database's record.
    ///
    /// # Errors
    /// When one of them is missing, or the card names other directories than this process was started for. Such a
    /// record, made by mistake or malice, must not make this process configure, stop or back up another instance.
    pub(crate) fn assignment(&self) -> Result<(Pooler, Database), Refusal> {
        let about = |refusal: Refusal| refusal.about("cell", &self.cell).about("database", &self.database);
        let missing = |what: &str| {
            about(Refusal::new(
                Code::UnknownCell,
                format!("the topology has no record of {what}; its instance is left alone"),
            ))
        };
        let card = self.card_of(&self.cell).ok_or_else(|| missing("this cell's pooler"))?;
        let database = self.database_record().ok_or_else(|| missing("the database"))?;
        database.check_cluster(self.cluster_id)?;
        let ours = [
            ("data directory", &card.data_directory, self.layout.data()),
            ("socket directory", &card.socket_directory, self.layout.sockets()),
            ("config", &card.config_path, self.layout.config()),
            ("certificates", &card.tls_directory, self.layout.tls()),
            ("logs", &card.log_directory, self.layout.log()),
            ("locks", &card.lock_directory, self.layout.lock()),
            ("spool", &card.spool_directory, self.layout.spool()),
        ];
        for (what, recorded, actual) in ours {
            if Path::new(recorded) != actual {
                return Err(about(
                    Refusal::new(
                        Code::WrongInstance,
                        format!(
                            "the topology says that the {what} of {} is {recorded}, but its multipooler was started for {}: nothing is done",
                            self.cell,
                            actual.display()
                        ),
                    )
                    .hint("correct the pooler's record, or start the multipooler with that --directory"),
                ));
            }
        }
        Ok((card, database))
    }

    /// Why nothing may be done with the records in etcd at all.
    ///
    /// # Errors
    /// When they are another cluster's.
    pub(crate) fn check_cluster(&self) -> Result<(), Refusal> {
        self.database_record().map_or(Ok(()), |database| database.check_cluster(self.cluster_id))
    }

    /// The term by which another member deposed the primary whose data this is, though the database has given quorum commit up
    /// since: what it has not acknowledged, it never may.
    pub(crate) fn deposed_by(&self) -> Option<Term> {
        let leader = self.leader()?;
        let ended = leader.leadership.as_ref().filter(|leadership| leadership.ended)?;
        let own = self.availability.kept.own_term()?;
        let leads_elsewhere = ended.cell != self.cell && leader.cell != self.cell;
        let is_standby = self.layout.data().join("standby.signal").exists();
        (leads_elsewhere && own < ended.held && !is_standby).then_some(ended.held)
    }

    /// Where the instance's socket is.
    pub(crate) fn endpoint(&self, card: &Pooler) -> Endpoint {
        Endpoint { socket_directory: PathBuf::from(&card.socket_directory), port: card.postgres_port }
    }

    /// Changes what the status says, and wakes the reporter.
    pub(crate) fn update_report(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.report.borrow_mut());
        self.reported.notify_one();
    }

    /// The file that a job's output goes to.
    pub(crate) fn job_log(&self, id: &JobId) -> PathBuf {
        self.layout.jobs().join(format!("{id}.log"))
    }
}
