//! `cellar schedules`.

use cellar_api::v1::{
    BackupRequest, CheckArchiveRequest, DeleteScheduleRequest, DrillRestoreRequest, ExpireBackupsRequest,
    Job, ListSchedulesRequest, ListSchedulesResponse, PutScheduleRequest, Schedule, ScheduleView,
    ScheduledBackup, ScheduledCheck, ScheduledDrill, ScheduledExpiry, ScheduledVerification, ScheduledWork,
    VerifyBackupsRequest, scheduled_work::Work,
};
use cellar_model::{CellName, RequestId, ScheduleName};
use clap::{Args, Subcommand};

use crate::arguments::{Form, Global};
use crate::client::follow::follow;
use crate::client::retry::call;
use crate::client::submit::{accepted, judge, request_id};
use crate::client::target::{Client, Target};
use crate::commands::backup::{Kind, max_lag_bytes};
use crate::commands::drill::Checks;
use crate::commands::jobs::{kind_word, render_one, state_word};
use crate::failure::{Failure, Outcome};
use crate::output;
use crate::render::proof::type_word;
use crate::render::table::Table;
use crate::render::units::{self, parse_size};

/// Backups, drills and upkeep that multiadmin asks for by itself
#[derive(Debug, Subcommand)]
pub(crate) enum Schedules {
    /// List the schedules: what, when, when next, and how it went the last time
    #[command(after_help = "Examples:
  cellar schedules list
  cellar schedules list --output json | jq '.schedules[] | select(.schedule.last.error)'")]
    List,
    Set(Box<Set>),
    /// Remove a schedule; what it has begun goes on
    #[command(after_help = "Example:
  cellar schedules remove nightly")]
    Remove {
        /// Its name
        #[arg(value_name = "NAME")]
        name: ScheduleName,
    },
    Run(Run),
}

/// Set a schedule, or change one: what you do not give stays as it is
///
/// A run begins at its time or, if it is refused then, within an hour; later it is missed. Of several times that have
/// passed while nobody was there only the newest counts. A run waits behind others, and is not begun while the one
/// before it has not ended.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar schedules set weekly --cron '30 1 * * SUN' backup --from zone3 --type full
  cellar schedules set nightly --cron '30 1 * * MON-SAT' backup --from zone3 --from zone2
  cellar schedules set tidy --cron '0 5 * * *' expire
  cellar schedules set proof --cron '0 6 * * SUN' --time-zone Europe/Berlin drill --on zone2
  cellar schedules set nightly --paused
  cellar schedules set nightly --paused=false")]
pub(crate) struct Set {
    /// Its name
    #[arg(value_name = "NAME")]
    name: ScheduleName,
    /// When: minute, hour, day, month and weekday, as in crontab(5)
    #[arg(long, value_name = "FIELDS")]
    cron: Option<String>,
    /// The time zone of these fields, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// Nothing runs until it is set to false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    paused: Option<bool>,
    #[command(subcommand)]
    work: Option<What>,
}

/// What is scheduled.
#[derive(Debug, Subcommand)]
enum What {
    /// A backup of the named cell
    #[command(after_help = "Example:
  cellar schedules set weekly --cron '30 1 * * SUN' backup --from zone3 --from zone2 --type full")]
    Backup {
        /// The cell to copy. Repeated: the next one, if the one before cannot be backed up then
        #[arg(long, value_name = "CELL", required = true)]
        from: Vec<CellName>,
        /// How much to copy
        #[arg(long = "type", value_name = "TYPE", default_value = "incr")]
        kind: Kind,
        /// Accept the primary as source
        #[arg(long)]
        allow_primary: bool,
        /// Refuse a standby that is further behind [default: 256MiB]
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        max_lag: Option<u64>,
    },
    /// Taking away the backups and the WAL that the retention does not keep
    #[command(after_help = "Example:
  cellar schedules set tidy --cron '0 5 * * *' expire")]
    Expire,
    /// Reading the whole repository
    #[command(after_help = "Example:
  cellar schedules set whole --cron '0 7 1 * *' verify")]
    Verify,
    /// Seeing that WAL arrives in the repository
    #[command(after_help = "Example:
  cellar schedules set arrives --cron '*/15 * * * *' check")]
    Check,
    /// Proving that the newest backup can be restored
    #[command(after_help = "Example:
  cellar schedules set proof --cron '0 6 * * SUN' drill --on zone2 --check 'select count(*) > 0 from orders'")]
    Drill {
        /// The cell that has room for the copy [default: a standby]
        #[arg(long, value_name = "CELL")]
        on: Option<CellName>,
        #[command(flatten)]
        checks: Checks,
    },
}

