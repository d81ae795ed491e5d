//! `cellar backups`.

use cellar_api::v1::{Backup, GetBackupRequest, ListBackupsRequest, ListBackupsResponse};
use cellar_model::BackupLabel;
use clap::Subcommand;

use crate::arguments::{Form, Global};
use crate::client::retry::call;
use crate::failure::Outcome;
use crate::output;
use crate::render::proof::type_word;
use crate::render::table::{NOTHING, Table};
use crate::render::{drill, units};

/// What the repository holds
#[derive(Debug, Subcommand)]
pub(crate) enum Backups {
    /// List the backups, oldest first
    #[command(after_help = "Examples:
  cellar backups list
  cellar backups list --output json | jq -r '.backups[-1].label'")]
    List,
    /// Show one backup
    #[command(after_help = "Examples:
  cellar backups show 20260301-101500F
  cellar backups show latest")]
    Show {
        /// Its label, or latest
        #[arg(value_name = "LABEL")]
        label: Wanted,
    },
}

/// A label, or the newest one.
#[derive(Debug, Clone)]
pub(crate) enum Wanted {
    Latest,
    Label(BackupLabel),
}

impl std::str::FromStr for Wanted {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            label => label
                .parse()
                .map(Self::Label)
                .map_err(|error: <BackupLabel as std::str::FromStr>::Err| error.to_string()),
        }
    }
}

/// What Cellar knows of where it came from.
fn provenance(backup: &Backup) -> &'static str {
    match (backup.error, backup.verified) {
        (true, _) => "page errors",
        (false, true) => "verified",
        (false, false) => "not proven",
    }
}

pub(crate) fn render_list(answer: &ListBackupsResponse) -> String {
    if answer.backups.is_empty() {
        return "the repository holds no backup\n".to_owned();
    }
    let mut table =
        Table::new(&["LABEL", "TYPE", "FROM CELL", "PROOF", "TAKEN", "DATABASE", "ADDED", "LAST DRILL"]);
    for backup in &answer.backups {
        table.row([
            backup.label.clone(),
            type_word(backup.r#type()).to_owned(),
            backup.cell.clone(),
            provenance(backup).to_owned(),
            units::time(backup.stop_time.as_ref()),
            units::size(backup.size_bytes),
            units::size(backup.repo_bytes),
            drill::column(backup.last_drill.as_ref()),
        ]);
    }
    table.render()
}

pub(crate) fn render_one(backup: &Backup) -> String {
    let or_nothing = |text: &str| if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() };
    let standby = match backup.from_standby {
        Some(true) => "a standby",
        Some(false) => "the primary",
        None => NOTHING,
    };
    let mut lines = vec![
        ("type", type_word(backup.r#type()).to_owned()),
        ("based on", or_nothing(backup.prior.as_deref().unwrap_or_default())),
        ("from cell", or_nothing(&backup.cell)),
        ("repository says", standby.to_owned()),
        ("proof", provenance(backup).to_owned()),
        ("job", or_nothing(&backup.job)),
        ("began", or_nothing(&units::time(backup.start_time.as_ref()))),
        ("ended", or_nothing(&units::time(backup.stop_time.as_ref()))),
        ("database", units::size(backup.size_bytes)),
        ("added", units::size(backup.repo_bytes)),
        ("WAL positions", format!("{} to {}", or_nothing(&backup.start_lsn), or_nothing(&backup.stop_lsn))),
        ("WAL segments", format!("{} to {}", or_nothing(&backup.wal_start), or_nothing(&backup.wal_stop))),
        ("last drill", drill::full(backup.last_drill.as_ref())),
    ];
    if let Some(took) = units::between(backup.start_time.as_ref(), backup.stop_time.as_ref()) {
        lines.insert(8, ("took", units::duration(took)));
    }
    let mut text = format!("backup {}\n", backup.label);
    for (name, value) in lines {
        text.push_str(&format!("  {name:<16} {value}\n"));
    }
    text
}

impl Backups {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = global.target()?;
        let client = target.client()?;
        let database = super::database(global);
        let list = || {
            let (mut client, database) = (client.clone(), database.clone());
            async move { client.list_backups(ListBackupsRequest { database }).await }
        };
        let label = match self {
            Self::List => {
                let answer = call(&target, list).await?;
                return match global.output {
                    Form::Json => output::json(&answer),
                    Form::Human => output::print(&render_list(&answer)),
                };
            }
            Self::Show { label: Wanted::Label(label) } => label.to_string(),
            Self::Show { label: Wanted::Latest } => {
                let backups = call(&target, list).await?.backups;
                backups.into_iter().map(|backup| backup.label).max().ok_or_else(|| {
                    crate::failure::Failure::usage(
                        "the repository holds no backup",
                        "take one with `cellar backup --from CELL`",
                    )
                })?
            }
        };
        let backup = call(&target, || {
            let mut client = client.clone();
            let request = GetBackupRequest { database: database.clone(), label: label.clone() };
            async move { client.get_backup(request).await }
        })
        .await?;
        match global.output {
            Form::Json => output::json(&backup),
            Form::Human => output::print(&render_one(&backup)),
        }
    }
}
