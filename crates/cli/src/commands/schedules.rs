//! `cellar schedules`.

mod run;
mod set;

use cellar_api::v1::DeleteScheduleRequest;
use cellar_model::ScheduleName;
use clap::Subcommand;

use crate::client::schedules::schedules;
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::schedules::list;

/// Backups, drills and repository jobs that multiadmin begins by itself
#[derive(Debug, Subcommand)]
pub(crate) enum Schedules {
    /// List the schedules: what, when, when next, and how the last run ended
    #[command(after_help = "Examples:
  cellar schedules list
  cellar schedules list --output json | jq '.schedules[] | select(.schedule.last.error)'")]
    List,
    Set(Box<set::Set>),
    /// Remove a schedule; a job that it has begun goes on
    #[command(after_help = "Example:
  cellar schedules remove nightly")]
    Remove {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ScheduleName,
    },
    Run(run::Run),
}

impl Schedules {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => {
                let answer = schedules(&Target::of(global).await?, &global.database()).await?;
                global.output.print(&answer, list)
            }
            Self::Set(set) => set.run(global).await,
            Self::Remove { name } => remove(global, &name).await,
            Self::Run(run) => run.run(global).await,
        }
    }
}

async fn remove(global: &Global, name: &ScheduleName) -> Outcome {
    let request = DeleteScheduleRequest { database: global.database(), name: name.to_string() };
    let schedule = Target::of(global)
        .await?
        .call(request, async |mut client, request| client.delete_schedule(request).await)
        .await?;
    global
        .output
        .print(&schedule, |schedule| format!("schedule {name} of database {} is removed", schedule.database))
}
