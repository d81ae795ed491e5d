//! `cellar cells`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use cellar_api::v1::{ListCellsRequest, ListCellsResponse};
use cellar_model::{CellName, HostName};
use cellar_provisioner::{
    CellHost, add_cell, add_cell_on_host, install_command, remove_cell, remove_cell_on_host,
};
use clap::Subcommand;

use crate::client::target::Target;
use crate::commands::cluster::next_commands;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::render::table::Table;
use crate::render::units::parse_duration;
use crate::{local, output};

/// The cells of a cluster: list, add, remove
#[derive(Debug, Subcommand)]
pub(crate) enum Cells {
    /// List the cells
    #[command(after_help = "Example:
  cellar cells list")]
    List,
    /// Add a cell: next free index, certificates, restore from the repository, streaming
    ///
    /// No other cell's ports change, and nothing is restarted. Safe to interrupt and to repeat.
    #[command(after_help = "Examples:
  cellar cells add zone4
  cellar cells add zone4 --host db4.example.org    in a cluster on hosts")]
    Add {
        /// Its name
        #[arg(value_name = "CELL")]
        name: CellName,
        /// When to give up waiting until it streams
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
        /// The host of the new cell, in a cluster on hosts: its bundle is issued, to be installed and started there
        #[arg(long, value_name = "NAME")]
        host: Option<HostName>,
        /// The IP address that its servers listen on [default: 0.0.0.0]
        #[arg(long, value_name = "IP", requires = "host")]
        listen: Option<IpAddr>,
        /// The cluster's directory on that host [default: as on the first cell's host]
        #[arg(long, value_name = "PATH", requires = "host")]
        host_directory: Option<PathBuf>,
    },
    /// Remove a cell; its data directory is kept. The last cell and the primary are refused
    ///
    /// On hosts its etcd member leaves etcd, and its multiadmin is locked out. That is refused while too few of the other
    /// members of etcd are healthy. Safe to interrupt and to repeat.
    #[command(after_help = "Examples:
  cellar cells remove zone4
  cellar cells remove zone4 --delete-data")]
    Remove {
        /// Its name
        #[arg(value_name = "CELL")]
        name: CellName,
        /// Also delete its directory
        #[arg(long)]
        delete_data: bool,
    },
}

pub(crate) fn render_list(answer: &ListCellsResponse) -> String {
    let mut table = Table::new(&["CELL", "INDEX", "HOST", "DIRECTORY"]);
    for cell in &answer.cells {
        table.row([cell.name.clone(), cell.index.to_string(), cell.host.clone(), cell.directory.clone()]);
    }
    table.render()
}

impl Cells {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => list(global).await,
            Self::Add { name, timeout, host: None, .. } => add(global, &name, timeout).await,
            Self::Add { name, host: Some(host), listen, host_directory, .. } => {
                add_on_host(global, &name, host, listen, host_directory).await
            }
            Self::Remove { name, delete_data } => remove(global, &name, delete_data).await,
        }
    }
}

async fn list(global: &Global) -> Outcome {
    let answer = Target::of(global)
        .await?
        .call(ListCellsRequest {}, async |mut client, request| client.list_cells(request).await)
        .await?;
    global.output.print(&answer, render_list)
}

async fn add(global: &Global, name: &CellName, timeout: Duration) -> Outcome {
    local::refuse_remote(global, "cells add")?;
    let cluster = local::open(global)?;
    let added = add_cell(cluster.layout.root(), name, timeout, &local::steps()).await?;
    global.output.print(&added.cell, |cell| {
        let index = cell.index;
        match (added.was_there, added.primary == name.as_str()) {
            (false, _) => format!("cell {name} with index {index} streams from {}", added.primary),
            (true, false) => format!(
                "cell {name} with index {index} was there already and streams from {}: nothing was added; for a further cell take another name (`cellar cells list`)",
                added.primary
            ),
            (true, true) => format!(
                "cell {name} with index {index} was there already and is the primary's: nothing was added; for a further cell take another name (`cellar cells list`)"
            ),
        }
    })
}

async fn add_on_host(
    global: &Global,
    name: &CellName,
    host: HostName,
    listen: Option<IpAddr>,
    directory: Option<PathBuf>,
) -> Outcome {
    local::refuse_remote(global, "cells add")?;
    let cluster = local::open(global)?;
    let first = cluster.state.cells.iter().find_map(|cell| cell.host.clone());
    let Some(first) = first else {
        return Err(Failure::usage(
            "--host is for clusters on hosts, and the cells of this one are on this machine",
            "leave --host out",
        ));
    };
    let host = CellHost {
        host,
        listen: listen.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        directory: directory.unwrap_or(first.directory),
        etcd: false,
        multiadmin: true,
    };
    let directory = host.directory.display().to_string();
    let (cell, issued) = add_cell_on_host(cluster.layout.root(), name, host, &local::steps()).await?;
    for path in issued.bundles.values() {
        output::note(&format!(
            "next: scp {} root@{}:, there `{} && cellar host start --dir {directory}`, then here `cellar cluster wait`",
            path.display(),
            cell.host,
            install_command(name)
        ));
    }
    global.output.print(&cell, |cell| format!("cell {name} has index {}", cell.index))
}

async fn remove(global: &Global, name: &CellName, delete_data: bool) -> Outcome {
    local::refuse_remote(global, "cells remove")?;
    let cluster = local::open(global)?;
    let (dir, steps) = (cluster.layout.root(), local::steps());
    if !cluster.is_local() {
        if delete_data {
            return Err(Failure::usage(
                "--delete-data deletes on this machine, and the cell has a host of its own",
                "run `cellar host remove --delete-data` there",
            ));
        }
        let done = remove_cell_on_host(dir, name, &steps).await?;
        output::note("end what runs on its host: `cellar host remove` there");
        if let Some(issued) = &done.bundles {
            output::note(
                "the bundles of the other hosts were issued again, because those that they have name its etcd member. \
                 Everything goes on with the old ones; install the new ones when it suits:",
            );
            output::note(&next_commands(issued));
        }
        let cell = done.removed.cell.unwrap_or_default();
        return global.output.print(&cell, |_| format!("cell {name} is removed"));
    }
    let removed = remove_cell(dir, name, delete_data, &steps).await?;
    if let Some(kept) = &removed.kept {
        output::note(&format!("its directory is kept: {}", kept.display()));
    }
    global.output.print(&removed.cell.unwrap_or_default(), |_| format!("cell {name} is removed"))
}
