//! `cellar etcd`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use cellar_model::CellName;
use cellar_provisioner::{
    EtcdEndpoint, EtcdHealth, EtcdSnapshot, PreparedEtcd, RepairedRecords, RestoredEtcd, SnapshotContent,
    add_etcd_on_host, etcd_health, replace_etcd_on_host, restore_etcd, restore_etcd_on_hosts,
};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::commands::cluster::print_bundles;
use crate::failure::{Failure, Outcome};
use crate::global::{Global, absolute};
use crate::question::{ask, check_terminal};
use crate::render::etcd::{prepared_text, restored_text, snapshot_text, status_text};
use crate::render::units::parse_duration;
use crate::{local, output};

/// The cluster's etcd: how its members are, replacing one, a copy of its data, and putting that back
#[derive(Debug, Subcommand)]
pub(crate) enum Etcd {
    /// Show each member: its leader, version, size, position, alarms, and how fast it answers
    ///
    /// Ends with 0 when all members answer and follow one leader, with 1 when a majority does or an alarm is set, and
    /// with 4 when no majority follows one leader: then PostgreSQL goes on, and no job begins or ends.
    #[command(after_help = "Examples:
  cellar etcd status
  cellar etcd status --output json | jq '.members[] | select(.leads) | .endpoint'")]
    Status,
    /// Write all of etcd's data into a file
    ///
    /// The file gets its name only once it is whole, checked and on the disk, and only its owner can read it: with it
    /// go the records of all jobs and who may do what. Backups of the database are elsewhere and are not in it.
    #[command(after_help = "Examples:
  cellar etcd snapshot /backup/etcd-$(date +%F).db
  cellar etcd snapshot --keep 14 /backup/etcd     every day, from cron or a timer
  cellar etcd snapshot --from zone1 etcd.db      of the one member that is left")]
    Snapshot {
        /// The file that is written
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Take FILE for a directory: write a file into it that is named after the cluster and the time, and keep so many
        /// of them. The oldest are deleted, and no other file is
        #[arg(long, value_name = "COUNT")]
        keep: Option<NonZeroUsize>,
        /// The cell on whose host is the member that gives it, in a cluster on hosts. It may be without a majority
        #[arg(long, value_name = "CELL")]
        from: Option<CellName>,
    },
    /// Replace the etcd member of a host that has lost its disk, or is another machine now
    ///
    /// For cells on hosts of their own. The old member leaves etcd and a new one is expected in its place; the host's bundle
    /// is issued again, and installed and started there as the first was: etcd and the cell get their data from the others.
    /// Refused while the member answers, and while etcd has no majority without it. Safe to interrupt and to repeat.
    #[command(after_help = "Example:
  cellar etcd replace zone3 && scp bundles/zone3.bundle root@db3.example.org:
  (on db3) cellar host install zone3.bundle && cellar host start
  cellar cluster wait")]
    Replace {
        /// The cell whose host it is
        #[arg(value_name = "CELL")]
        cell: CellName,
        /// Replace a member that works: it ends by itself when it has left etcd
        #[arg(long)]
        although_it_answers: bool,
    },
    /// Give the host of a cell an etcd member, which joins the others
    ///
    /// For cells on hosts of their own: after one was removed, or to have more of them. Three members tolerate the loss of
    /// one, five that of two, and an even number no more than one less. The bundles of all hosts are issued again: install
    /// that of the cell and start its host, and the others when it suits. Safe to interrupt and to repeat.
    #[command(after_help = "Example:
  cellar etcd add zone4")]
    Add {
        /// The cell
        #[arg(value_name = "CELL")]
        cell: CellName,
    },
    /// Put a snapshot back, when etcd's data is lost or damaged
    ///
    /// etcd must not run. multiadmin and the poolers are ended and PostgreSQL goes on; `cellar up` starts them again.
    /// What etcd took after the snapshot is lost: jobs with their outcomes, schedules that were set, calls in its
    /// list of them (each multiadmin's audit.log has them). Jobs that were open in the snapshot are closed, cells are
    /// those that are there now, and data that was restored since stays the present one. Nothing is promoted and
    /// no data of PostgreSQL is touched. The old data of etcd is kept beside the new.
    ///
    /// Of a cluster on hosts nothing is changed but here: this writes the snapshot that all members begin with, and new
    /// bundles. Both are then installed on every host (`cellar host install --etcd-snapshot`).
    #[command(after_help = "Examples:
  cellar etcd restore /backup/etcd-2026-03-01.db && cellar up
  cellar etcd restore --yes etcd.db")]
    Restore {
        /// The snapshot
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// When to give up
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
}

fn member(endpoint: &EtcdEndpoint) -> Value {
    let answers_ms = u64::try_from(endpoint.took.as_millis()).unwrap_or(u64::MAX);
    match &endpoint.status {
        Err(reason) => json!({ "endpoint": endpoint.url, "error": reason }),
        // Ids and positions as text, as the canonical JSON of 64 bits has them.
        Ok(status) => json!({
            "endpoint": endpoint.url,
            "memberId": format!("{:x}", status.id),
            "leads": status.leader == status.id,
            "leader": format!("{:x}", status.leader),
            "version": status.version,
            "databaseBytes": status.database_bytes.to_string(),
            "raftIndex": status.raft_index.to_string(),
            "raftAppliedIndex": status.raft_applied_index.to_string(),
            "raftTerm": status.raft_term.to_string(),
            "learner": status.learner,
            "alarms": status.alarms,
            "answersMs": answers_ms,
        }),
    }
}

fn snapshot(written: &EtcdSnapshot) -> Value {
    json!({
        "file": written.path.display().to_string(),
        "bytes": written.bytes.to_string(),
        "sha256": written.sha256,
        "revision": written.content.as_ref().map(|content| content.revision.to_string()),
        "totalKeys": written.content.as_ref().map(|content| content.total_key.to_string()),
    })
}

fn repaired(content: &SnapshotContent, repaired: &RepairedRecords) -> Value {
    json!({
        "revision": content.revision.to_string(),
        "closedJobs": repaired.closed_jobs,
        "addedCells": repaired.added_cells,
        "removedCells": repaired.removed_cells,
        "replacedCells": repaired.replaced_cells,
        "incarnation": repaired.incarnations.first().filter(|_| repaired.incarnations.len() == 1).map(|(_, number)| number),
        "incarnations": repaired.incarnations.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "unreadableRecords": repaired.unreadable,
    })
}

fn restored(done: &RestoredEtcd) -> Value {
    let mut answer = repaired(&done.content, &done.repaired);
    answer["kept"] = json!(done.kept.as_ref().map(|kept| kept.display().to_string()));
    answer
}

fn prepared(done: &PreparedEtcd) -> Value {
    let mut answer = repaired(&done.content, &done.repaired);
    answer["snapshot"] = json!(done.snapshot.display().to_string());
    answer["bundles"] = json!(done.bundles.bundles);
    answer
}

/// What to do on the hosts.
fn next_on_hosts(done: &PreparedEtcd) -> String {
    let cluster = &done.bundles.cluster;
    let name = &cluster.state.cluster;
    let mut text = format!(
        "first, on every host where etcd still runs, end it and nothing else: `kill` the process that `cellar host status` \
         shows for it; with the units `systemctl stop cellar-etcd@{name}`\nnext, for each host:\n"
    );
    for (cell, path) in &done.bundles.bundles {
        let Some(host) = cluster.state.cell(cell).and_then(|cell| cell.host.as_ref()) else { continue };
        let (snapshot, flag, file) = match host.etcd {
            true => (format!(" {}", done.snapshot.display()), " --etcd-snapshot etcd.db", " etcd.db"),
            false => (String::new(), "", ""),
        };
        text.push_str(&format!("  scp {}{snapshot} root@{}:\n", path.display(), host.host));
        let dir = host.directory.display();
        text.push_str(&format!(
            "    there: cellar host install {cell}.bundle{flag} && rm {cell}.bundle{file} && cellar host start --dir {dir}\n"
        ));
    }
    text + &format!(
        "then here:\n  cellar cluster wait --dir {}\nif etcd works again before any host has installed it, that command takes the restore back",
        cluster.layout.root().display()
    )
}

impl Etcd {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "etcd")?;
        let cluster = local::open(global)?;
        match self {
            Self::Status => {
                let endpoints = cluster.etcd_status().await?;
                let health = etcd_health(&endpoints);
                let (state, problems) = match &health {
                    EtcdHealth::Well => ("well", &[][..]),
                    EtcdHealth::Degraded(problems) => ("degraded", problems.as_slice()),
                    EtcdHealth::Lost(problems) => ("lost", problems.as_slice()),
                };
                let members: Vec<Value> = endpoints.iter().map(member).collect();
                let answer = json!({ "state": state, "problems": problems, "members": members });
                global.output.print(&answer, |_| status_text(&endpoints, &health))?;
                match health {
                    EtcdHealth::Well => Ok(()),
                    EtcdHealth::Degraded(_) => {
                        Err(Failure::ProblemsFound("etcd works, and has problems".to_owned()))
                    }
                    EtcdHealth::Lost(_) => Err(Failure::EtcdLost),
                }
            }
            Self::Snapshot { file, keep, from } => {
                let file = absolute(&file)?;
                let written = match keep {
                    None => cluster.etcd_snapshot(&file, from.as_ref()).await?,
                    Some(keep) => cluster.etcd_snapshot_in(&file, keep, from.as_ref()).await?,
                };
                global.output.print(&snapshot(&written), |_| snapshot_text(&written))
            }
            Self::Replace { cell, although_it_answers } => {
                let (dir, steps) = (cluster.layout.root(), local::steps());
                print_bundles(global, &replace_etcd_on_host(dir, &cell, although_it_answers, &steps).await?)
            }
            Self::Add { cell } => {
                let added = add_etcd_on_host(cluster.layout.root(), &cell, &local::steps()).await?;
                print_bundles(global, &added)
            }
            Self::Restore { file, yes, timeout } => {
                check_terminal(yes)?;
                if !yes {
                    let question = format!(
                        "Put {} back into etcd of cluster {}? What etcd took since is lost.",
                        file.display(),
                        cluster.state.cluster
                    );
                    ask(&question, cluster.state.confirmation()).await?;
                }
                let steps = local::steps();
                let file = absolute(&file)?;
                if !cluster.is_local() {
                    let done = restore_etcd_on_hosts(cluster.layout.root(), &file, timeout, &steps).await?;
                    output::note(&next_on_hosts(&done));
                    return global.output.print(&prepared(&done), |_| prepared_text(&done));
                }
                let done = restore_etcd(cluster.layout.root(), &file, timeout, &steps).await?;
                global.output.print(&restored(&done), |_| restored_text(&done))
            }
        }
    }
}
