//! `cellar cluster diff` and `cellar cluster apply`.

use std::path::{Path, PathBuf};

use cellar_provisioner::{
    Applied, Change, ClusterSpec, Differences, ProvisionError, apply_to_hosts, compare_hosts_with,
};
use clap::Args;

use crate::commands::cluster::next_commands;
use crate::failure::Outcome;
use crate::global::Global;
use crate::output::Form;
use crate::question::{ask, check_terminal};
use crate::{local, output};

/// Show how the running cluster differs from a specification; changes nothing
///
/// Compared is what `cellar cluster init` made of the specification, and what `cellar cells`, `cellar etcd` and `cellar
/// cluster apply` have changed since.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar cluster diff --spec cluster.toml
  cellar cluster diff --spec cluster.toml --output json | jq '.changes[]'")]
pub(crate) struct Diff {
    /// The specification
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
}

/// Make the running cluster as a specification says: new databases, its cells, and how many full backups are kept
///
/// First shows the differences, then asks. What cannot be done while everything runs is refused, with the command that
/// does it, and then nothing is changed; so is the removal of the primary's cell. A new cell's bundle is issued, to be installed on its host, and for a new
/// database those of all hosts. Safe to interrupt and
/// to repeat.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar cluster apply --spec cluster.toml --dry-run
  cellar cluster apply --spec cluster.toml")]
pub(crate) struct Apply {
    /// The specification
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// Show the differences, and end
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// One line a difference.
fn render(found: &Differences) -> String {
    if found.is_empty() {
        return "the cluster is as specified".to_owned();
    }
    let changes = found.changes.iter().map(Change::to_string);
    let refused = found.refused.iter().map(|each| format!("cannot be applied: {each}\n  {}", each.hint));
    let left = found.left.iter().map(|each| format!("afterwards: {each}\n  {}", each.hint));
    changes.chain(refused).chain(left).collect::<Vec<_>>().join("\n")
}

async fn compare(global: &Global, spec: &Path) -> Outcome<(PathBuf, Differences)> {
    let spec = ClusterSpec::read(spec).map_err(ProvisionError::from)?;
    let dir = local::open(global)?.layout.root().to_owned();
    let found = compare_hosts_with(&dir, &spec).await?;
    Ok((dir, found))
}

impl Diff {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (_, found) = compare(global, &self.spec).await?;
        global.output.print(&found, render)
    }
}

impl Apply {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let (dir, found) = compare(global, &self.spec).await?;
        if self.dry_run || found.changes.is_empty() && found.refused.is_empty() {
            return global.output.print(&found, render);
        }
        if found.refused.is_empty() && !self.yes {
            check_terminal(false)?;
            output::note(&render(&found));
            let cluster = local::open(global)?;
            let question = format!("Change cluster {} so?", cluster.state.cluster);
            ask(&question, cluster.state.confirmation()).await?;
        }
        let applied = apply_to_hosts(&dir, &found, &local::steps()).await?;
        report(global, applied, &found)
    }
}

fn report(global: &Global, applied: Applied, found: &Differences) -> Outcome {
    for cell in &applied.removed {
        output::note(&format!("end what runs on the host of {cell}: `cellar host remove` there"));
    }
    if !applied.issued.bundles.is_empty() {
        output::note(&next_commands(&applied.issued));
    }
    if let Some(error) = applied.failed {
        output::note("not every change was made: repeat the command when the cause is removed");
        return Err(error.into());
    }
    match global.output {
        Form::Human => {
            let left = Differences { left: found.left.clone(), ..Differences::default() };
            let done = "the changes were made";
            output::print(&if left.is_empty() {
                done.to_owned()
            } else {
                format!("{done}\n{}", render(&left))
            })
        }
        Form::Json => output::json(&serde_json::json!({
            "changes": found.changes,
            "left": found.left,
            "bundles": applied.issued.bundles,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cellar_provisioner::Remaining;

    #[test]
    fn differences_are_told_one_a_line_with_what_to_do() {
        assert_eq!(render(&Differences::default()), "the cluster is as specified");
        let remaining = |field: &str| Remaining {
            field: field.to_owned(),
            present: "db2".to_owned(),
            wanted: "db9".to_owned(),
            hint: "run this".to_owned(),
        };
        let found = Differences {
            changes: vec![Change::Retention { database: None, from: Some(7), to: 14 }],
            refused: vec![remaining("cells.zone2.host")],
            left: vec![remaining("cells.zone4.etcd")],
        };
        assert_eq!(
            render(&found),
            "full backups kept: 14 (now 7)\n\
             cannot be applied: cells.zone2.host is db2, and the specification has db9\n  run this\n\
             afterwards: cells.zone4.etcd is db2, and the specification has db9\n  run this"
        );
    }
}
