//! `cellar settings`.

use cellar_api::v1::{ChangeSettingsRequest, DatabaseSettings, ListSettingsRequest};
use clap::Subcommand;

use crate::client::target::Target;
use crate::failure::{Failure, Outcome};
use crate::global::Global;
use crate::output;
use crate::render::settings::{is_restart_needed, render};

/// PostgreSQL's settings of a database: list, set, unset
///
/// They are the same in every member, also in one that is restored, rebuilt or added later. The primary's PostgreSQL is asked
/// whether it takes them before anything is changed. What Cellar needs itself is refused.
#[derive(Debug, Subcommand)]
pub(crate) enum Settings {
    /// Show what the database was given, and what is in force in each member
    #[command(after_help = "Example:
  cellar settings list")]
    List,
    /// Give the database settings
    ///
    /// Most are in force at once. Others wait for a restart, which `cellar restart --rolling` does.
    #[command(after_help = "Examples:
  cellar settings set work_mem=32MB
  cellar settings set max_connections=300 shared_buffers=1GB")]
    Set {
        /// Name and value as in postgresql.conf, without quotes
        #[arg(value_name = "NAME=VALUE", required = true, value_parser = pair)]
        settings: Vec<(String, String)>,
    },
    /// Take settings away: they have Cellar's value again, or PostgreSQL's
    #[command(after_help = "Example:
  cellar settings unset work_mem")]
    Unset {
        /// Their names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
    },
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("give NAME=VALUE")?;
    // Spaces in a value may be meant: `log_line_prefix='%m [%p] '`. Those around a = with spaces before it are not.
    let value = if name.ends_with(' ') { value.trim_start() } else { value };
    let name = name.trim();
    if name.is_empty() {
        return Err("the name is missing before =".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

async fn change(global: &Global, request: ChangeSettingsRequest) -> Outcome {
    let target = Target::of(global).await?;
    let call =
        async |mut client: crate::client::target::Client, request| client.change_settings(request).await;
    let answer = target.call(request, call).await?;
    global.output.print(&answer, render)?;
    if is_restart_needed(&answer) {
        output::note(
            "some wait for a restart: `cellar restart --rolling` restarts one member after the other",
        );
    }
    Ok(())
}

/// What the database was given, and how far its members are.
pub(crate) async fn list(global: &Global, target: &Target) -> Outcome<DatabaseSettings> {
    let request = ListSettingsRequest { database: global.database() };
    target.call(request, async |mut client, request| client.list_settings(request).await).await
}

impl Settings {
    pub(crate) async fn run(self, global: &Global) -> Outcome {
        match self {
            Self::List => {
                let target = Target::of(global).await?;
                global.output.print(&list(global, &target).await?, render)
            }
            Self::Set { settings } => {
                let count = settings.len();
                let set: std::collections::BTreeMap<String, String> = settings.into_iter().collect();
                if set.len() != count {
                    return Err(Failure::usage("a setting is given twice".to_owned(), "give each once"));
                }
                change(global, ChangeSettingsRequest { database: global.database(), set, unset: Vec::new() })
                    .await
            }
            Self::Unset { names } => {
                let request = ChangeSettingsRequest {
                    database: global.database(),
                    unset: names,
                    ..ChangeSettingsRequest::default()
                };
                change(global, request).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_may_hold_anything_behind_the_first_sign() {
        let read = |text: &str| pair(text).unwrap();
        assert_eq!(read("work_mem = 4MB"), ("work_mem".to_owned(), "4MB".to_owned()));
        assert_eq!(read("a.b=x=y z"), ("a.b".to_owned(), "x=y z".to_owned()));
        assert_eq!(read("log_line_prefix=%m [%p] ").1, "%m [%p] ", "spaces may be meant");
        assert_eq!(read("search_path="), ("search_path".to_owned(), String::new()));
        assert!(pair("work_mem").is_err() && pair("=1").is_err());
    }
}
