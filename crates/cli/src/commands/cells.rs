//! `cellar cells`.

use std::time::Duration;

use cellar_api::v1::{ListCellsRequest, ListCellsResponse};
use cellar_model::CellName;
use cellar_provisioner::{add_cell, remove_cell};
use clap::Subcommand;

use crate::arguments::{Form, Global};
use crate::client::retry::call;
use crate::failure::Outcome;
use crate::render::table::Table;
use crate::render::units::parse_duration;
use crate::{local, output};

/// Cells that a running cluster has, gets and loses
#[derive(Debug, Subcommand)]
pub(crate) enum Cells {
    /// List the cells
    #[command(after_help = "Example:
  cellar cells list")]
    List,
    /// Add a cell: next free index, certificates, restore from the repository, streaming
    ///
    /// Nobody else's port moves and nothing is restarted. Repeating it finishes one that was interrupted.
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
    let target = global.target()?;
    let client = target.client()?;
    let answer = call(&target, || {
        let mut client = client.clone();
        async move { client.list_cells(ListCellsRequest {}).await }
    })
    .await?;
    match global.output {
        Form::Json => output::json(&answer),
        Form::Human => output::print(&render_list(&answer)),
    }
}

async fn add(global: &Global, name: &CellName, timeout: Duration) -> Outcome {
    local::refuse_remote(global, "cells add")?;
    let cluster = local::open(global)?;
    let added = add_cell(cluster.layout.root(), name, timeout, &local::steps()).await?;
    match global.output {
        Form::Json => output::json(&added.cell),
        Form::Human => output::print(&format!(
            "cell {name} with index {} streams from {}",
            added.cell.index, added.primary
        )),
    }
}

async fn remove(global: &Global, name: &CellName, delete_data: bool) -> Outcome {
    local::refuse_remote(global, "cells remove")?;
    let cluster = local::open(global)?;
    let removed = remove_cell(cluster.layout.root(), name, delete_data, &local::steps()).await?;
    if let Some(kept) = &removed.kept {
        output::note(&format!("its directory is kept: {}", kept.display()));
    }
    match global.output {
        Form::Json => output::json(&removed.cell.unwrap_or_default()),
        Form::Human => output::print(&format!("cell {name} is removed")),
    }
}
