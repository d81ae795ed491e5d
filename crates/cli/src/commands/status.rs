//! `cellar status`.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use cellar_api::v1::ListPoolersResponse;
use cellar_model::naming_database;
use cellar_provisioner::{Cluster, LocalCell, ProcessHealth};
use clap::Args;

use crate::client::poolers::{databases, poolers};
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::local;
use crate::output::{self, Form};
use crate::render::facts::section;
use crate::render::status;

/// Show every cell: role, what it streams from, lag, archiving, certificates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar status
  cellar status --watch
  cellar status --output json | jq '.poolers[] | select(.status.role==\"ROLE_PRIMARY\").pooler.cell'")]
pub(crate) struct Status {
    /// Show it again whenever something changes
    #[arg(long, short)]
    watch: bool,
}

/// How often `--watch` asks; pooler statuses change at most once a second.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What does not belong to one database.
pub(crate) fn render_services(address: &str, processes: &[ProcessHealth]) -> String {
    let etcd = processes.iter().filter(|process| process.what == "etcd").map(|process| match process.pid {
        Some(pid) => format!(", etcd runs (process {pid})"),
        None => ", etcd does not run".to_owned(),
    });
    format!("multiadmin answers at {address}{}\n", etcd.collect::<String>())
}

/// The HAProxy of a local cluster, if it has one.
fn render_route(cluster: &Cluster, processes: &[ProcessHealth]) -> String {
    let Some(haproxy) = processes.iter().find(|process| process.what == "HAProxy") else {
        return String::new();
    };
    match (haproxy.pid, cluster.route_ports()) {
        (Some(pid), Ok((writes, reads, statistics))) => format!(
            "HAProxy runs (process {pid}): writes at localhost:{writes}, reads at localhost:{reads}, statistics at http://127.0.0.1:{statistics}\n"
        ),
        _ => "HAProxy does not run: `cellar up` starts it\n".to_owned(),
    }
}

/// The PgBouncers of a local cluster, if it has some.
fn render_pool(cluster: &Cluster, processes: &[ProcessHealth]) -> String {
    let pools = processes.iter().filter_map(|process| {
        let cell = process.what.strip_prefix("PgBouncer of cell ")?;
        Some(match process.pid {
            Some(pid) => format!("{cell} (process {pid})"),
            None => format!("{cell} (does not run)"),
        })
    });
    let pools: Vec<String> = pools.collect();
    if pools.is_empty() || !cluster.state.pool {
        return String::new();
    }
    format!("PgBouncer of {}\n", pools.join(", "))
}

/// Certificates of the local cluster that end soon. Poolers report those of their cells.
fn certificate_warnings(cluster: &Cluster) -> Vec<String> {
    let now = SystemTime::now();
    let due = cluster.certificates_due(now).into_iter();
    let of_hosts = due.map(|one| format!("{}: {}", one.message, one.hint.unwrap_or_default()));
    let of_cell = |path: &Path| {
        let is_of = |cell: &LocalCell| match &cell.host {
            None => path.starts_with(cluster.layout.cell(&cell.name).root()),
            Some(_) => path.starts_with(cluster.host_files(&cell.name)),
        };
        cluster.state.cells.iter().any(is_of)
    };
    let certificates = cluster.certificates();
    let others = certificates.iter().filter(|certificate| !of_cell(&certificate.path));
    let others = others.filter_map(|certificate| certificate.info.as_ref().ok()?.warning_text(now));
    of_hosts.chain(others).collect()
}

/// The local cluster's name, processes and certificates.
fn render_local(cluster: &Cluster, address: &str) -> String {
    let warnings: String =
        certificate_warnings(cluster).iter().map(|warning| format!("{warning}\n")).collect();
    let processes = cluster.processes();
    format!(
        "cluster {} in {}\n{}{}{}{warnings}",
        cluster.state.cluster,
        cluster.layout.root().display(),
        render_services(address, &processes),
        render_route(cluster, &processes),
        render_pool(cluster, &processes)
    )
}

async fn render(target: &Target, global: &Global, poolers: &ListPoolersResponse) -> Outcome<String> {
    let cluster = if global.admin.is_none() { local::open(global).ok() } else { None };
    let mut text = match &cluster {
        Some(cluster) => render_local(cluster, &target.address),
        None => render_services(&target.address, &[]),
    };
    let wanted = global.database();
    let databases = databases(target).await?.databases;
    for view in &databases {
        let name = view.database.as_ref().map_or("", |database| database.name.as_str());
        if wanted.is_empty() || wanted == name {
            let shown = status::database(view, &poolers.poolers);
            let shown = match name.parse() {
                Ok(name) if databases.len() > 1 => naming_database(&shown, &name),
                _ => shown,
            };
            text.push_str(&format!("\n{shown}"));
        }
    }
    text.push_str(&section("alarms", &poolers.etcd_alarms));
    let unreadable: BTreeSet<String> = poolers.unreadable_records.iter().cloned().collect();
    let unreadable: Vec<String> = unreadable.into_iter().collect();
    text.push_str(&section("records in etcd that multiadmin cannot read and skips", &unreadable));
    Ok(text)
}

impl Status {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let database = global.database();
        let mut shown = String::new();
        loop {
            let answer = poolers(&target, &database).await?;
            match global.output {
                Form::Json if !self.watch => return output::json(&answer),
                Form::Json => {
                    let now = serde_json::to_string(&answer).unwrap_or_default();
                    if now != shown {
                        output::json_line(&answer)?;
                        shown = now;
                    }
                }
                Form::Human => {
                    let now = render(&target, global, &answer).await?;
                    if now != shown {
                        if !shown.is_empty() {
                            output::print(&format!("\n{}", jiff::Timestamp::now().strftime("%H:%M:%SZ")))?;
                        }
                        output::print(&now)?;
                        shown = now;
                    }
                }
            }
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}
