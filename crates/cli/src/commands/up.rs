//! `cellar up`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cellar_api::v1::GetDatabaseRequest;
use cellar_model::CellName;
use cellar_provisioner::{Cluster, PortOffset, UpOptions, up};
use clap::Args;

use crate::arguments::{Form, Global};
use crate::failure::{Failure, Outcome};
use crate::local;
use crate::output;
use crate::target::absolute;
use crate::units::parse_duration;

/// Start a local cluster, finish an interrupted start, or restart what died
///
/// Ends with exit code 0 once every cell streams from the primary and the repository holds a full
/// backup. Safe to interrupt and to repeat; a second `up` needs no flags.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar up
  cellar up --cells zone1,zone2
  cellar up --cluster ci --port-offset auto      beside other clusters
  cellar up --dir /srv/cellar/demo --repo /mnt/backup/demo")]
pub(crate) struct Up {
    /// Names of the cells; indexes and ports follow the alphabet [default: zone1,zone2,zone3]
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    cells: Option<Vec<CellName>>,
    /// Move every port by so much, or let a free place be found
    #[arg(long, value_name = "N|auto")]
    port_offset: Option<PortOffset>,
    /// Where backups go [default: repo in the cluster's directory]
    #[arg(long, value_name = "PATH")]
    repo: Option<PathBuf>,
    /// The OS user of PostgreSQL and everything beside it [default: postgres for root, else yourself]
    #[arg(long, value_name = "USER")]
    os_user: Option<String>,
    /// How long certificates are valid that are issued from now on [default: 1 year]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    cert_lifetime: Option<Duration>,
    /// When to give up waiting
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

/// `file:///path` names a path too; other repositories cannot be made yet.
fn repo_path(repo: &std::path::Path) -> Outcome<PathBuf> {
    let text = repo.to_str().unwrap_or_default();
    match text.split_once("://") {
        Some(("file", path)) => absolute(std::path::Path::new(path)),
        Some((scheme, _)) => Err(Failure::usage(
            format!("--repo {text}: repositories of kind {scheme} are not supported yet"),
            "name a directory",
        )),
        None => absolute(repo),
    }
}

fn next_commands(cluster: &Cluster, primary: &str) -> String {
    let dir = cluster.layout.root().display();
    let standby = cluster.state.cells.iter().map(|cell| cell.name.as_str()).find(|cell| *cell != primary);
    let from = match standby {
        Some(standby) => format!("--from {standby}"),
        None => format!("--from {primary} --allow-primary"),
    };
    format!(
        "cluster {} is up: {} is the primary\n\nnext:\n  cellar status --dir {dir}\n  cellar backup {from} --dir {dir}\n  cellar down --dir {dir}",
        cluster.state.cluster, primary
    )
}

impl Up {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "up")?;
        let begun = Instant::now();
        let options = UpOptions {
            dir: global.directory()?,
            cluster: global.cluster.clone(),
            cells: self.cells,
            port_offset: self.port_offset,
            repo: self.repo.as_deref().map(repo_path).transpose()?,
            database: global.database.clone(),
            os_user: self.os_user,
            cert_lifetime: self.cert_lifetime,
            timeout: self.timeout,
        };
        let outcome = up(&options, &local::steps()).await?;
        match global.output {
            Form::Human => {
                output::note(&format!("\n{}", next_commands(&outcome.cluster, &outcome.primary)));
                output::note(&format!("\nthat took {}", local::took(begun)));
                Ok(())
            }
            Form::Json => {
                let target = global.target()?;
                let request = GetDatabaseRequest { name: outcome.cluster.state.database.to_string() };
                let database = target.client()?.get_database(request).await;
                output::json(database.map_err(|status| target.failure(status))?.get_ref())
            }
        }
    }
}
