//! `cellar doctor`.

use std::time::SystemTime;

use cellar_api::v1::{InstanceState, ListPoolersResponse, PoolerView, Role};
use cellar_api::wkt::Timestamp;
use cellar_model::{DatabaseName, naming_database};
use cellar_provisioner::{
    CellFacts, Cluster, Finding, HostServer, ProcessHealth, RecordedPrimary,
    cell_problems as cell_problems_of,
};

use crate::client::poolers::poolers;
use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output::Form;
use crate::render::status::archiving;
use crate::render::units;
use crate::{local, output};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A local cluster: everything.
    ThisMachine,
    /// A cluster on hosts: what can be seen from the operator's machine.
    Hosts,
}

/// The problems that were found, in the order in which to repair them.
pub(crate) fn render(
    findings: &[Finding],
    dead: &[&ProcessHealth],
    cells: &[String],
    scope: Scope,
) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!("problem: {}\n", finding.message));
        if let Some(hint) = &finding.hint {
            text.push_str(&format!("  repair: {hint}\n"));
        }
    }
    for process in dead {
        text.push_str(&format!("problem: {} does not run\n", process.what));
        if let Some(repair) = &process.repair {
            text.push_str(&format!("  repair: {repair}\n"));
        }
    }
    if dead.iter().any(|process| process.repair.is_none()) {
        text.push_str("  repair: `cellar up` starts what does not run\n");
    }
    for cell in cells {
        text.push_str(&format!("problem: {cell}\n"));
    }
    if text.is_empty() {
        text.push_str(match scope {
            Scope::ThisMachine => "no problem found: programs, ports, directories, processes and cells are fine\n",
            Scope::Hosts => {
                "no problem found: every etcd member and every multiadmin answers, every cell reports that it is fine, and \
                 the hosts use their newest certificates; what else runs on a host is told there: `cellar host status`\n"
            }
        });
    }
    text
}

/// The database of a pooler, where there are poolers of several.
fn of_several(view: &PoolerView, answer: &ListPoolersResponse) -> Option<DatabaseName> {
    let own = &view.pooler.as_ref()?.database;
    let mut databases =
        answer.poolers.iter().filter_map(|view| view.pooler.as_ref()).map(|one| &one.database);
    databases.any(|database| database != own).then(|| own.parse().ok()).flatten()
}

/// The cell of a pooler, with its database where there are poolers of several.
fn shown(view: &PoolerView, answer: &ListPoolersResponse) -> String {
    let cell = view.pooler.as_ref().map_or("?", |own| own.cell.as_str());
    match of_several(view, answer) {
        None => cell.to_owned(),
        Some(database) => format!("{cell} of database {database}"),
    }
}

/// The problems that the cells report.
pub(crate) fn cell_problems(answer: &ListPoolersResponse) -> Vec<String> {
    let mut problems = Vec::new();
    for view in &answer.poolers {
        let cell = view.pooler.as_ref().map_or("?", |pooler| pooler.cell.as_str());
        let shown = shown(view, answer);
        let facts = view.status.as_ref().map(|status| CellFacts {
            is_running: status.state() == InstanceState::Running,
            message: &status.message,
            role: match status.role() {
                Role::Primary => cellar_model::Role::Primary,
                Role::Standby => cellar_model::Role::Standby,
                Role::Unknown => cellar_model::Role::Unknown,
            },
            streams_from: status.streams_from.as_deref(),
            tls_server_up: status.tls_server_up,
        });
        let mut found = cell_problems_of(&shown, cell, facts, RecordedPrimary::NotAsked);
        // What a running instance says is wrong keeps nobody from using it, and something from working.
        let running = view.status.iter().filter(|status| status.state() == InstanceState::Running);
        let told = running.flat_map(|status| {
            let said = Some(status.message.clone()).filter(|message| !message.is_empty());
            said.into_iter().chain(archiving(status))
        });
        found.extend(told.map(|trouble| format!("cell {shown}: {trouble}")));
        problems.extend(match of_several(view, answer) {
            None => found,
            Some(database) => found.iter().map(|problem| naming_database(problem, &database)).collect(),
        });
    }
    problems.extend(answer.etcd_alarms.iter().cloned());
    problems.extend(answer.unreadable_records.iter().map(|key| format!("unreadable record in etcd: {key}")));
    problems
}

