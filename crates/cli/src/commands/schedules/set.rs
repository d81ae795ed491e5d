//! `cellar schedules set`.

use cellar_api::v1::{
    PutScheduleRequest, Schedule, ScheduledCheck, ScheduledExpiry, ScheduledVerification, ScheduledWork,
    scheduled_work::Work,
};
use cellar_model::{CellName, ScheduleName};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use crate::client::target::Target;
use crate::commands::backup::BackupOptions;
use crate::commands::drill::DrillOptions;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::schedules::work;

/// Set a schedule, or change one: what is not given is not changed
///
/// A run begins at its time or, if it is refused then, within an hour; later it is missed. Of several times that
/// passed while no multiadmin ran, only the newest counts. A run waits behind other jobs, and does not begin before
/// the run before it has ended.
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
    #[arg(long, value_name = "FIELDS", value_parser = NonEmptyStringValueParser::new())]
    cron: Option<String>,
    /// The time zone of these fields, such as Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", value_parser = NonEmptyStringValueParser::new())]
    time_zone: Option<String>,
    /// Begin no runs until it is set to false
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    paused: Option<bool>,
    #[command(subcommand)]
    work: Option<WorkOptions>,
}

/// What is scheduled.
#[derive(Debug, Subcommand)]
enum WorkOptions {
    /// A backup of the named cell
    #[command(after_help = "Example:
  cellar schedules set weekly --cron '30 1 * * SUN' backup --from zone3 --from zone2 --type full")]
    Backup {
        /// The cell to copy. Repeated: the next one, if the one before cannot be backed up then
        #[arg(long, value_name = "CELL", required = true)]
        from: Vec<CellName>,
        #[command(flatten)]
        backup: BackupOptions,
    },
    /// Expire the backups and the WAL that the retention does not keep
    #[command(after_help = "Example:
  cellar schedules set tidy --cron '0 5 * * *' expire")]
    Expire,
    /// Read the whole repository
    #[command(after_help = "Example:
  cellar schedules set whole --cron '0 7 1 * *' verify")]
    Verify,
    /// Check that WAL arrives in the repository
    #[command(after_help = "Example:
  cellar schedules set arrives --cron '*/15 * * * *' check")]
    Check,
    /// Prove that the newest backup can be restored
    #[command(after_help = "Example:
  cellar schedules set proof --cron '0 6 * * SUN' drill --on zone2 --check 'select count(*) > 0 from orders'")]
    Drill(DrillOptions),
}

impl WorkOptions {
    fn read(&self) -> Outcome<ScheduledWork> {
        let work = match self {
            Self::Backup { from, backup } => Work::Backup(backup.of_cells(from)?),
            Self::Expire => Work::Expire(ScheduledExpiry {}),
            Self::Verify => Work::Verify(ScheduledVerification {}),
            Self::Check => Work::Check(ScheduledCheck {}),
            Self::Drill(drill) => Work::Drill(drill.read()?),
        };
        Ok(ScheduledWork { work: Some(work) })
    }
}

fn summary(schedule: &Schedule) -> String {
    let calendar = schedule.calendar.clone().unwrap_or_default();
    format!(
        "schedule {} of database {}: {} at {} {}{}",
        schedule.name,
        schedule.database,
        work(schedule),
        calendar.cron,
        calendar.time_zone,
        if schedule.paused { "; paused" } else { "" }
    )
}

impl Set {
    pub(super) async fn run(self, global: &Global) -> Outcome {
        let request = PutScheduleRequest {
            database: global.database(),
            name: self.name.to_string(),
            cron: self.cron.unwrap_or_default(),
            time_zone: self.time_zone.unwrap_or_default(),
            work: self.work.as_ref().map(WorkOptions::read).transpose()?,
            paused: self.paused,
        };
        let schedule = Target::of(global)
            .await?
            .call(request, async |mut client, request| client.put_schedule(request).await)
            .await?;
        global.output.print(&schedule, summary)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        set: Set,
    }

    #[test]
    fn empty_calendar_or_time_zone_is_refused() {
        for flag in ["--cron", "--time-zone"] {
            assert!(Line::try_parse_from(["set", "nightly", flag, ""]).is_err(), "{flag}");
            assert!(Line::try_parse_from(["set", "nightly", flag, "UTC"]).is_ok(), "{flag}");
        }
    }
}
