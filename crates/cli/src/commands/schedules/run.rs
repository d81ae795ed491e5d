//! `cellar schedules run`.

use cellar_api::v1::{
    BackupRequest, CheckArchiveRequest, DrillRestoreRequest, ExpireBackupsRequest, Job, Schedule,
    VerifyBackupsRequest, scheduled_work::Work,
};
use cellar_model::ScheduleName;
use clap::Args;

use crate::client::run_job::{JobOptions, run_job};
use crate::client::schedules::schedules;
use crate::client::target::Target;
use crate::commands::{backup, check, drill, expire, verify};
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::render::job::details;

/// Run now what a schedule describes, as a request of your own
///
/// It does not count as a run of the schedule.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar schedules run nightly
  cellar schedules run nightly --no-wait")]
pub(crate) struct Run {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ScheduleName,
    #[command(flatten)]
    options: JobOptions,
}

impl Run {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let answer = schedules(&target, &global.database()).await?;
        let schedules = answer.schedules.into_iter().filter_map(|view| view.schedule);
        let schedule = find(schedules, &self.name)?;
        let submit = submit(&target, schedule, &self.options);
        run_job(global, &target, &self.options, submit, async |job| Some(details(job))).await
    }
}

fn find(schedules: impl Iterator<Item = Schedule>, name: &ScheduleName) -> Outcome<Schedule> {
    let mut found = schedules.filter(|schedule| schedule.name == name.as_str());
    match (found.next(), found.next()) {
        (Some(schedule), None) => Ok(schedule),
        (Some(_), Some(_)) => Err(Failure::usage(
            format!("several databases have a schedule {name}"),
            "name one with --database",
        )),
        (None, _) => {
            Err(Failure::usage(format!("there is no schedule {name}"), "see `cellar schedules list`"))
        }
    }
}

/// Submits the job that the schedule describes.
async fn submit(target: &Target, schedule: Schedule, options: &JobOptions) -> Outcome<Job> {
    let (database, timeout, request_id) = (schedule.database, options.timeout(), options.request_id());
    let work = schedule.work.and_then(|work| work.work);
    match work.ok_or_else(|| Failure::Bug(format!("schedule {} describes no job", schedule.name)))? {
        Work::Backup(work) => {
            let request =
                BackupRequest { database, queue: true, timeout, request_id, ..backup::request(&work, "") };
            submit_backup(target, work.cells, request).await
        }
        Work::Expire(_) => {
            let request = ExpireBackupsRequest {
                database,
                queue: true,
                timeout,
                request_id,
                ..ExpireBackupsRequest::default()
            };
            expire::submit(target, request).await
        }
        Work::Verify(_) => {
            let request =
                VerifyBackupsRequest { database, timeout, request_id, ..VerifyBackupsRequest::default() };
            verify::submit(target, request).await
        }
        Work::Check(_) => check::submit(target, CheckArchiveRequest { database, timeout, request_id }).await,
        Work::Drill(work) => {
            let request = DrillRestoreRequest { database, timeout, request_id, ..drill::request(work) };
            drill::submit(target, request).await
        }
    }
}

/// Submits the backup of the first of the cells that is not refused.
async fn submit_backup(target: &Target, cells: Vec<String>, request: BackupRequest) -> Outcome<Job> {
    let mut refused = Failure::Bug("the schedule names no cell to back up".to_owned());
    for cell in cells {
        match backup::submit(target, BackupRequest { cell, ..request.clone() }).await {
            Err(failure) if failure.exit_code() == 3 => {
                output::note(&failure.to_string());
                refused = failure;
            }
            other => return other,
        }
    }
    Err(refused)
}
