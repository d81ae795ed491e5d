//! `cellar logs`.

mod follow;
mod journal;
mod line;
mod sources;
mod tail;

use std::path::Path;

use cellar_model::{CellName, DatabaseName};
use cellar_provisioner::Cluster;
use clap::Args;

use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::local;
use crate::output::{self, Form};

use self::line::Printer;
use self::sources::{LogKind, Place, sources};

/// Show the logs of a cell, or of multiadmin and etcd, that are on this machine
///
/// Lines of several logs are in the order of their times, each behind the name of its log. Where the daemons run as units
/// of systemd without logs of their own, their lines are read from the journal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar logs zone1                          multipooler, PostgreSQL and pgBackRest of one cell
  cellar logs zone1 --of postgres --follow   one log, until Ctrl-C
  cellar logs zone1 --database sales         where the cluster has several databases
  cellar logs                                multiadmin and etcd
  cellar logs --of audit --lines 20          who changed what

What a job's tools wrote is elsewhere: `cellar jobs logs ID`.")]
pub(crate) struct Logs {
    /// The cell; without it the logs of multiadmin and etcd are shown
    #[arg(value_name = "CELL")]
    cell: Option<CellName>,
    /// Go on with what is written, through rotation and in logs that appear later, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// At most so many lines from the end of each log
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    lines: u32,
    /// Only these logs; may be given several times or with commas
    #[arg(long = "of", value_name = "LOG", value_delimiter = ',')]
    kinds: Vec<LogKind>,
}

/// The databases of the cluster, those of this directory's host or of the operator's machine, the first one first; none when
/// that cannot be read.
fn known_databases(global: &Global, directory: &Path) -> Outcome<Option<Vec<DatabaseName>>> {
    let of = |cluster: Cluster| cluster.state.databases().map(|database| database.name.clone()).collect();
    match local::open(global) {
        Ok(cluster) => Ok(Some(of(cluster))),
        Err(failure @ Failure::Usage { .. }) => Err(failure),
        Err(_) => Ok(Cluster::open_on_host(directory).ok().map(of)),
    }
}

/// The database that is meant, unless it is the first: never another one than was named.
fn further_database(
    global: &Global,
    cell: Option<&CellName>,
    known: &[DatabaseName],
) -> Outcome<Option<DatabaseName>> {
    let names = || known.iter().map(DatabaseName::as_str).collect::<Vec<_>>().join(", ");
    match &global.database {
        Some(name) if !known.contains(name) => Err(Failure::usage(
            format!("the cluster has no database {name} (known: {})", names()),
            "name one of them with --database",
        )),
        Some(name) => Ok(Some(name).filter(|name| known.first() != Some(*name)).cloned()),
        None if cell.is_some() && known.len() > 1 => Err(Failure::usage(
            format!("the cluster has several databases ({})", names()),
            "name the one whose logs are meant with --database",
        )),
        None => Ok(None),
    }
}

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "logs")?;
        let directory = global.directory()?;
        // A wrong --cluster must not show another one's. A cluster whose state cannot be read has logs all the same.
        let further = match known_databases(global, &directory)? {
            Some(known) => further_database(global, self.cell.as_ref(), &known)?,
            None => None,
        };
        let place = Place::new(directory, self.cell, further)?;
        let found = sources(&place, &self.kinds)?;
        let lines = usize::try_from(self.lines).unwrap_or(usize::MAX);
        let printer = Printer::new(&found, global.output == Form::Json);
        if self.follow {
            return follow::run(&place, &self.kinds, found, lines, &printer).await;
        }
        let (mut readers, mut problems) = (Vec::new(), Vec::new());
        for (index, source) in found.iter().enumerate() {
            match tail::open(source, lines) {
                Ok(tail) => readers.push((index, tail)),
                Err(error) => match journal::last_lines(source, lines).await {
                    Some(text) => readers.push((index, tail::of_text(text))),
                    None => problems.push(source.problem(&error)),
                },
            }
        }
        if readers.is_empty()
            && let Some(first) = problems.first()
        {
            problems.iter().skip(1).for_each(|problem| output::note(&problem.message));
            return Err(first.clone().into());
        }
        tail::merge(readers, |index, text| printer.push(index, text))?;
        printer.flush()?;
        for problem in problems {
            output::note(&format!("note: {}: {}", problem.message, problem.hint));
        }
        Ok(())
    }
}
