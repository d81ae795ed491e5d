//! `cellar logs`.

mod follow;
mod journal;
mod line;
mod sources;
mod tail;

use std::path::Path;

use cellar_model::{CellName, DatabaseName};
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

/// The database that is meant, unless it is the cluster's first: never another one than was named.
fn further_database(global: &Global, root: &Path, cell: Option<&CellName>) -> Outcome<Option<DatabaseName>> {
    let cluster = match local::open_here(global) {
        // A wrong --cluster must not show another one's.
        Err(failure @ Failure::Usage { .. }) => return Err(failure),
        // A cluster whose state cannot be read has logs all the same.
        Err(_) => return of_unreadable(global, root, cell),
        Ok(cluster) => cluster,
    };
    let known: Vec<&DatabaseName> = cluster.state.databases().map(|database| &database.name).collect();
    let names = || known.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    match &global.database {
        Some(name) if !known.contains(&name) => Err(Failure::usage(
            format!("the cluster has no database {name} (known: {})", names()),
            "name one of them with --database",
        )),
        Some(name) => Ok((known[0] != name).then(|| name.clone())),
        None if cell.is_some() && known.len() > 1 => Err(Failure::usage(
            format!("the cluster has several databases ({})", names()),
            "name the one whose logs are meant with --database",
        )),
        None => Ok(None),
    }
}

/// The same where it is not known which databases there are: by the directories.
fn of_unreadable(global: &Global, root: &Path, cell: Option<&CellName>) -> Outcome<Option<DatabaseName>> {
    let (Some(name), Some(cell)) = (&global.database, cell) else { return Ok(None) };
    if root.join(format!("{name}.{cell}")).exists() {
        return Ok(Some(name.clone()));
    }
    Err(Failure::usage(
        format!("the cluster's state cannot be read, and there is no directory {name}.{cell}"),
        "leave --database out for the logs of the cluster's first database",
    ))
}

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "logs")?;
        let directory = global.directory()?;
        let further = further_database(global, &directory, self.cell.as_ref())?;
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