/// Do now what a schedule asks for, as yourself
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
    /// Print the job and end at once
    #[arg(long)]
    no_wait: bool,
    /// Your own name for this request: repeating it finds the same job
    #[arg(long, value_name = "ID")]
    request_id: Option<RequestId>,
}

impl What {
    fn message(&self) -> Outcome<ScheduledWork> {
        let work = match self {
            Self::Backup { from, kind, allow_primary, max_lag } => Work::Backup(ScheduledBackup {
                cells: from.iter().map(ToString::to_string).collect(),
                r#type: kind.message().into(),
                allow_primary: *allow_primary,
                max_lag_bytes: max_lag_bytes(*max_lag)?,
            }),
            Self::Expire => Work::Expire(ScheduledExpiry {}),
            Self::Verify => Work::Verify(ScheduledVerification {}),
            Self::Check => Work::Check(ScheduledCheck {}),
            Self::Drill { on, checks } => Work::Drill(ScheduledDrill {
                cell: on.as_ref().map(ToString::to_string),
                checks: checks.texts()?,
                check_database: checks.check_database.clone().unwrap_or_default(),
                skip_amcheck: checks.skip_amcheck,
                nice: checks.nice,
                max_bytes_per_second: checks.max_rate,
            }),
        };
        Ok(ScheduledWork { work: Some(work) })
    }
}

/// What a schedule asks for, in words.
fn what(schedule: &Schedule) -> String {
    match schedule.work.as_ref().and_then(|work| work.work.as_ref()) {
        Some(Work::Backup(backup)) => {
            format!("backup {} of {}", type_word(backup.r#type()), backup.cells.join(", else "))
        }
        Some(Work::Expire(_)) => "expire".to_owned(),
        Some(Work::Verify(_)) => "verify".to_owned(),
        Some(Work::Check(_)) => "check".to_owned(),
        Some(Work::Drill(ScheduledDrill { cell: Some(cell), .. })) => format!("drill in {cell}"),
        Some(Work::Drill(_)) => "drill".to_owned(),
        None => String::new(),
    }
}

/// How the last due time went.
fn last(view: &ScheduleView, schedule: &Schedule) -> String {
    let Some(run) = &schedule.last else { return String::new() };
    let due = units::minute(run.due.as_ref());
    match (&run.error, &view.last_job) {
        (Some(error), _) => {
            let over =
                schedule.settled.map(|at| (at.seconds, at.nanos)) >= run.due.map(|at| (at.seconds, at.nanos));
            let word = if over { "missed" } else { "refused until now" };
            format!("{due} {word}: {} ({})", error.message, error.code)
        }
        (None, Some(job)) => format!("{due} {} {}", kind_word(job.kind()), state_word(job.state())),
        // The history has a limit.
        (None, None) => format!("{due} job {}", run.job.as_deref().unwrap_or_default()),
    }
}

pub(crate) fn render_list(answer: &ListSchedulesResponse) -> String {
    let mut text = String::new();
    if answer.schedules.is_empty() {
        text.push_str("there are no schedules\n");
    } else {
        let mut table = Table::new(&["DATABASE", "NAME", "WHAT", "WHEN", "NEXT", "LAST"]);
        for view in &answer.schedules {
            let Some(schedule) = &view.schedule else { continue };
            let calendar = schedule.calendar.clone().unwrap_or_default();
            let next =
                if schedule.paused { "paused".to_owned() } else { units::minute(view.next_time.as_ref()) };
            table.row([
                schedule.database.clone(),
                schedule.name.clone(),
                what(schedule),
                format!("{} {}", calendar.cron, calendar.time_zone),
                next,
                last(view, schedule),
            ]);
        }
        text.push_str(&table.render());
    }
    for path in &answer.unreadable_records {
        text.push_str(&format!("cannot be read, and does not run: {path}\n"));
    }
    text
}

impl Schedules {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => list(global).await,
            Self::Set(set) => set.run(global).await,
            Self::Remove { name } => remove(global, &name).await,
            Self::Run(run) => run.run(global).await,
        }
    }
}

async fn listed(global: &Global, target: &Target, client: &Client) -> Outcome<ListSchedulesResponse> {
    let request = ListSchedulesRequest { database: super::database(global) };
    call(target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.list_schedules(request).await }
    })
    .await
}

async fn list(global: &Global) -> Outcome {
    let target = global.target()?;
    let answer = listed(global, &target, &target.client()?).await?;
    match global.output {
        Form::Json => output::json(&answer),
        Form::Human => output::print(&render_list(&answer)),
    }
}

