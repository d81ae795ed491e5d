//! Schedules: listed, set and deleted. The [`crate::leader::scheduler`] starts their jobs.

use cellar_api::{v1, wkt};
use cellar_model::{
    Calendar, Code, DatabaseName, DatabaseScope, Job, Key, Refusal, Schedule, ScheduleName, ScheduledWork,
    timestamp_ms,
};
use cellar_system::clock;
use cellar_topology::View;
use jiff::Timestamp;

use crate::admin::Admin;
use crate::caller::Caller;
use crate::deadline::Deadline;
use crate::message::message;
use crate::refusal::{self, invalid};
use crate::tries::Tries;

/// Schedules that a database may have.
const MAX_SCHEDULES: usize = 100;

/// The hint about a calendar that cannot be parsed.
const CALENDAR_HINT: &str =
    "for example --cron '30 1 * * MON-SAT' --time-zone Europe/Berlin: at 01:30, except on Sundays";

/// A request to set a schedule, parsed. Fields that are not given keep their present value.
#[derive(Debug, Clone)]
pub(crate) struct ScheduleRequest {
    pub(crate) database: Option<DatabaseName>,
    pub(crate) name: ScheduleName,
    pub(crate) cron: Option<String>,
    pub(crate) time_zone: Option<String>,
    pub(crate) work: Option<ScheduledWork>,
    pub(crate) paused: Option<bool>,
}

/// Refuses a caller who may not ask for the work itself.
fn check_role(caller: &Caller, work: &ScheduledWork) -> Result<(), Refusal> {
    caller
        .check_role(work.kind().role(), "set, change or delete such a schedule")
        .map_err(|refusal| refusal.hint("ask an operator with the role that the job itself needs"))
}

fn unknown(database: &DatabaseName, name: &ScheduleName) -> Refusal {
    Refusal::new(Code::UnknownSchedule, format!("database {database} has no schedule {name}"))
        .hint("see `cellar schedules list`")
        .about("database", database)
        .about("schedule", name)
}

impl ScheduleRequest {
    /// The schedule after the request.
    fn apply(
        &self,
        view: &View,
        database: &DatabaseName,
        caller: &Caller,
        now: Timestamp,
    ) -> Result<Schedule, Refusal> {
        let present = view.schedules.get(&(database.clone(), self.name.clone()));
        let missing = |what| {
            invalid(what, format!("there is no schedule {}, and a new one needs its {what}", self.name))
                .hint("for example `cellar schedules set nightly --cron '30 1 * * *' backup --from zone3`")
        };
        let cron = self.cron.as_deref().or(present.map(|old| old.calendar.cron()));
        let zone = self.time_zone.as_deref().or(present.map(|old| old.calendar.time_zone()));
        let calendar = match present {
            Some(old) if self.cron.is_none() && self.time_zone.is_none() => old.calendar.clone(),
            _ => Calendar::new(cron.ok_or_else(|| missing("cron"))?, zone.unwrap_or_default())
                .map_err(|error| invalid(calendar_field(&error), error.to_string()).hint(CALENDAR_HINT))?,
        };
        let work = self.work.clone().or_else(|| present.map(|old| old.work.clone()));
        let work = work.ok_or_else(|| missing("work"))?;
        // Also for its present work: a caller who may not expire backups may not pause or change their schedule either.
        check_role(caller, &work)?;
        present.map_or(Ok(()), |old| check_role(caller, &old.work))?;
        for cell in named_cells(&work) {
            view.snapshot().pooler(&view.snapshot().database(Some(database))?.name, cell)?;
        }
        let of_database = view.schedules.keys().filter(|(of, _)| of == database).count();
        if present.is_none() && of_database >= MAX_SCHEDULES {
            let message = format!("database {database} has {MAX_SCHEDULES} schedules already");
            return Err(Refusal::new(Code::QueueFull, message)
                .hint("delete what is not needed (`cellar schedules remove`)"));
        }
        // A run that is due and was refused so far goes on to be tried, with the work as it is now.
        let goes_on = present.filter(|old| old.calendar == calendar && !old.paused);
        let settled = goes_on.map_or(now, |old| old.settled.min(now));
        Ok(Schedule {
            database: database.clone(),
            name: self.name.clone(),
            calendar,
            work,
            paused: self.paused.unwrap_or_else(|| present.is_some_and(|old| old.paused)),
            set_by: caller.identity.clone(),
            settled: timestamp_ms(settled),
            last: present.and_then(|old| old.last.clone()),
            newest_job: present.and_then(|old| old.newest_job),
        })
    }
}

