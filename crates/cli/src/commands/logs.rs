//! `cellar logs`.

mod follow;
mod journal;
mod line;
mod sources;
mod tail;

use cellar_model::CellName;
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

impl Logs {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        local::refuse_remote(global, "logs")?;
        let directory = global.directory()?;
        // A wrong --cluster must not show another one's. A cluster whose state cannot be read has logs all the same.
        if let Err(failure @ Failure::Usage { .. }) = local::open(global) {
            return Err(failure);
        }
        let place = Place::new(directory, self.cell)?;
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
