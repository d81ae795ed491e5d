//! `cellar status`.

use std::collections::BTreeSet;
use std::time::Duration;

use cellar_api::v1::{
    Archiver, DatabaseView, InstanceState, LagClass, ListDatabasesRequest, ListDatabasesResponse,
    ListPoolersRequest, ListPoolersResponse, PoolerStatus, PoolerView, RepoCipher, Role,
};
use cellar_provisioner::ProcessHealth;
use clap::Args;

use crate::arguments::{Form, Global};
use crate::client::retry::call;
use crate::client::target::Target;
use crate::failure::Outcome;
use crate::output;
use crate::render::table::{NOTHING, Table};
use crate::render::units;

/// Show every cell: role, what it streams from, lag, archiving, certificates
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar status
  cellar status --watch
  cellar status --output json | jq '.poolers[] | select(.status.role==\"ROLE_PRIMARY\").pooler.cell'")]
pub(crate) struct Status {
    /// Show it again whenever something changes
    #[arg(long, short)]
    watch: bool,
}

/// How often `--watch` looks; pooler statuses change at most once a second.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The largest page that multiadmin gives.
const PAGE: u32 = 1000;

/// Every pooler, over all pages, as one response.
pub(crate) async fn poolers(target: &Target, database: &str) -> Outcome<ListPoolersResponse> {
    let client = target.client()?;
    let mut all = ListPoolersResponse::default();
    let mut page_token = String::new();
    loop {
        let request = ListPoolersRequest { database: database.to_owned(), page_size: PAGE, page_token };
        let page = call(target, || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.list_poolers(request).await }
        })
        .await?;
        all.poolers.extend(page.poolers);
        all.unreadable_records = page.unreadable_records;
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        page_token = page.next_page_token;
    }
}

pub(crate) async fn databases(target: &Target) -> Outcome<ListDatabasesResponse> {
    let client = target.client()?;
    call(target, || {
        let mut client = client.clone();
        async move { client.list_databases(ListDatabasesRequest {}).await }
    })
    .await
}

/// One word for a role.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Primary => "primary",
        Role::Standby => "standby",
    }
}

fn state_word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Unknown => "unknown",
        InstanceState::Waiting => "waiting",
        InstanceState::Seeding => "seeding",
        InstanceState::Starting => "starting",
        InstanceState::Running => "running",
        InstanceState::Down => "down",
        InstanceState::Broken => "broken",
    }
}

fn lag_word(status: &PoolerStatus) -> &'static str {
    if status.role() != Role::Standby {
        return NOTHING;
    }
    match status.replay_lag() {
        LagClass::Unknown => NOTHING,
        LagClass::Current => "<1MiB",
        LagClass::Segment => "<16MiB",
        LagClass::Behind => "<1GiB",
        LagClass::Far => ">=1GiB",
    }
}

/// Whether the last thing the archiver did was to fail.
fn is_failing(archiver: &Archiver) -> bool {
    let key = |time: &cellar_api::wkt::Timestamp| (time.seconds, time.nanos);
    match (&archiver.last_failed_time, &archiver.last_archived_time) {
        (Some(failed), Some(archived)) => key(failed) > key(archived),
        (Some(_), None) => true,
        (None, _) => false,
    }
}

fn archiver_word(status: &PoolerStatus) -> &'static str {
    match &status.archiver {
        // Only a primary archives.
        _ if status.role() != Role::Primary => NOTHING,
        Some(archiver) if is_failing(archiver) => "failing",
        Some(archiver) if archiver.last_archived_wal.is_some() => "ok",
        _ => "idle",
    }
}