fn calendar_field(error: &cellar_model::CalendarError) -> &'static str {
    match error {
        cellar_model::CalendarError::TimeZone(_) => "time_zone",
        _ => "cron",
    }
}

/// The cells that the work names.
fn named_cells(work: &ScheduledWork) -> &[cellar_model::CellName] {
    match work {
        ScheduledWork::Backup(backup) => &backup.cells,
        ScheduledWork::Drill(drill) => drill.cell.as_slice(),
        ScheduledWork::Expire {} | ScheduledWork::Verify {} | ScheduledWork::Check {} => &[],
    }
}

impl Admin {
    pub(crate) async fn list_schedules(
        &self,
        scope: &DatabaseScope,
        database: Option<&DatabaseName>,
        deadline: Deadline,
    ) -> Result<v1::ListSchedulesResponse, Refusal> {
        self.fresh(deadline).await?;
        let (wanted, unreadable_records) = {
            let view = self.view();
            if let Some(database) = database {
                view.snapshot().database(Some(database))?;
            }
            let wanted = |schedule: &&Schedule| {
                scope.contains(&schedule.database)
                    && database.is_none_or(|database| schedule.database == *database)
            };
            let wanted: Vec<Schedule> = view.schedules.values().filter(wanted).cloned().collect();
            let prefix = self.store.keys().kind("schedules");
            let unreadable = view.unreadable.keys().filter(|path| path.starts_with(&prefix));
            (wanted, unreadable.cloned().collect())
        };
        let last = wanted.iter().filter_map(|schedule| schedule.last.as_ref()?.job).collect();
        let last = self.known_jobs(last, deadline).await?;
        let now = clock::now();
        let schedules: Result<_, _> = wanted.iter().map(|schedule| show(&last, schedule, now)).collect();
        Ok(v1::ListSchedulesResponse { schedules: schedules?, unreadable_records })
    }

    pub(crate) async fn put_schedule(
        &self,
        request: &ScheduleRequest,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Schedule, Refusal> {
        self.change_schedule(request.database.as_ref(), &request.name, deadline, |view, database| {
            request.apply(view, database, caller, clock::now()).map(Some)
        })
        .await?
        .ok_or_else(|| refusal::contended("the schedule"))
    }

    /// Deletes a schedule; answers with what it was.
    pub(crate) async fn delete_schedule(
        &self,
        database: Option<&DatabaseName>,
        name: &ScheduleName,
        caller: &Caller,
        deadline: Deadline,
    ) -> Result<Schedule, Refusal> {
        let mut deleted = None;
        self.change_schedule(database, name, deadline, |view, database| {
            let key = (database.clone(), name.clone());
            match view.schedules.get(&key) {
                Some(schedule) => {
                    check_role(caller, &schedule.work)?;
                    deleted = Some(schedule.clone());
                    Ok(None)
                }
                // The deletion was committed although its answer was lost.
                None if deleted.is_some() => Ok(None),
                None => Err(unknown(database, name)),
            }
        })
        .await?;
        deleted.ok_or_else(|| refusal::contended("the schedule"))
    }

    /// Replaces a schedule by the one that `decide` returns for the present view; deletes it for `None`.
    async fn change_schedule(
        &self,
        database: Option<&DatabaseName>,
        name: &ScheduleName,
        deadline: Deadline,
        mut decide: impl FnMut(&View, &DatabaseName) -> Result<Option<Schedule>, Refusal>,
    ) -> Result<Option<Schedule>, Refusal> {
        let mut tries = Tries::of("the schedule", deadline);
        loop {
            let _ = tries.begin()?;
            self.fresh(deadline).await?;
            let (key, revision, wanted) = {
                let view = self.view();
                let database = view.snapshot().database(database)?.name.clone();
                let key = Key::Schedule(database.clone(), name.clone());
                (key.clone(), view.revision(&key), decide(&view, &database)?)
            };
            let transaction = self.store.transaction().expect(&key, revision);
            let transaction = match &wanted {
                Some(schedule) => transaction.put(&key, schedule),
                None => transaction.delete(&key),
            };
            if self.commit(&mut tries, transaction, Some((&key, revision))).await? {
                return Ok(wanted);
            }
        }
    }
}

/// A schedule with its last job, which is one of `jobs`.
fn show(jobs: &[Job], schedule: &Schedule, now: Timestamp) -> Result<v1::ScheduleView, Refusal> {
    let last = schedule.last.as_ref().and_then(|last| last.job);
    let job = last.and_then(|last| jobs.iter().find(|job| job.record.id == last));
    Ok(v1::ScheduleView {
        schedule: Some(message(schedule)?),
        next_time: schedule.next(now).map(wkt::Timestamp::from),
        last_job: job.map(message).transpose()?,
    })
}
