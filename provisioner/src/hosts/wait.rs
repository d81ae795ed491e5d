//! `cellar cluster wait`: from the operator's machine, until every member streams, the repository holds a full backup of each
//! database, and every etcd member and every multiadmin answers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cluster::local_cluster::Cluster;
use crate::cluster::steps::Steps;
use crate::error::finding::Finding;
use crate::error::provision_error::{ProvisionError, Result};
use crate::hosts::servers::{HostServer, ServerKind};
use crate::local::launch::Launched;
use crate::local::up::UpOutcome;

/// After this time those that are silent are told. Hosts that have just been started answer sooner.
const TELL_AFTER: Duration = Duration::from_secs(10);

/// How often the servers are asked.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Waits until the cluster is well; writes the first records of a new one. Repeating it is safe at any time.
///
/// # Errors
/// When it is not well by the deadline: everything goes on, and so does the next wait.
pub async fn wait_for_hosts(dir: &Path, timeout: Duration, steps: &Steps) -> Result<UpOutcome> {
    let begun = Instant::now();
    let deadline = begun + timeout;
    let (mut cluster, _lock) = Cluster::open_locked(dir, timeout, steps).await?;
    if cluster.is_local() {
        return Err(ProvisionError::Argument {
            argument: "--dir",
            value: dir.display().to_string(),
            reason: "the cluster there is on this machine: `cellar up` waits for it".to_owned(),
        });
    }
    let mut told = BTreeSet::new();
    let this = cluster.clone();
    // What follows may wait for a silent one until the deadline, and cannot tell which it is.
    let tell_early = async {
        tokio::time::sleep(TELL_AFTER).await;
        if let Ok(servers) = this.host_servers().await {
            tell(&problems(&servers), &mut told, steps);
        }
        std::future::pending::<Infallible>().await
    };
    let converged = tokio::select! {
        converged = cluster.converge(Launched::default(), steps, deadline) => converged,
        never = tell_early => match never {},
    };
    let primaries = match converged {
        Ok(primaries) => primaries,
        Err(error) => return Err(cluster.named(error, begun).await),
    };
    let servers = loop {
        let servers = cluster.host_servers().await?;
        let silent = problems(&servers);
        if silent.is_empty() {
            break servers;
        }
        tell(&silent, &mut told, steps);
        if Instant::now() >= deadline {
            let reason = "every cell streams, but not every server answers".to_owned();
            return Err(ProvisionError::Silent { after: begun.elapsed(), reason, servers: silent });
        }
        tokio::time::sleep(ASK_INTERVAL).await;
    };
    cluster.settle(&servers, steps).await?;
    Ok(UpOutcome { cluster, primaries })
}

fn problems(servers: &[HostServer]) -> Vec<Finding> {
    servers.iter().filter_map(|server| server.problem.clone()).collect()
}

fn tell(findings: &[Finding], told: &mut BTreeSet<String>, steps: &Steps) {
    for Finding { message, hint } in findings {
        if told.insert(message.clone()) {
            steps.step(&format!("{message}; {}", hint.as_deref().unwrap_or_default()));
        }
    }
}

impl Cluster {
    /// An error that may be because a server is silent, with those that are.
    async fn named(&self, error: ProvisionError, begun: Instant) -> ProvisionError {
        let is_consequence = match &error {
            ProvisionError::NoAnswer { .. }
            | ProvisionError::NotStreaming { .. }
            | ProvisionError::Rpc(_) => true,
            ProvisionError::Store(error) => error.is_retryable(),
            _ => false,
        };
        if !is_consequence {
            return error;
        }
        match self.host_servers().await.map(|servers| problems(&servers)) {
            Ok(servers) if !servers.is_empty() => {
                ProvisionError::Silent { after: begun.elapsed(), reason: error.to_string(), servers }
            }
            _ => error,
        }
    }

    /// What can be told for sure now that all servers answer: whether a restore of etcd was installed, members of etcd that
    /// run will not begin anew, and the name that all multiadmins shared is needed no more when each has its own.
    async fn settle(&mut self, servers: &[HostServer], steps: &Steps) -> Result<()> {
        let _ = self.settle_restore(steps).await?;
        let id = |server: &HostServer| match server.kind {
            ServerKind::Etcd(id) => Some((server.cell.clone(), id?)),
            ServerKind::Multiadmin => None,
        };
        if self.note_started_members(&servers.iter().filter_map(id).collect::<Vec<_>>()) {
            self.state.save(&self.layout)?;
        }
        // Whatever an interrupted run has recorded and not done: what lies here must not make one of them begin anew.
        let lying = self.bundles_that_begin_anew();
        if !lying.is_empty() {
            let _ = self.issue_bundles(&lying, false)?;
        }
        if !self.state.not_waited_for.is_empty() {
            let behind = self.hosts_behind(&self.store().await?).await?;
            if self.note_not_waited_for(&behind) {
                self.state.save(&self.layout)?;
            }
        }
        let shared = self.shared_multiadmin();
        let mut multiadmins = servers.iter().filter(|server| server.kind == ServerKind::Multiadmin);
        let has_own = |server: &HostServer| {
            server.certificate.as_ref().is_some_and(|certificate| certificate.common_name != shared)
        };
        if multiadmins.all(has_own) {
            self.etcd().await?.remove_user(&shared).await?;
        }
        Ok(())
    }
}
