//! `cellar pause` and `cellar resume`.

use cellar_api::v1::{DatabaseView, PauseDatabaseRequest, ResumeDatabaseRequest};
use clap::Args;

use crate::client::target::Target;
use crate::failure::Outcome;
use crate::global::Global;
use crate::render::units;

/// Let nothing be done by itself while you work on a database
///
/// No failover begins, a PostgreSQL that ends is not started again, a standby's data is not replaced, no scheduled job begins.
/// What is asked for by command works as ever: `cellar switchover`, backups, restores. Safety is not paused: a primary that was
/// replaced stops. Certificates are renewed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cellar pause --reason 'new disks in zone1'
  cellar resume")]
pub(crate) struct Pause {
    /// Why, for others to read
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// End a pause: what waited for it is done now
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cellar resume")]
pub(crate) struct Resume {}

fn render(view: &DatabaseView) -> String {
    let database = view.database.clone().unwrap_or_default();
    match &database.pause {
        Some(pause) => format!(
            "database {} is paused since {} by {}: nothing is done by itself; `cellar resume` ends that\n",
            database.name,
            units::time(pause.since.as_ref()),
            pause.by
        ),
        None => format!("database {} is not paused\n", database.name),
    }
}

impl Pause {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = PauseDatabaseRequest { database: global.database(), reason: self.reason };
        let target = Target::of(global).await?;
        let call = target.call(request, async |mut client, request| client.pause_database(request).await);
        global.output.print(&call.await?, render)
    }
}

impl Resume {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        let request = ResumeDatabaseRequest { database: global.database() };
        let target = Target::of(global).await?;
        let call = target.call(request, async |mut client, request| client.resume_database(request).await);
        global.output.print(&call.await?, render)
    }
}
