//! A pgBackRest command whose output is the job's log.

use std::path::Path;
use std::time::Duration;

use cellar_pgbackrest::{Failure, Invocation, tool_messages};

use crate::agent::Agent;
use crate::jobs::control::Control;
use crate::jobs::restore::private_instance::Broken;
use crate::repository::backup_proof::{read, tool_error, tool_failure};

/// How often the job is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How long pgBackRest may take to end after SIGTERM; it takes milliseconds.
const GRACE: Duration = Duration::from_secs(10);

/// Niceness of what only tends the repo: the instance beside it goes before it in everything.
const NICE: u32 = 19;

/// Runs a command to its end, its output behind what the job's log has already.
///
/// # Errors
/// When the job is interrupted, in which case the command was ended, or the command fails; `disks` are asked whether
/// they are full then.
pub(crate) async fn run_logged(
    agent: &Agent,
    control: &Control,
    invocation: &Invocation,
    log_file: &Path,
    doing: &str,
    disks: &[&str],
) -> Result<(), Broken> {
    let started = agent.pgbackrest.spawn_niced(invocation, log_file, NICE).await;
    let mut running = started.map_err(|error| tool_error("starting pgbackrest", &error))?;
    let code = loop {
        tokio::select! {
            code = running.wait() => break code.map_err(|error| tool_error("waiting for pgbackrest", &error))?,
            () = tokio::time::sleep(LOOK) => {}
        }
        if let Some(why) = control.interrupted(agent) {
            running.terminate(GRACE).await.map_err(|error| tool_error("ending pgbackrest", &error))?;
            return Err(Broken::Interrupted(why));
        }
    };
    if code == Some(0) {
        return Ok(());
    }
    let text = read(log_file);
    let failure = Failure::judge(code, &tool_messages(&text));
    Err(tool_failure(doing, &failure, &text, disks).into())
}
