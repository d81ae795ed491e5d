//! Before a host stops: its primaries move to other hosts, so that nobody waits for a failover.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cellar_model::{HandOverAnswer, HandOverRequest};
use cellar_system::{clock, read_text};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::replace;
use crate::hosts::host::open_host;
use crate::processes::process::daemon_of;

/// How long a move may take from the request: its checkpoint has 20 s, and it is given up 30 s after it was begun.
const TIMEOUT: Duration = Duration::from_secs(50);

/// How long nothing may happen. Where no other member can lead it never begins.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(8);

/// How often to look.
const INTERVAL: Duration = Duration::from_millis(100);

/// Where the primary of a database is that was here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandedOver {
    /// On another host.
    Elsewhere,
    /// Here: the database has no quorum commit.
    NoQuorumCommit,
    /// Here: no other member can lead now.
    Nobody,
    /// Here, or not known: the move took too long.
    TimedOut,
    /// Here, or not known: the multipooler was started anew, or ended.
    Lost,
}

impl HandedOver {
    /// Whether this host can stop without taking a primary along that could have moved.
    #[must_use]
    pub fn is_done(self) -> bool {
        matches!(self, Self::Elsewhere | Self::NoQuorumCommit)
    }
}

impl fmt::Display for HandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Elsewhere => "another host has the primary",
            Self::NoQuorumCommit => {
                "no quorum commit (`cellar durability quorum`), so a primary is not moved"
            }
            Self::Nobody => {
                "the primary stays: no other member can lead now (`cellar explain`, `cellar durability`)"
            }
            Self::TimedOut => "the primary has not moved in time: multiadmin's log says why",
            Self::Lost => "it is not known where the primary is: the multipooler here has ended meanwhile",
        })
    }
}

/// Has other hosts take the primaries that are here. Gives what became of each database that has its primary here, by name.
///
/// Takes no lock: the host's shutdown must not wait for another `cellar`, and the lock may be root's.
///
/// # Errors
/// When nothing is installed there, or a request cannot be written.
pub async fn hand_over(dir: &Path, steps: &Steps) -> Result<Vec<(String, HandedOver)>> {
    let (cluster, _) = open_host(dir)?;
    cluster.hand_over_here(steps).await
}

impl Cluster {
    /// The same of a host that was opened.
    pub(super) async fn hand_over_here(&self, steps: &Steps) -> Result<Vec<(String, HandedOver)>> {
        let mut moves = JoinSet::new();
        for member in self.members_on_disk() {
            let data = self.layout_of(&member).data();
            let is_primary = data.join("PG_VERSION").exists() && !data.join("standby.signal").exists();
            if daemon_of(&self.pooler_pid_file(&member)).is_none() {
                continue;
            }
            if !is_primary {
                // So that no other host hands its primary over to this one. It ends by itself.
                self.ask_to_hand_over(&member)?;
                continue;
            }
            {
                let this = self.clone();
                moves.spawn(
                    async move { (member.database.to_string(), this.hand_over_member(&member).await) },
                );
            }
        }
        let mut all = Vec::new();
        while let Some(moved) = moves.join_next().await {
            let (database, moved) = moved
                .map_err(|error| ProvisionError::Start { what: "a task".to_owned(), source: error.into() })?;
            let moved = moved?;
            steps.step(&format!("database {database}: {moved}"));
            all.push((database, moved));
        }
        Ok(all)
    }

    fn ask_to_hand_over(&self, member: &Member) -> Result<PathBuf> {
        let path = self.layout_of(member).hand_over();
        let until = clock::uptime().saturating_add(TIMEOUT).as_secs().saturating_add(1);
        let request = serde_json::to_string(&HandOverRequest { until, answer: None }).unwrap_or_default();
        replace(&path, &request, 0o600, self.owner())?;
        Ok(path)
    }

    async fn hand_over_member(&self, member: &Member) -> Result<HandedOver> {
        let path = self.ask_to_hand_over(member)?;
        let moved = self.await_hand_over(member, &path).await;
        // Whatever came of it: this request is not to move a primary of tomorrow.
        let _ = std::fs::remove_file(&path);
        Ok(moved)
    }

    async fn await_hand_over(&self, member: &Member, path: &Path) -> HandedOver {
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < TIMEOUT {
            let read = read_text(path).ok();
            let request = read.and_then(|text| serde_json::from_str::<HandOverRequest>(&text).ok());
            match request.map(|request| request.answer) {
                Some(Some(HandOverAnswer::Elsewhere)) => return HandedOver::Elsewhere,
                Some(Some(HandOverAnswer::NoQuorumCommit)) => return HandedOver::NoQuorumCommit,
                Some(Some(HandOverAnswer::GivenUp)) => return HandedOver::TimedOut,
                Some(Some(HandOverAnswer::Begun)) => last = Instant::now(),
                Some(None) if last.elapsed() >= BEGIN_TIMEOUT => return HandedOver::Nobody,
                Some(None) => {}
                None => return HandedOver::Lost,
            }
            if daemon_of(&self.pooler_pid_file(member)).is_none() {
                return HandedOver::Lost;
            }
            tokio::time::sleep(INTERVAL).await;
        }
        HandedOver::TimedOut
    }
}
