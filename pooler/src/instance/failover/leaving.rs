//! The request of this host's `cellar` that another cell shall have the primary, before the host stops.

use std::path::Path;

use cellar_model::{HandOverAnswer, HandOverRequest};
use cellar_system::{AtomicFile, clock};

use crate::agent::Agent;

/// Whether this member shall not lead, because its host is about to stop. Answers the request in its file.
pub(super) fn heed(agent: &Agent) -> bool {
    let path = agent.layout.hand_over();
    let Some(request) = read(&path).filter(|request| request.holds(clock::uptime())) else { return false };
    let answer = HandOverAnswer::of(&agent.cell, agent.governing().as_ref(), request.answer);
    if answer != request.answer {
        let answered = HandOverRequest { answer, ..request };
        let text = serde_json::to_string(&answered).unwrap_or_default();
        match AtomicFile::new(&path).mode(0o600).replace(text) {
            Ok(()) => {
                tracing::info!(?answer, "this host is about to stop: another cell is to have the primary");
            }
            Err(error) => tracing::warn!(%error, path = %path.display(), "cannot be answered"),
        }
    }
    answer != Some(HandOverAnswer::GivenUp)
}

fn read(path: &Path) -> Option<HandOverRequest> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Forgets a request that was made of an earlier process: its times may be those of before the host was started.
///
/// # Errors
/// When the file is there and cannot be removed.
pub(crate) fn forget(agent: &Agent) -> std::io::Result<()> {
    match std::fs::remove_file(agent.layout.hand_over()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
