//! The PgBouncers of a local cluster, one in each cell. The multipoolers run them; here is how they are asked for and waited for,
//! and how they end.

use std::path::Path;
use std::time::{Duration, Instant};

use cellar_model::{Key, Pooler};
use cellar_postgres::PoolDaemon;
use cellar_system::Process;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::database::Member;
use crate::cluster::local_cluster::Cluster;
use crate::cluster::loopback::HOST;
use crate::cluster::steps::Steps;
use crate::error::provision_error::{ProvisionError, Result};
use crate::file::log_tail;
use crate::processes::process::end;

/// How long one may take to end: it has no state, and sessions end with it.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to look whether they listen.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection to one may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Cluster {
    fn pool_daemon(&self, member: &Member) -> PoolDaemon {
        let layout = self.layout_of(member);
        PoolDaemon { config: layout.pool_config(), pid_file: layout.pool_pid_file() }
    }

    /// The process id of a member's PgBouncer, if it runs.
    pub(crate) fn pool_process(&self, member: &Member) -> Option<Process> {
        self.pool_daemon(member).process()
    }

    /// Ends a member's PgBouncer; tells whether it ran. Its multipooler must have ended.
    pub(crate) async fn stop_pool(&self, member: &Member) -> Result<bool> {
        let what = format!("PgBouncer of cell {}", self.state.shown(member));
        end(&what, self.pool_process(member), STOP_TIMEOUT).await
    }

    /// Has the multipoolers run a PgBouncer in each cell, or end it, as the cluster is to have it; waits until they listen.
    pub(crate) async fn ensure_pool(&self, steps: &Steps, deadline: Instant) -> Result<()> {
        let store = self.store().await?;
        let wanted = self.poolers(&self.state.cells)?;
        for pooler in &wanted {
            let key = Key::Pooler(pooler.database.clone(), pooler.cell.clone());
            let Some(recorded) = store.get::<Pooler>(&key).await? else { continue };
            if recorded.record.pool_port != pooler.pool_port {
                let record = Pooler { pool_port: pooler.pool_port, ..recorded.record };
                // A conflict: the cell is being removed at this moment.
                let change = store.transaction().expect(&key, recorded.revision).put(&key, &record);
                let _ = change.commit().await?;
            }
        }
        let begun = Instant::now();
        for pooler in &wanted {
            let member = Member { cell: pooler.cell.clone(), database: pooler.database.clone() };
            while let Err(reason) = self.has_pool(&member, pooler.pool_port).await {
                if Instant::now() >= deadline {
                    let log = self.pooler_log(&member);
                    return Err(ProvisionError::NoAnswer {
                        what: format!("PgBouncer of cell {}", self.state.shown(&member)),
                        after: begun.elapsed(),
                        reason,
                        tail: log_tail(Path::new(&log)),
                        log,
                    });
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        }
        if self.state.pool {
            let ports: Vec<String> =
                wanted.iter().map(|pooler| format!("{HOST}:{}", pooler.pool_port)).collect();
            steps.step(&format!("PgBouncer leads clients to the primary at {}", ports.join(", ")));
        }
        Ok(())
    }

    /// Whether a member's PgBouncer listens, or has ended when there is to be none; or why not.
    async fn has_pool(&self, member: &Member, port: u16) -> std::result::Result<(), String> {
        let process = self.pool_process(member);
        if port == 0 {
            return process.map_or(Ok(()), |_| Err("it has not ended".to_owned()));
        }
        if process.is_none() {
            return Err("it does not run".to_owned());
        }
        match timeout(PROBE_TIMEOUT, TcpStream::connect((HOST, port))).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(format!("port {port}: {error}")),
            Err(_) => Err(format!("port {port} accepts no connection")),
        }
    }
}
