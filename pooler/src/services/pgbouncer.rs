//! The cell's PgBouncer, where one is asked for.
//!
//! It is no child: it goes on when the agent ends, so that its clients do not notice, and the next agent takes it over. Where it
//! leads clients, and when it holds them, is decided in [`cellar_model::pooling`].
//!
//! Whom it lets in is read from this cell's own instance, standby or not: so no password is sent anywhere for it, and it lets
//! applications in also while there is no primary.

use std::convert::Infallible;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use cellar_model::{CellName, HOLD_LIMIT, PoolScene, Pooler, Term, is_hold_due, pooling};
use cellar_postgres::{
    Endpoint, PoolConfig, PoolConsole, PoolDaemon, PostgresError, client_secrets, render_pool_users,
};
use cellar_system::{clock, listeners};
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::config_files::write_if_changed;
use crate::listening::reach;

/// How often to look while nothing changes.
const INTERVAL: Duration = Duration::from_secs(1);

/// The same while clients are let go or held, until that is done.
const SOON_INTERVAL: Duration = Duration::from_millis(100);

/// How long a command may take that waits for nobody.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(3);

/// How often to see whether it answers, and how many times in a row it may fail to. Then it is killed: it does nothing for its
/// clients either.
const ANSWER_INTERVAL: Duration = Duration::from_secs(10);
const MAX_SILENT: u32 = 3;

/// How long it may take to listen after its start.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(3);

/// First and longest pause after it ended or could not be started.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long it may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// How often the roles of applications are read, and how long that may take.
const USERS_INTERVAL: Duration = Duration::from_secs(2);
const USERS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a leader that asks for clients to be held waits until the record shows here that it may.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether PgBouncer holds its clients.
#[derive(Debug)]
enum Hold {
    /// It was started by an earlier agent, or did not answer.
    Unknown,
    /// It does not.
    No,
    /// It does, and transactions may go on.
    Begun(JoinHandle<Result<(), PostgresError>>),
    /// It does, and no transaction goes on.
    Quiet,
}

/// What is known of it from round to round.
struct Pool {
    agent: Rc<Agent>,
    daemon: PoolDaemon,
    hold: Hold,
    /// Where it leads clients.
    target: Option<CellName>,
    /// Where its console was last, and since when its clients are held, by [`clock::uptime`].
    console: Option<PoolConsole>,
    held_since: Option<Duration>,
    /// Since when nobody leads, by [`clock::uptime`].
    between_since: Option<Duration>,
    /// It has yet to read its files.
    is_stale: bool,
    /// When it may be started again, and the pause after the next failure.
    not_before: Duration,
    pause: Duration,
    /// When it last answered or was asked, and how often in a row it did not.
    asked_at: Duration,
    silent: u32,
}

fn daemon(agent: &Agent) -> PoolDaemon {
    PoolDaemon { config: agent.layout.pool_config(), pid_file: agent.layout.pool_pid_file() }
}

/// Lets clients go that an earlier agent held, once that has lasted as long as it may: etcd may not answer, and then nobody
/// knows who leads. Never returns.
pub(crate) async fn release_left(agent: &Agent) -> Infallible {
    tokio::time::sleep(HOLD_LIMIT).await;
    let config = std::fs::read_to_string(agent.layout.pool_config()).unwrap_or_default();
    let port = config.lines().find_map(|line| line.strip_prefix("listen_port = ")?.parse().ok());
    if let (Some(port), Some(_)) = (port, daemon(agent).process()) {
        let endpoint = Endpoint { socket_directory: agent.layout.sockets(), port };
        if let Err(error) = (PoolConsole { endpoint }).resume(COMMAND_TIMEOUT).await {
            tracing::warn!(%error, "clients that PgBouncer may hold are not let go");
        }
    }
    std::future::pending().await
}

