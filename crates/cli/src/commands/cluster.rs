//! `cellar cluster`.

mod apply;

use std::path::PathBuf;
use std::time::Duration;

use cellar_model::CellName;
use cellar_provisioner::{
    Bundles, ClusterSpec, GivenCredentials, InitOptions, PASSPHRASE_VARIABLE, bundle_hosts, init_hosts,
    install_command, wait_for_hosts,
};
use clap::{Args, Subcommand};

use self::apply::{Apply, Diff};
use crate::commands::up::passphrase;
use crate::failure::Outcome;
use crate::global::Global;
use crate::output::Form;
use crate::render::units::parse_duration;
use crate::{local, output};

/// A cluster whose cells have hosts of their own: specify it, issue bundles, wait until it is well, change it
#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    Init(Init),
    Bundle(Bundle),
    Wait(Wait),
    Diff(Diff),
    Apply(Apply),
}

/// Make the authority, all certificates, and one bundle for each host
///
/// Works in the operator's directory (--dir), which then holds the authority's key and the keys of all hosts: keep it as
/// safe as the databases. Starts nothing and sends nothing. Repeating it with the same specification finishes one that
/// was interrupted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar cluster init --spec cluster.toml
  scp /var/lib/cellar/demo/bundles/zone1.bundle root@db1.example.org:")]
pub(crate) struct Init {
    /// The specification
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Encrypt the repository of a new cluster with the passphrase in this file (mode 0600, at least 16 bytes)
    #[arg(long, value_name = "FILE")]
    repo_cipher_pass_file: Option<PathBuf>,
    /// The credentials of the repository's store, one NAME=VALUE a line, in a file with mode 0600; a new cluster takes them
    /// from the environment when there is no file. The bundles carry them
    #[arg(long, value_name = "FILE")]
    repo_credentials_file: Option<PathBuf>,
}

/// Issue the bundles of hosts again: what has expired is renewed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar cluster bundle                    the bundles of all hosts
  cellar cluster bundle zone2 --new-keys   somebody else may have the keys of its host")]
pub(crate) struct Bundle {
    /// The cells; all of them when none is named
    #[arg(value_name = "CELL")]
    cells: Vec<CellName>,
    /// Give these hosts new keys
    #[arg(long)]
    new_keys: bool,
}

/// Wait until every cell streams and the repository holds a proven full backup
///
/// Writes the first records of a new cluster into its etcd, and asks for the first backup. Every etcd member and every
/// multiadmin must answer, too: those that do not are named, with what to do. Safe to interrupt and to repeat.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cellar cluster wait")]
pub(crate) struct Wait {
    /// When to give up waiting
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    timeout: Duration,
}

/// What to do with bundles.
pub(crate) fn next_commands(issued: &Bundles) -> String {
    let mut text = String::from("next, for each host:\n");
    for (cell, path) in &issued.bundles {
        let host = issued.cluster.state.cell(cell).and_then(|cell| cell.host.as_ref());
        let host = host.map_or_else(String::new, |host| host.host.to_string());
        text.push_str(&format!("  scp {} root@{host}:\n", path.display()));
    }
    text.push_str("there:\n");
    for cell in issued.bundles.keys() {
        let host = issued.cluster.state.cell(cell).and_then(|cell| cell.host.as_ref());
        let dir = host.map_or_else(String::new, |host| format!(" --dir {}", host.directory.display()));
        text.push_str(&format!("  {} && cellar host start{dir}\n", install_command(cell)));
    }
    let dir = issued.cluster.layout.root().display();
    text + &format!("then here:\n  cellar cluster wait --dir {dir}")
}

/// Where bundles are, and what to do with them.
pub(crate) fn print_bundles(global: &Global, issued: &Bundles) -> Outcome {
    match global.output {
        Form::Human => {
            output::note(&next_commands(issued));
            for path in issued.bundles.values() {
                output::print(&format!("{}\n", path.display()))?;
            }
            Ok(())
        }
        Form::Json => output::json(&serde_json::json!({ "bundles": issued.bundles })),
    }
}

impl ClusterCommand {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "cluster")?;
        match self {
            Self::Init(command) => command.run(global).await,
            Self::Bundle(command) => {
                let cluster = local::open(global)?;
                let dir = cluster.layout.root();
                print_bundles(
                    global,
                    &bundle_hosts(dir, &command.cells, command.new_keys, &local::steps()).await?,
                )
            }
            Self::Diff(command) => command.run(global).await,
            Self::Apply(command) => command.run(global).await,
            Self::Wait(command) => {
                let cluster = local::open(global)?;
                let outcome = wait_for_hosts(cluster.layout.root(), command.timeout, &local::steps()).await?;
                let state = &outcome.cluster.state;
                let primaries = outcome.primaries.iter().map(|(database, primary)| {
                    let of_database =
                        state.has_several_databases().then(|| format!(" of database {database}"));
                    format!("{primary} is the primary{}", of_database.unwrap_or_default())
                });
                let primaries = primaries.collect::<Vec<_>>().join(", ");
                output::note(&format!("cluster {} is well: {primaries}", state.cluster));
                Ok(())
            }
        }
    }
}

impl Init {
    async fn run(self, global: &Global) -> Outcome {
        let spec = ClusterSpec::read(&self.spec).map_err(cellar_provisioner::ProvisionError::from)?;
        let dir = global.directory_of(&spec.cluster)?;
        let variable = std::env::var_os(PASSPHRASE_VARIABLE);
        let passphrase = passphrase(self.repo_cipher_pass_file.as_deref(), variable)?;
        let credentials = GivenCredentials::of_process(self.repo_credentials_file);
        let options = InitOptions { dir, spec, passphrase, credentials };
        let issued = init_hosts(&options, &local::steps()).await?;
        print_bundles(global, &issued)
    }
}
