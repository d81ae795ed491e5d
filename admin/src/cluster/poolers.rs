//! Poolers and their status.

use std::ops::Bound::{Excluded, Included, Unbounded};
use std::time::Duration;

use cellar_api::v1;
use cellar_model::{CellName, DatabaseName, DatabaseScope, Pooler, PoolerStatus, Refusal};
use cellar_topology::View;

use crate::admin::Admin;
use crate::deadline::Deadline;
use crate::message::message;
use crate::page;
use crate::refusal::ETCD_FULL_REMEDY;

/// How long a pooler may take to return its live numbers. Without them the answer is still useful.
const LIVE_STATUS_TIMEOUT: Duration = Duration::from_secs(2);

/// How long etcd may take to say which alarms are set.
const ALARM_TIMEOUT: Duration = Duration::from_secs(3);

type PoolerId = (DatabaseName, CellName);

impl Admin {
    /// A page of poolers of these databases. Only the page is copied and converted, so that its cost does not grow with their number.
    pub(crate) async fn list_poolers(
        &self,
        scope: &DatabaseScope,
        database: Option<&DatabaseName>,
        size: usize,
        token: &str,
        deadline: Deadline,
    ) -> Result<v1::ListPoolersResponse, Refusal> {
        let after = page::position(token)?.map(|text| parse_position(&text)).transpose()?;
        self.fresh(deadline).await?;
        let (records, more, unreadable_records) = {
            let view = self.view();
            if let Some(name) = database {
                view.snapshot().database(Some(name))?;
            }
            let mut records = Vec::new();
            let mut more = false;
            let poolers = poolers_after(&view, database, after);
            for pooler in poolers.filter(|pooler| scope.contains(&pooler.database)) {
                if records.len() == size {
                    more = true;
                    break;
                }
                records.push((pooler.clone(), noted(&view, pooler), machine(&view, pooler)));
            }
            let unreadable = view.unreadable.iter().map(|(key, reason)| format!("{key}: {reason}")).collect();
            (records, more, unreadable)
        };
        let last = records.last().filter(|_| more).map(|(pooler, ..)| position_text(pooler));
        let poolers: Result<_, _> = records
            .into_iter()
            .map(|(pooler, status, machine)| show(&pooler, status.as_ref(), machine))
            .collect();
        Ok(v1::ListPoolersResponse {
            poolers: poolers?,
            next_page_token: last.unwrap_or_default(),
            unreadable_records,
            etcd_alarms: if token.is_empty() { self.etcd_alarms().await } else { Vec::new() },
        })
    }

    /// The alarms that etcd has set, in words; none when it does not say in time.
    async fn etcd_alarms(&self) -> Vec<String> {
        let asked = tokio::time::timeout(ALARM_TIMEOUT, self.store.kv().alarms()).await;
        let alarms = match asked {
            Ok(Ok(alarms)) => alarms,
            Ok(Err(error)) => {
                tracing::debug!(%error, "etcd does not say which alarms are set");
                Vec::new()
            }
            Err(_) => Vec::new(),
        };
        let in_words = |alarm: String| match alarm.as_str() {
            "NOSPACE" => format!(
                "etcd's database is full (alarm NOSPACE): nothing can be recorded, and no job can begin or end; {ETCD_FULL_REMEDY}"
            ),
            "CORRUPT" => "a member of etcd has other data than the rest (alarm CORRUPT): replace that member"
                .to_owned(),
            other => format!("etcd has set the alarm {other} (`etcdctl alarm list`)"),
        };
        alarms.into_iter().map(in_words).collect()
    }

    /// One pooler, with its live numbers if it answers.
    pub(crate) async fn pooler(
        &self,
        database: Option<&DatabaseName>,
        cell: &CellName,
        deadline: Deadline,
    ) -> Result<v1::PoolerView, Refusal> {
        self.fresh(deadline).await?;
        let (pooler, status, machine) = {
            let view = self.view();
            let snapshot = view.snapshot();
            let name = &snapshot.database(database)?.name;
            let pooler = snapshot.pooler(name, cell)?.clone();
            let status = noted(&view, &pooler);
            let machine = machine(&view, &pooler);
            (pooler, status, machine)
        };
        let mut shown = show(&pooler, status.as_ref(), machine)?;
        if status.is_some() {
            shown.live = self.live(&pooler, deadline).await;
        }
        Ok(shown)
    }

