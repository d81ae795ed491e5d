//! `cellar cells`.

use std::time::Duration;

use cellar_api::v1::{ListCellsRequest, ListCellsResponse};
use cellar_model::CellName;
use cellar_provisioner::{add_cell, remove_cell};
use clap::Subcommand;

use crate::client::target::Target;
use crate::failure::Outcome;
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
    #[command(after_help = "Example:
  cellar cells add zone4")]
    Add {
        /// Its name
        #[arg(value_name = "CELL")]
        name: CellName,
        /// When to give up waiting until it streams
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Remove a cell; its data directory is kept. The last cell and the primary are refused
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
            Self::Add { name, timeout } => add(global, &name, timeout).await,
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
        format!("cell {name} with index {} streams from {}", cell.index, added.primary)
    })
}

async fn remove(global: &Global, name: &CellName, delete_data: bool) -> Outcome {
    local::refuse_remote(global, "cells remove")?;
    let cluster = local::open(global)?;
    let removed = remove_cell(cluster.layout.root(), name, delete_data, &local::steps()).await?;
    if let Some(kept) = &removed.kept {
        output::note(&format!("its directory is kept: {}", kept.display()));
    }
    global.output.print(&removed.cell.unwrap_or_default(), |_| format!("cell {name} is removed"))
}