fn row(view: &PoolerView) -> [String; 10] {
    let pooler = view.pooler.clone().unwrap_or_default();
    let Some(status) = &view.status else {
        let nothing = || NOTHING.to_owned();
        return [
            pooler.cell,
            nothing(),
            "no multipooler".to_owned(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
            nothing(),
        ];
    };
    let versions = status.versions.clone().unwrap_or_default();
    [
        pooler.cell,
        role_word(status.role()).to_owned(),
        state_word(status.state()).to_owned(),
        status.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
        status.streams_from.clone().unwrap_or_default(),
        lag_word(status).to_owned(),
        archiver_word(status).to_owned(),
        units::day(status.certificate_expiry.as_ref()),
        versions.postgres,
        versions.pgbackrest,
    ]
}

/// What a table cannot say.
fn notes(view: &PoolerView, notes: &mut Vec<String>) {
    let cell = view.pooler.as_ref().map_or("?", |pooler| pooler.cell.as_str());
    let Some(status) = &view.status else {
        notes.push(format!("{cell}: its multipooler does not report; PostgreSQL there may run all the same"));
        return;
    };
    if !status.message.is_empty() {
        notes.push(format!("{cell}: {}", status.message));
    }
    if status.state() == InstanceState::Running && !status.tls_server_up {
        notes.push(format!(
            "{cell}: its pgBackRest TLS server does not answer, so no other cell can be backed up against it"
        ));
    }
    if let Some(archiver) = status.archiver.as_ref().filter(|archiver| is_failing(archiver)) {
        notes.push(format!(
            "{cell}: archiving fails since {} at WAL segment {}; PostgreSQL keeps its WAL until it works again",
            units::time(archiver.last_failed_time.as_ref()),
            archiver.last_failed_wal.as_deref().unwrap_or(NOTHING)
        ));
    }
    for record in &status.unreadable_records {
        notes.push(format!("{cell}: cannot read the record {record} in etcd and goes on without it"));
    }
}

/// One database with its cells.
pub(crate) fn render_database(database: &DatabaseView, poolers: &[PoolerView]) -> String {
    let record = database.database.clone().unwrap_or_default();
    let encrypted = match record.repo_cipher() {
        RepoCipher::Unspecified => "",
        RepoCipher::Aes256Cbc => " (encrypted, aes-256-cbc)",
    };
    let mut text = format!(
        "database {}, stanza {}, repository {}{encrypted}\n",
        record.name, record.stanza, record.repo_path
    );
    match &database.leader {
        Some(leader) => text.push_str(&format!("primary {} on timeline {}\n", leader.cell, leader.term)),
        None => text.push_str("no primary is recorded yet\n"),
    }
    if let Some(holder) = database.lock.as_ref().and_then(|lock| lock.holder.as_ref()) {
        let queue = database.lock.as_ref().map_or(0, |lock| lock.queue.len());
        let waiting = if queue == 0 { String::new() } else { format!(", {queue} waiting behind it") };
        text.push_str(&format!("job {holder} holds the stanza{waiting}\n"));
    }
    let mut table = Table::new(&[
        "CELL",
        "ROLE",
        "STATE",
        "TIMELINE",
        "STREAMS FROM",
        "LAG",
        "ARCHIVER",
        "CERTIFICATES END",
        "POSTGRES",
        "PGBACKREST",
    ]);
    let mut below = Vec::new();
    let own = poolers.iter().filter(|view| view.pooler.as_ref().is_some_and(|p| p.database == record.name));
    for view in own {
        table.row(row(view));
        notes(view, &mut below);
    }
    text.push('\n');
    text.push_str(&table.render());
    if !below.is_empty() {
        text.push_str("\nnotes:\n");
        below.iter().for_each(|note| text.push_str(&format!("  {note}\n")));
    }
    text
}

/// What does not belong to one database.
pub(crate) fn render_services(address: &str, processes: &[ProcessHealth]) -> String {
    let mut text = format!("multiadmin answers at {address}");
    for process in processes.iter().filter(|process| process.what == "etcd") {
        text.push_str(&match process.pid {
            Some(pid) => format!(", etcd runs (process {pid})"),
            None => ", etcd does not run".to_owned(),
        });
    }
    text + "\n"
}

/// Certificates of the local cluster that end soon. Cells tell of their own.
fn certificate_warnings(cluster: &cellar_provisioner::Cluster) -> Vec<String> {
    let of_cell = |path: &std::path::Path| {
        cluster.state.cells.iter().any(|cell| path.starts_with(cluster.layout.cell(&cell.name).root()))
    };
    let certificates = cluster.certificates();
    let others = certificates.iter().filter(|certificate| !of_cell(&certificate.path));
    others
        .filter_map(|certificate| certificate.info.as_ref().ok()?.warning_text(std::time::SystemTime::now()))
        .collect()
}

async fn render(target: &Target, global: &Global, poolers: &ListPoolersResponse) -> Outcome<String> {
    let local = if global.admin.is_none() { crate::local::open(global).ok() } else { None };
    let mut text = String::new();
    if let Some(cluster) = &local {
        text.push_str(&format!("cluster {} in {}\n", cluster.state.cluster, cluster.layout.root().display()));
    }
    let processes = local.as_ref().map_or_else(Vec::new, cellar_provisioner::Cluster::processes);
    text.push_str(&render_services(&target.address, &processes));
    for warning in local.iter().flat_map(certificate_warnings) {
        text.push_str(&format!("{warning}\n"));
    }
    let wanted = super::database(global);
    let databases = databases(target).await?.databases;
    for view in &databases {
        let name = view.database.as_ref().map_or("", |database| database.name.as_str());
        if wanted.is_empty() || wanted == name {
            text.push('\n');
            text.push_str(&render_database(view, &poolers.poolers));
        }
    }
    let unreadable: BTreeSet<&String> = poolers.unreadable_records.iter().collect();
    if !unreadable.is_empty() {
        text.push_str("\nrecords in etcd that multiadmin cannot read and skips:\n");
        unreadable.iter().for_each(|record| text.push_str(&format!("  {record}\n")));
    }
    Ok(text)
}

impl Status {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = global.target()?;
        let database = super::database(global);
        let mut shown = String::new();
        loop {
            let answer = poolers(&target, &database).await?;
            match global.output {
                Form::Json if !self.watch => return output::json(&answer),
                Form::Json => {
                    let now = serde_json::to_string(&answer).unwrap_or_default();
                    if now != shown {
                        output::json_line(&answer)?;
                        shown = now;
                    }
                }
                Form::Human => {
                    let now = render(&target, global, &answer).await?;
                    if now != shown {
                        if !shown.is_empty() {
                            output::print(&format!("\n{}", jiff::Timestamp::now().strftime("%H:%M:%SZ")))?;
                        }
                        output::print(&now)?;
                        shown = now;
                    }
                }
            }
            if !self.watch {
                return Ok(());
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }
}