    async fn live(&self, pooler: &Pooler, deadline: Deadline) -> Option<v1::LiveStatus> {
        let mut client = self.pooler_client(pooler).ok()?;
        let timeout = LIVE_STATUS_TIMEOUT.min(deadline.remaining());
        let call = client.get_live_status(v1::GetLiveStatusRequest {});
        match tokio::time::timeout(timeout, call).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(cell = %pooler.cell, %status, "no live status");
                self.poolers.forget(pooler);
                None
            }
            Err(_) => {
                self.poolers.forget(pooler);
                None
            }
        }
    }
}

/// The status of a pooler, with a note if it is too old to be given work, or cannot reach the repository with the pgBackRest
/// that it has.
fn noted(view: &View, pooler: &Pooler) -> Option<PoolerStatus> {
    let mut status = view.status.get(&(pooler.database.clone(), pooler.cell.clone()))?.clone();
    if let Err(refusal) = view.snapshot().new_enough(&pooler.database, &pooler.cell) {
        status.versions.notes.push(format!("{}: {}", refusal.message, refusal.hint));
    }
    let note = other_pgbackrest(view, pooler, &status.versions.pgbackrest);
    status.versions.notes.extend(note);
    Some(status)
}

/// That a cell has another version of pgBackRest than the one whose host has the repository, if both are known.
fn other_pgbackrest(view: &View, pooler: &Pooler, here: &str) -> Option<String> {
    let home = view.databases.get(&pooler.database)?.repository.reached_through(&pooler.cell)?;
    let there = &view.status.get(&(pooler.database.clone(), home.clone()))?.versions.pgbackrest;
    if here.is_empty() || there.is_empty() || here == there {
        return None;
    }
    Some(format!(
        "pgBackRest is {here} here and {there} in cell {home}, whose host has the repository: different versions do not work together, so this cell archives, backs up and restores nothing until they are the same; PostgreSQL keeps its WAL meanwhile. Install the same version on both hosts, and restart the multipooler where it is new"
    ))
}

/// The machine whose multipooler has claimed the cell; empty when none has.
fn machine(view: &View, pooler: &Pooler) -> String {
    let claim = view.cell_claims.get(&(pooler.database.clone(), pooler.cell.clone()));
    claim.map(|claim| claim.machine.clone()).unwrap_or_default()
}

fn show(pooler: &Pooler, status: Option<&PoolerStatus>, machine: String) -> Result<v1::PoolerView, Refusal> {
    Ok(v1::PoolerView {
        pooler: Some(message(pooler)?),
        status: status.map(message).transpose()?,
        live: None,
        machine,
    })
}

/// The poolers of a database, in the order of their cells' names.
pub(crate) fn of_database<'a>(
    view: &'a View,
    database: &'a DatabaseName,
) -> impl Iterator<Item = &'a Pooler> {
    poolers_after(view, Some(database), None)
}

/// Poolers in order, of one database or all, after a position.
fn poolers_after<'a>(
    view: &'a View,
    database: Option<&'a DatabaseName>,
    after: Option<PoolerId>,
) -> impl Iterator<Item = &'a Pooler> {
    let start = match (after, database) {
        // A token of another database's listing must not lead to poolers before this database's.
        (Some(after), Some(name)) if after.0 < *name => first(name),
        (Some(after), _) => Excluded(after),
        (None, Some(name)) => first(name),
        (None, None) => Unbounded,
    };
    view.poolers
        .range((start, Unbounded))
        .map(|(_, pooler)| pooler)
        .take_while(move |pooler| database.is_none_or(|name| pooler.database == *name))
}

/// The position of a database's first pooler.
fn first(database: &DatabaseName) -> std::ops::Bound<PoolerId> {
    // No name sorts before "0": names begin with a letter or a digit.
    match "0".parse() {
        Ok(lowest) => Included((database.clone(), lowest)),
        Err(_) => Unbounded,
    }
}

fn position_text(pooler: &Pooler) -> String {
    page::token(&format!("{}/{}", pooler.database, pooler.cell))
}

fn parse_position(text: &str) -> Result<PoolerId, Refusal> {
    let parsed = text.split_once('/').and_then(|(db, cell)| Some((db.parse().ok()?, cell.parse().ok()?)));
    parsed.ok_or_else(page::bad_token)
}