/// What an operator should know, though it is no problem.
pub(crate) fn cell_notes(answer: &ListPoolersResponse) -> Vec<String> {
    let mut notes = Vec::new();
    for view in &answer.poolers {
        let cell = shown(view, answer);
        let versions = view.status.as_ref().and_then(|status| status.versions.as_ref());
        let of_cell = versions.into_iter().flat_map(|versions| &versions.notes);
        notes.extend(of_cell.map(|note| format!("cell {cell}: {note}")));
    }
    notes
}

/// The problems that the cells report, and what else there is to know of them.
async fn cells(global: &Global) -> (Vec<String>, Vec<String>) {
    let answer = async { poolers(&Target::of(global).await?, &global.database()).await };
    match answer.await {
        Ok(answer) => {
            let problems = cell_problems(&answer);
            let named = |database| problems.iter().map(|one| naming_database(one, database)).collect();
            (global.database.as_ref().map_or_else(|| problems.clone(), named), cell_notes(&answer))
        }
        Err(failure) => (vec![failure.message()], Vec::new()),
    }
}

fn timestamp(time: SystemTime) -> Option<Timestamp> {
    jiff::Timestamp::try_from(time).ok().map(Timestamp::from)
}

/// Until when the certificates of the servers on hosts last.
fn certificate_note(servers: &[HostServer]) -> Option<String> {
    let ends = |server: &HostServer| server.certificate.as_ref().map(|certificate| certificate.not_after);
    let first = servers.iter().filter(|server| ends(server).is_some()).min_by_key(|server| ends(server))?;
    Some(format!(
        "the certificates of etcd's members and the multiadmins last until {} or longer ({})",
        units::day(Some(&timestamp(ends(first)?)?)),
        first.what
    ))
}

pub(crate) async fn run(global: &Global) -> Outcome {
    local::refuse_remote(global, "doctor")?;
    let cluster: Cluster = local::open(global)?;
    // What is on other hosts is looked at there, but for what can be seen from here.
    let servers = cluster.host_servers().await?;
    let findings = match cluster.is_local() {
        true => cluster.preflight(&cluster.state.cells, 0)?,
        false => {
            let mut findings = cluster.certificate_findings().await;
            findings.extend(servers.iter().filter_map(|server| server.problem.clone()));
            findings
        }
    };
    let processes = cluster.processes();
    let dead: Vec<&ProcessHealth> = processes.iter().filter(|process| process.pid.is_none()).collect();
    let (cells, mut notes) = cells(global).await;
    notes.extend(certificate_note(&servers));
    let problems = findings.len() + dead.len() + cells.len();
    match global.output {
        Form::Human => {
            let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
            let scope = if cluster.is_local() { Scope::ThisMachine } else { Scope::Hosts };
            output::print(&format!("{}{notes}", render(&findings, &dead, &cells, scope)))?;
        }
        Form::Json => output::json(&serde_json::json!({
            "findings": findings.iter().map(|finding| &finding.message).collect::<Vec<_>>(),
            "processes": processes.iter().map(|p| serde_json::json!({"what": p.what, "pid": p.pid})).collect::<Vec<_>>(),
            "servers": servers.iter().map(server).collect::<Vec<_>>(),
            "cells": cells,
            "notes": notes,
        }))?,
    }
    match problems {
        0 => Ok(()),
        1 => Err(Failure::ProblemsFound("1 problem was found".to_owned())),
        n => Err(Failure::ProblemsFound(format!("{n} problems were found"))),
    }
}

fn server(server: &HostServer) -> serde_json::Value {
    serde_json::json!({
        "what": server.what,
        "cell": server.cell,
        "problem": server.problem.as_ref().map(|problem| &problem.message),
        "certificateExpiry": server.certificate.as_ref().and_then(|certificate| timestamp(certificate.not_after)),
    })
}
