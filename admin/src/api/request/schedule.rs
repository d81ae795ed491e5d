//! Schedules and the jobs that they start.

use std::collections::BTreeSet;

use cellar_api::v1;
use cellar_model::{
    BackupParams, CellName, MAX_SCHEDULED_CELLS, Refusal, ScheduleName, ScheduledBackup, ScheduledDrill,
    ScheduledWork,
};

use crate::api::request::backup::backup_type;
use crate::api::request::drill::drill_params;
use crate::api::request::field;
use crate::cluster::schedules::ScheduleRequest;
use crate::refusal::invalid;

pub(crate) fn schedule_name(text: &str) -> Result<ScheduleName, Refusal> {
    field::parse("name", text)
}

pub(crate) fn schedule(message: &v1::PutScheduleRequest) -> Result<ScheduleRequest, Refusal> {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let work = message.work.as_ref().and_then(|work| work.work.as_ref());
    Ok(ScheduleRequest {
        database: field::database("database", &message.database)?,
        name: schedule_name(&message.name)?,
        cron: given(&message.cron),
        time_zone: given(&message.time_zone),
        work: work.map(scheduled_work).transpose()?,
        paused: message.paused,
    })
}

fn scheduled_work(work: &v1::scheduled_work::Work) -> Result<ScheduledWork, Refusal> {
    use v1::scheduled_work::Work;
    Ok(match work {
        Work::Backup(backup) => {
            let cells: Vec<CellName> =
                backup.cells.iter().map(|text| field::cell("cells", text)).collect::<Result<_, _>>()?;
            let distinct: BTreeSet<&CellName> = cells.iter().collect();
            if cells.is_empty() || cells.len() > MAX_SCHEDULED_CELLS || distinct.len() < cells.len() {
                return Err(invalid(
                    "cells",
                    format!("a backup names 1 to {MAX_SCHEDULED_CELLS} cells, each once"),
                ));
            }
            let params = BackupParams {
                backup_type: backup_type(backup.r#type)?,
                allow_primary: backup.allow_primary,
                max_lag_bytes: backup.max_lag_bytes,
            };
            ScheduledWork::Backup(ScheduledBackup { cells, params })
        }
        Work::Expire(_) => ScheduledWork::Expire {},
        Work::Verify(_) => ScheduledWork::Verify {},
        Work::Check(_) => ScheduledWork::Check {},
        Work::Drill(drill) => ScheduledWork::Drill(ScheduledDrill {
            cell: drill.cell.as_deref().map_or(Ok(None), |text| field::optional("cell", text))?,
            params: drill_params(
                &drill.checks,
                &drill.check_database,
                drill.skip_amcheck,
                drill.nice,
                drill.max_bytes_per_second,
            )?,
        }),
    })
}
