//! Sessions of the pgBackRest server that hold the stanza's lock of a backup that is over.
//!
//! A backup holds a lock at each host that it reads, in the session of the server there. When the host that runs it falls
//! silent its job ends, and the next backup may begin. But a session learns of the silence by its keepalives only if it was
//! not sending just then; otherwise TCP tries for a quarter of an hour (`tcp_retries2` in Linux's tcp(7)), and the lock
//! refuses every other backup meanwhile. A job has the database's lock in etcd until nothing works for it any more. So a
//! session that held the stanza's lock while a job had the database's, and holds it still when the job has not, is ended.
//! Sessions without the stanza's lock, such as those of a restore or of archiving, belong to no job that is known here.

use std::rc::Rc;
use std::time::{Duration, Instant};

use cellar_model::{JobId, JobKind, JobRecord, Key, Lock, StanzaName};
use cellar_system::Process;
use cellar_topology::StoreError;
use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::services::pgbackrest_server::SERVER_PID_FILE;

/// How often to look at the sessions. A backup works for longer, and a lost one keeps the database's lock for some twenty
/// seconds after its last sign of life, so each of its sessions is seen while it has that lock.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a session may need to end by itself once its job has ended. A job that begins meanwhile waits for longer.
const GRACE: Duration = Duration::from_secs(10);

/// A session that holds the stanza's lock.
struct Session {
    process: Process,
    /// The backup, or job with steps, that had the database's lock when the session was first seen.
    job: Option<JobId>,
    /// Since when that job has it no more.
    over: Option<Instant>,
}

impl Session {
    /// Whether its job has been over for long enough, when this job has the database's lock.
    fn is_left_over(&mut self, holder: Option<JobId>, now: Instant) -> bool {
        if self.job.is_none() || self.job == holder {
            self.over = None;
            return false;
        }
        now.duration_since(*self.over.get_or_insert(now)) >= GRACE
    }
}

/// Ends the sessions of lost jobs. Never returns.
pub(crate) async fn end(agent: Rc<Agent>) {
    let mut known = Vec::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        if let Err(error) = look(&agent, &mut known).await {
            tracing::debug!(%error, "the jobs of pgBackRest's sessions cannot be looked up");
        }
    }
}

async fn look(agent: &Agent, known: &mut Vec<Session>) -> Result<(), StoreError> {
    let Ok((_, database)) = agent.assignment() else { return Ok(()) };
    let present: Vec<Process> =
        sessions(agent).into_iter().filter(|process| holds_lock(process, &database.stanza)).collect();
    known.retain(|session| present.contains(&session.process));
    let new: Vec<Process> = present
        .into_iter()
        .filter(|process| known.iter().all(|session| session.process != *process))
        .collect();
    if !new.is_empty() {
        // Read after they were seen: whichever job gets the lock later, they are not that one's.
        let job = backing_up(agent).await?;
        known.extend(new.into_iter().map(|process| Session { process, job, over: None }));
    }
    let now = Instant::now();
    let seen = agent.mirror.view().locks.get(&agent.database).and_then(|lock| lock.holder);
    for session in known.iter_mut() {
        // What was seen may be old.
        if session.is_left_over(seen, now) && session.is_left_over(holder(agent).await?, now) {
            tracing::warn!(job = ?session.job, pid = session.process.pid, "its job is over: the pgBackRest session ends");
            let _ = session.process.signal(Signal::SIGKILL);
        }
    }
    Ok(())
}

/// The job that has the database's lock, by etcd.
async fn holder(agent: &Agent) -> Result<Option<JobId>, StoreError> {
    let lock = agent.store.get::<Lock>(&Key::Lock(agent.database.clone())).await?;
    Ok(lock.and_then(|lock| lock.record.holder))
}

/// The same, if it is a backup or may have one among its steps. Beside another one a person may be making a backup by hand.
async fn backing_up(agent: &Agent) -> Result<Option<JobId>, StoreError> {
    let Some(id) = holder(agent).await? else { return Ok(None) };
    let job = agent.store.get::<JobRecord>(&Key::Job(agent.database.clone(), id)).await?;
    let kind = job.map(|job| job.record.kind());
    Ok(kind.filter(|kind| *kind == JobKind::Backup || kind.is_driven()).map(|_| id))
}

/// Whether a session holds the lock that a backup of the stanza takes: pgBackRest closes the file when it does not get it.
fn holds_lock(process: &Process, stanza: &StanzaName) -> bool {
    let is_lock = |name: &str| {
        name.strip_prefix(stanza.as_str())
            .is_some_and(|rest| rest.starts_with("-backup") && rest.ends_with(".lock"))
    };
    process.open_files().any(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(is_lock))
}

/// The sessions of the server that runs now.
fn sessions(agent: &Agent) -> Vec<Process> {
    let text = std::fs::read_to_string(agent.layout.pid().join(SERVER_PID_FILE)).unwrap_or_default();
    let server = text.trim().parse().ok().and_then(Process::find);
    let server = server.filter(|server| server.program == "pgbackrest");
    server.map(|server| server.children()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_session_whose_job_has_been_over_for_a_while_is_ended() {
        let id = |n| Some(JobId::new(uuid::Uuid::from_u128(n)));
        let process = Process::find(std::process::id().cast_signed()).unwrap();
        let session = |job| Session { process: process.clone(), job, over: None };
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);

        let mut lost = session(id(1));
        assert!(!lost.is_left_over(id(1), begun), "its job has the lock");
        assert!(!lost.is_left_over(None, after(100)), "it may be ending");
        assert!(!lost.is_left_over(id(2), after(109)));
        assert!(lost.is_left_over(id(2), after(110)));
        assert!(!lost.is_left_over(id(1), after(111)), "what was seen was old");
        assert!(!lost.is_left_over(id(2), after(115)), "it counts anew");
        // Such as of a backup by hand, or of a mark that is written beside all jobs.
        let mut by_hand = session(None);
        assert!(!by_hand.is_left_over(None, begun) && !by_hand.is_left_over(id(2), after(100)));
    }
}
