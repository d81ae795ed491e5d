//! Sessions of the pgBackRest server whose backup was lost.
//!
//! The backup of a standby holds a lock at the primary, in the session that reads from here. When the standby's host falls
//! silent its job is closed, and the next backup may begin. But the session learns of the silence by its keepalives only
//! if it was not sending just then; otherwise TCP tries for a quarter of an hour (`tcp_retries2` in Linux's tcp(7)), and
//! refuses every other backup meanwhile. So a session that was there while a job held the database's lock ends when that job
//! was closed by multiadmin: its work was ended by then.

use std::rc::Rc;
use std::time::Duration;

use cellar_model::{JobId, JobRecord, Key, Lock};
use cellar_system::Process;
use cellar_topology::StoreError;
use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::services::pgbackrest_server::SERVER_PID_FILE;

/// How often to look at the sessions. A lost job is closed some twenty seconds after its last sign of life, so each of its
/// sessions is seen while it holds the lock.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// A session, and the job that held the database's lock when it was there.
struct Session {
    process: Process,
    job: Option<JobId>,
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
    let present = sessions(agent);
    known.retain(|session| present.contains(&session.process));
    let new: Vec<Process> = present
        .into_iter()
        .filter(|process| known.iter().all(|session| session.process != *process))
        .collect();
    if !new.is_empty() {
        // Read after they were seen: whichever job gets the lock later, they are not that one's.
        let lock = agent.store.get::<Lock>(&Key::Lock(agent.database.clone())).await?;
        let job = lock.and_then(|lock| lock.record.holder);
        known.extend(new.into_iter().map(|process| Session { process, job }));
    }
    for session in known.iter() {
        let holder = agent.mirror.view().locks.get(&agent.database).and_then(|lock| lock.holder);
        let Some(job) = session.job.filter(|job| Some(*job) != holder) else { continue };
        let key = Key::Job(agent.database.clone(), job);
        let record = agent.store.get::<JobRecord>(&key).await?;
        // One that ends by itself ends its sessions.
        if record.is_some_and(|stored| stored.record.closure.is_some()) {
            tracing::warn!(%job, pid = session.process.pid, "its job was lost: the pgBackRest session ends");
            let _ = session.process.signal(Signal::SIGKILL);
        }
    }
    Ok(())
}

/// The sessions of the server that runs now.
fn sessions(agent: &Agent) -> Vec<Process> {
    let text = std::fs::read_to_string(agent.layout.pid().join(SERVER_PID_FILE)).unwrap_or_default();
    let server = text.trim().parse().ok().and_then(Process::find);
    let server = server.filter(|server| server.program == "pgbackrest");
    server.map(|server| server.children()).unwrap_or_default()
}