/// Has clients held for the cell that leads under that term, if its record here says that it makes room for another one. Whether
/// no transaction goes on any more.
pub(crate) async fn hold(agent: &Agent, leader: &CellName, term: Term) -> bool {
    let mut topology = agent.mirror.changes();
    let is_due = async {
        while !agent.governing().is_some_and(|record| is_hold_due(&record, leader, term)) {
            if topology.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    match tokio::time::timeout(RECORD_TIMEOUT, is_due).await {
        Ok(()) => agent.pooling.hold(term).await,
        Err(_) => false,
    }
}

/// Keeps PgBouncer running and up to date. Never returns.
pub(crate) async fn supervise(agent: Rc<Agent>) {
    let _reading = AbortOnDrop(tokio::task::spawn_local(read_users(Rc::clone(&agent))));
    let mut topology = agent.mirror.changes();
    let mut pool = Pool::new(Rc::clone(&agent));
    let mut last_problem = String::new();
    loop {
        topology.borrow_and_update();
        let (is_busy, problem) = match pool.round().await {
            Ok(is_busy) => (is_busy, String::new()),
            Err(problem) => (false, format!("PgBouncer: {problem}")),
        };
        if problem != last_problem {
            if !problem.is_empty() {
                tracing::warn!(problem, "PgBouncer does not do its work");
            }
            agent.update_report(|report| report.pool_problem.clone_from(&problem));
            last_problem = problem;
        }
        tokio::select! {
            () = tokio::time::sleep(if is_busy { SOON_INTERVAL } else { INTERVAL }) => {}
            _ = topology.changed() => {}
            () = agent.pooling.wake.notified() => {}
            () = pool.hold.until_known() => {}
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Writes down whom PgBouncer lets in. Never returns.
async fn read_users(agent: Rc<Agent>) {
    loop {
        if let Ok((card, _)) = agent.assignment()
            && card.pool_port != 0
            && let Ok(users) = client_secrets(&agent.endpoint(&card), USERS_TIMEOUT).await
        {
            match write_users(&agent, &render_pool_users(&users)) {
                Ok(true) => agent.pooling.read_files_again(),
                Ok(false) => {}
                Err(error) => tracing::warn!(error, "whom PgBouncer lets in is not up to date"),
            }
        }
        tokio::time::sleep(USERS_INTERVAL).await;
    }
}

fn write_users(agent: &Agent, users: &str) -> Result<bool, String> {
    let secrets = agent.layout.secrets();
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets);
    made.map_err(|error| format!("{}: {error}", secrets.display()))?;
    write_if_changed(&agent.layout.pool_users(), users).map_err(|error| error.to_string())
}

impl Hold {
    /// Returns when a hold that has begun is quiet, or has failed.
    async fn until_known(&self) {
        match self {
            Self::Begun(task) => {
                while !task.is_finished() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            _ => std::future::pending().await,
        }
    }
}

impl Pool {
    fn new(agent: Rc<Agent>) -> Self {
        Self {
            daemon: daemon(&agent),
            agent,
            hold: Hold::Unknown,
            target: None,
            console: None,
            held_since: None,
            between_since: None,
            is_stale: true,
            not_before: Duration::ZERO,
            pause: FIRST_PAUSE,
            asked_at: Duration::ZERO,
            silent: 0,
        }
    }

    /// Looks and acts once. Whether the next look is due soon; or what is wrong.
    async fn round(&mut self) -> Result<bool, String> {
        let agent = Rc::clone(&self.agent);
        // Why there is no assignment the supervisor says.
        let Ok((card, _)) = agent.assignment() else { return self.let_go_in_time().await };
        if card.pool_port == 0 {
            self.remove().await?;
            return Ok(false);
        }
        let now = clock::uptime();
        let (record, leader) = (agent.governing(), agent.leader());
        if let (Some(record), Some(term)) = (&record, agent.pooling.asked())
            && record.phase == cellar_model::Phase::Steady
            && !is_hold_due(record, &record.cell, term)
        {
            agent.pooling.forget();
        }
        let established = agent.pooling.established();
        let wanted = pooling(&PoolScene {
            record: record.as_ref(),
            leader: leader.as_ref().map(|leader| &leader.cell),
            established: established.as_ref().map(|(cell, term)| (cell, *term)),
            target: self.target.as_ref(),
            asked: agent.pooling.asked(),
            held_for: self.between_since.map_or(Duration::ZERO, |since| now.saturating_sub(since)),
        });
        self.between_since = self.between_since.or(Some(now)).filter(|_| wanted.is_between);
        let primary = wanted.target.as_ref().and_then(|cell| agent.card_of(cell));
        // A database that never had a primary has nobody to lead clients to.
        let Some(primary) = primary else { return self.let_go_in_time().await };
        let console = PoolConsole { endpoint: Endpoint { port: card.pool_port, ..agent.endpoint(&card) } };
        let acted = self.act(&card, &primary, wanted.hold, &console, now).await;
        // Also when something above failed: one that stands still fails in everything.
        if self.daemon.process().is_some() {
            self.see_that_it_answers(&console, now).await?;
        }
        acted?;
        Ok(wanted.hold && !matches!(self.hold, Hold::Quiet))
    }

    /// Ends it, and removes its files: what a password is checked by is among them.
    async fn remove(&mut self) -> Result<(), String> {
        let files = [self.agent.layout.pool_users(), self.daemon.config.clone()];
        // Looking for its process means looking at all.
        if !files.iter().any(|file| file.exists()) {
            return Ok(());
        }
        if self.daemon.end(END_TIMEOUT).await.map_err(|error| format!("it does not end: {error}"))? {
            tracing::info!("PgBouncer has ended: it is not asked for any more");
        }
        (self.hold, self.held_since) = (Hold::Unknown, None);
        for file in files.into_iter().filter(|file| file.exists()) {
            std::fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
        Ok(())
    }

    /// Has it run, lead clients to `primary`, and hold them or let them go.
    async fn act(
        &mut self,
        card: &Pooler,
        primary: &Pooler,
        hold: bool,
        console: &PoolConsole,
        now: Duration,
    ) -> Result<(), String> {
        self.console = Some(console.clone());
        if let Err(why) = self.bring_up(card, primary, console, now).await {
            // It does not lead to the new leader yet. Clients wait for that, and not for ever.
            self.let_go_in_time().await?;
            return Err(why);
        }
        if self.target.as_ref() != Some(&primary.cell) {
            tracing::info!(cell = %primary.cell, "PgBouncer leads clients to this cell");
            self.target = Some(primary.cell.clone());
        }
        self.hold_or_release(hold, console).await
    }

    /// Lets clients go that have been held for as long as they may be, though nothing else can be done now.
    async fn let_go_in_time(&mut self) -> Result<bool, String> {
        let is_over = |since| clock::uptime().saturating_sub(since) >= HOLD_LIMIT;
        if let Some(console) = self.console.clone().filter(|_| self.held_since.is_some_and(is_over)) {
            self.hold_or_release(false, &console).await?;
        }
        Ok(false)
    }

    /// Has it run with the config that leads clients to `primary`.
    async fn bring_up(
        &mut self,
        card: &Pooler,
        primary: &Pooler,
        console: &PoolConsole,
        now: Duration,
    ) -> Result<(), String> {
        let agent = Rc::clone(&self.agent);
        let listen = agent.listening.borrow().postgres();
        let (users, log) = (agent.layout.pool_users(), agent.layout.log().join("pgbouncer.log"));
        let config = PoolConfig {
            primary: (&primary.host, primary.postgres_port),
            listen: &listen,
            port: card.pool_port,
            socket_directory: Path::new(&card.socket_directory),
            tls_directory: Path::new(&card.tls_directory),
            users: &users,
            log: &log,
            pid_file: &self.daemon.pid_file,
        };
        let text = config.render().map_err(|error| error.to_string())?;
        let present = std::fs::read_to_string(&self.daemon.config).unwrap_or_default();
        if self.daemon.process().is_some() && !present.contains(&config.fixed()) {
            tracing::info!("PgBouncer is started again to listen elsewhere");
            self.daemon.end(END_TIMEOUT).await.map_err(|error| error.to_string())?;
            self.not_before = Duration::ZERO;
        }
        let changed = write_if_changed(&self.daemon.config, &text).map_err(|error| error.to_string())?;
        self.is_stale |= changed | agent.pooling.take_files_changed();
        if self.daemon.process().is_none() {
            if now < self.not_before {
                return Err("it has ended, and is started again in a moment".to_owned());
            }
            self.not_before = now + self.pause;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
            self.start(card, &users, &log).await?;
            (self.is_stale, self.hold, self.silent) = (false, Hold::No, 0);
            (self.asked_at, self.pause) = (now, FIRST_PAUSE);
        }
        if self.is_stale {
            console.reload(COMMAND_TIMEOUT).await.map_err(|error| error.to_string())?;
            self.is_stale = false;
        }
        Ok(())
    }

    async fn start(&mut self, card: &Pooler, users: &Path, log: &Path) -> Result<(), String> {
        if !users.exists() {
            write_users(&self.agent, "")?;
        }
        self.daemon.start().await.map_err(|error| format!("{error}; see {}", log.display()))?;
        let address = self.agent.listening.borrow().local().to_string();
        let deadline = clock::uptime() + LISTEN_TIMEOUT;
        // It runs also when its port is taken, and then nobody would know.
        while let Err(why) = match reach(&address, card.pool_port).await {
            Ok(()) => self.check_listens(card.pool_port),
            Err(why) => Err(why.to_string()),
        } {
            if clock::uptime() >= deadline {
                let _ = self.daemon.end(END_TIMEOUT).await;
                return Err(format!("it does not listen: {why}; see {}", log.display()));
            }
            tokio::time::sleep(SOON_INTERVAL).await;
        }
        tracing::info!(port = card.pool_port, "PgBouncer runs");
        Ok(())
    }

    /// Holds clients or lets them go.
    async fn hold_or_release(&mut self, wanted: bool, console: &PoolConsole) -> Result<(), String> {
        match (&mut self.hold, wanted) {
            (Hold::No | Hold::Unknown, true) => {
                tracing::info!("PgBouncer holds its clients");
                self.held_since = Some(clock::uptime());
                let console = console.clone();
                self.hold =
                    Hold::Begun(tokio::task::spawn_local(async move { console.pause(HOLD_LIMIT).await }));
            }
            (Hold::Begun(task), true) if task.is_finished() => {
                let ended = task.await.map_err(|error| error.to_string());
                let ended = ended.and_then(|done| done.map_err(|error| error.to_string()));
                self.hold = if ended.is_ok() { Hold::Quiet } else { Hold::Unknown };
                ended?;
            }
            (Hold::Begun(_) | Hold::Quiet | Hold::Unknown, false) => {
                if let Hold::Begun(task) = &self.hold {
                    task.abort();
                }
                console.resume(COMMAND_TIMEOUT).await.map_err(|error| error.to_string())?;
                if !matches!(self.hold, Hold::Unknown) {
                    tracing::info!("PgBouncer lets its clients go on");
                }
                (self.hold, self.held_since) = (Hold::No, None);
            }
            _ => {}
        }
        self.agent.pooling.set_quiet(matches!(self.hold, Hold::Quiet));
        Ok(())
    }

    /// Whether it is this one that listens on the port, and nobody else: it runs on without it.
    fn check_listens(&self, port: u16) -> Result<(), String> {
        let own = self.daemon.process().map(|process| process.pid);
        match listeners(port).iter().any(|process| Some(process.pid) == own) {
            true => Ok(()),
            false => Err(format!("it does not listen on port {port}, which another process may have")),
        }
    }

    async fn see_that_it_answers(&mut self, console: &PoolConsole, now: Duration) -> Result<(), String> {
        if now.saturating_sub(self.asked_at) < ANSWER_INTERVAL {
            return Ok(());
        }
        self.asked_at = now;
        let answered = console.version(COMMAND_TIMEOUT).await.map_err(|error| error.to_string());
        let Err(error) = answered.and_then(|_| self.check_listens(console.endpoint.port)) else {
            self.silent = 0;
            return Ok(());
        };
        self.silent += 1;
        if self.silent >= MAX_SILENT {
            tracing::error!(%error, "PgBouncer does not answer: it is killed and started again");
            self.daemon.end(END_TIMEOUT).await.map_err(|error| error.to_string())?;
            self.hold = Hold::Unknown;
        }
        Err(format!("it does not answer: {error}"))
    }
}