impl Set {
    async fn run(self, global: &Global) -> Outcome {
        let request = PutScheduleRequest {
            database: super::database(global),
            name: self.name.to_string(),
            cron: self.cron.unwrap_or_default(),
            time_zone: self.time_zone.unwrap_or_default(),
            work: self.work.as_ref().map(What::message).transpose()?,
            paused: self.paused,
        };
        let target = global.target()?;
        let client = target.client()?;
        let schedule = call(&target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.put_schedule(request).await }
        })
        .await?;
        if global.output == Form::Json {
            return output::json(&schedule);
        }
        let calendar = schedule.calendar.clone().unwrap_or_default();
        let paused = if schedule.paused { "; paused" } else { "" };
        output::print(&format!(
            "schedule {} of database {}: {} at {} {}{paused}",
            schedule.name,
            schedule.database,
            what(&schedule),
            calendar.cron,
            calendar.time_zone
        ))
    }
}

async fn remove(global: &Global, name: &ScheduleName) -> Outcome {
    let target = global.target()?;
    let client = target.client()?;
    let request = DeleteScheduleRequest { database: super::database(global), name: name.to_string() };
    let schedule = call(&target, || {
        let (mut client, request) = (client.clone(), request.clone());
        async move { client.delete_schedule(request).await }
    })
    .await?;
    match global.output {
        Form::Json => output::json(&schedule),
        Form::Human => {
            output::print(&format!("schedule {name} of database {} is removed", schedule.database))
        }
    }
}

impl Run {
    async fn run(self, global: &Global) -> Outcome {
        let target = global.target()?;
        let client = target.client()?;
        let answer = listed(global, &target, &client).await?;
        let named = |schedule: &Schedule| schedule.name == self.name.as_str();
        let mut found = answer.schedules.into_iter().filter_map(|view| view.schedule).filter(named);
        let schedule = match (found.next(), found.next()) {
            (Some(schedule), None) => schedule,
            (Some(_), Some(_)) => {
                return Err(Failure::usage(
                    format!("several databases have a schedule {}", self.name),
                    "name one with --database",
                ));
            }
            (None, _) => {
                return Err(Failure::usage(
                    format!("there is no schedule {}", self.name),
                    "see `cellar schedules list`",
                ));
            }
        };
        let job = start(&target, &client, schedule, &request_id(self.request_id.as_ref())).await?;
        if self.no_wait {
            return accepted(global, &job);
        }
        output::note(&format!("job {}", job.id));
        let job = follow(&target, &job.id, false, |_| Ok(())).await?;
        match global.output {
            Form::Json => output::json(&job)?,
            Form::Human => output::print(&render_one(&job))?,
        }
        judge(job).map(drop)
    }
}

/// Asks for what the schedule asks for. Of the cells of a backup the first that is not refused is taken.
async fn start(target: &Target, client: &Client, schedule: Schedule, request_id: &str) -> Outcome<Job> {
    let (database, request_id) = (schedule.database.clone(), request_id.to_owned());
    let nothing = || Failure::Bug(format!("schedule {} asks for nothing", schedule.name));
    let work = schedule.work.clone().and_then(|work| work.work).ok_or_else(nothing)?;
    match work {
        Work::Backup(backup) => {
            let mut refused = nothing();
            for cell in backup.cells {
                let request = BackupRequest {
                    database: database.clone(),
                    cell,
                    r#type: backup.r#type,
                    allow_primary: backup.allow_primary,
                    max_lag_bytes: backup.max_lag_bytes,
                    queue: true,
                    timeout: None,
                    request_id: request_id.clone(),
                };
                let asked = call(target, || {
                    let (mut client, request) = (client.clone(), request.clone());
                    async move { client.backup(request).await }
                });
                match asked.await {
                    Err(failure) if failure.exit_code() == 3 => {
                        output::note(&failure.to_string());
                        refused = failure;
                    }
                    other => return other,
                }
            }
            Err(refused)
        }
        Work::Expire(_) => {
            let request =
                ExpireBackupsRequest { database, queue: true, request_id, ..ExpireBackupsRequest::default() };
            call(target, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.expire_backups(request).await }
            })
            .await
        }
        Work::Verify(_) => {
            let request = VerifyBackupsRequest { database, request_id, ..VerifyBackupsRequest::default() };
            call(target, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.verify_backups(request).await }
            })
            .await
        }
        Work::Check(_) => {
            let request = CheckArchiveRequest { database, timeout: None, request_id };
            call(target, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.check_archive(request).await }
            })
            .await
        }
        Work::Drill(drill) => {
            let request = DrillRestoreRequest {
                database,
                cell: drill.cell.unwrap_or_default(),
                backup: String::new(),
                checks: drill.checks,
                check_database: drill.check_database,
                skip_amcheck: drill.skip_amcheck,
                nice: drill.nice,
                max_bytes_per_second: drill.max_bytes_per_second,
                timeout: None,
                request_id,
            };
            call(target, || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.drill_restore(request).await }
            })
            .await
        }
    }
}
