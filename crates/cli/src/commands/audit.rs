//! `cellar audit`.

use cellar_api::v1::{AuditOutcome, AuditRecord, ListAuditRequest, ListAuditResponse};
use cellar_model::JobId;
use clap::{Args, Subcommand, ValueEnum};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::table::Table;
use crate::render::units;
use crate::render::when::parse_past;

/// Who requested which change, and whether it was done
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List calls that changed something, or tried to, newest first
    ///
    /// etcd keeps the newest 1000, and only some of many refusals. The audit log of multiadmin has every call.
    #[command(after_help = "Examples:
  cellar audit list
  cellar audit list --outcome refused --since 1d
  cellar audit list --identity admin/ann --rpc RestoreDatabase
  cellar audit list --job 019596a8-7e3c-7b52-9f2e-3a1c5d8e9f00 --output json | jq '.records[]'")]
    List(List),
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only calls of identities that contain this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    identity: String,
    /// Only calls of this method, such as Backup
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    rpc: String,
    /// Only calls with this outcome
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<CallOutcome>,
    /// Only calls since then: a time, or how long ago (90s, 5m, 2h, 1d)
    #[arg(long, value_name = "WHEN", value_parser = |text: &str| parse_past(text, Timestamp::now()))]
    since: Option<Timestamp>,
    /// Only calls that made, changed or named this job
    #[arg(long, value_name = "ID")]
    job: Option<JobId>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CallOutcome {
    /// It was done
    Allowed,
    /// The caller may not
    Refused,
    /// The caller may, and it was not done
    Failed,
}

impl From<CallOutcome> for AuditOutcome {
    fn from(outcome: CallOutcome) -> Self {
        match outcome {
            CallOutcome::Allowed => Self::Allowed,
            CallOutcome::Refused => Self::Refused,
            CallOutcome::Failed => Self::Failed,
        }
    }
}

/// The outcome; of a failed call also why, as its error code.
fn outcome(record: &AuditRecord) -> String {
    let word = match record.outcome() {
        AuditOutcome::Begun => "begun",
        AuditOutcome::Allowed => "allowed",
        AuditOutcome::Refused => "refused",
        AuditOutcome::Failed => "failed",
        AuditOutcome::Unspecified => "unknown",
    };
    match &record.code {
        // Every refusal has the same code.
        Some(code) if record.outcome() == AuditOutcome::Failed => format!("{word}: {code}"),
        _ => word.to_owned(),
    }
}

/// Arguments as `cell=zone3` and `target.lsn=0/1`.
fn arguments(fields: &Map<String, Value>, prefix: &str) -> Vec<String> {
    let one = |(name, value): (&String, &Value)| match value {
        Value::Object(inner) if !inner.is_empty() => arguments(inner, &format!("{prefix}{name}.")),
        Value::String(text) => vec![format!("{prefix}{name}={text}")],
        other => vec![format!("{prefix}{name}={other}")],
    };
    fields.iter().flat_map(one).collect()
}

pub(crate) fn render_list(answer: &ListAuditResponse) -> String {
    if answer.records.is_empty() {
        return "there are no such calls\n".to_owned();
    }
    let mut table = Table::new(&["TIME", "IDENTITY", "PEER", "RPC", "OUTCOME", "JOB", "ARGUMENTS"]);
    for record in &answer.records {
        let fields = record.arguments.as_ref().map(Map::from).unwrap_or_default();
        table.row([
            units::time(record.time.as_ref()),
            record.identity.clone(),
            record.peer.clone(),
            record.rpc.clone(),
            outcome(record),
            record.job.clone().unwrap_or_default(),
            arguments(&fields, "").join(" "),
        ]);
    }
    table.render()
}

impl Audit {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let Self::List(list) = self;
        let request = ListAuditRequest {
            page_size: list.limit,
            page_token: String::new(),
            identity: list.identity,
            rpc: list.rpc,
            outcome: list.outcome.map_or(AuditOutcome::Unspecified, AuditOutcome::from).into(),
            since: list.since.map(Into::into),
            job: list.job.map(|id| id.to_string()).unwrap_or_default(),
        };
        let answer = Target::of(global)
            .await?
            .call(request, async |mut client, request| client.list_audit(request).await)
            .await?;
        global.output.print(&answer, render_list)
    }
}
