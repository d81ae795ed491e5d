//! `cellar backups`.

use cellar_api::v1::{Backup, GetBackupRequest, ListBackupsRequest, ListBackupsResponse};
use cellar_model::BackupLabel;
use clap::Subcommand;

use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::render::facts::{NOTHING, lines};
use crate::render::table::Table;
use crate::render::words::type_word;
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

/// Whether it is proven where the files came from.
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
    let range = |from: &str, to: &str| format!("{} to {}", or_nothing(from), or_nothing(to));
    let facts = vec![
        ("type", type_word(backup.r#type()).to_owned()),
        ("based on", or_nothing(backup.prior.as_deref().unwrap_or_default())),
        ("from cell", or_nothing(&backup.cell)),
        ("recorded source", standby.to_owned()),
        ("proof", provenance(backup).to_owned()),
        ("job", or_nothing(&backup.job)),
        ("started", or_nothing(&units::time(backup.start_time.as_ref()))),
        ("ended", or_nothing(&units::time(backup.stop_time.as_ref()))),
        ("took", units::took(backup.start_time.as_ref(), backup.stop_time.as_ref())),
        ("database", units::size(backup.size_bytes)),
        ("added", units::size(backup.repo_bytes)),
        ("WAL positions", range(&backup.start_lsn, &backup.stop_lsn)),
        ("WAL segments", range(&backup.wal_start, &backup.wal_stop)),
        ("last drill", drill::full(backup.last_drill.as_ref())),
    ];
    format!("backup {}\n{}", backup.label, lines(facts))
}

async fn list(target: &Target, database: &str) -> Outcome<ListBackupsResponse> {
    let request = ListBackupsRequest { database: database.to_owned() };
    target.call(request, async |mut client, request| client.list_backups(request).await).await
}

async fn newest(target: &Target, database: &str) -> Outcome<String> {
    let backups = list(target, database).await?.backups;
    backups.into_iter().map(|backup| backup.label).max().ok_or_else(|| {
        Failure::usage("the repository holds no backup", "take one with `cellar backup --from CELL`")
    })
}

impl Backups {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let target = Target::of(global).await?;
        let database = global.database();
        let label = match self {
            Self::List => return global.output.print(&list(&target, &database).await?, render_list),
            Self::Show { label: Wanted::Label(label) } => label.to_string(),
            Self::Show { label: Wanted::Latest } => newest(&target, &database).await?,
        };
        let request = GetBackupRequest { database, label };
        let backup =
            target.call(request, async |mut client, request| client.get_backup(request).await).await?;
        global.output.print(&backup, render_one)
    }
}
