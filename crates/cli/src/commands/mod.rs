//! The commands, one a file.

pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod backups;
pub(crate) mod cells;
pub(crate) mod certs;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod down;
pub(crate) mod drill;
pub(crate) mod env;
pub(crate) mod exec;
pub(crate) mod expire;
pub(crate) mod jobs;
pub(crate) mod rebuild;
pub(crate) mod restore;
pub(crate) mod schedules;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod verify;

use crate::arguments::{Arguments, Command};
use crate::failure::Outcome;

/// Runs the command.
pub(crate) async fn run(arguments: Arguments) -> Outcome {
    let Arguments { global, command } = arguments;
    match command {
        Command::Up(command) => command.run(&global).await,
        Command::Down(command) => command.run(&global).await,
        Command::Status(command) => command.run(&global).await,
        Command::Backup(command) => command.run(&global).await,
        Command::Backups(command) => command.run(&global).await,
        Command::Jobs(command) => command.run(&global).await,
        Command::Rebuild(command) => command.run(&global).await,
        Command::Restore(command) => command.run(&global).await,
        Command::Drill(command) => command.run(&global).await,
        Command::Verify(command) => command.run(&global).await,
        Command::Expire(command) => command.run(&global).await,
        Command::Check(command) => command.run(&global).await,
        Command::Schedules(command) => command.run(&global).await,
        Command::Audit(command) => command.run(&global).await,
        Command::Cells(command) => command.run(&global).await,
        Command::Certs(command) => command.run(&global).await,
        Command::Config(command) => command.run(&global),
        Command::Env => env::run(&global).await,
        Command::Exec(command) => command.run(&global).await,
        Command::Doctor => doctor::run(&global).await,
        Command::Completions(command) => command.run(),
    }
}

/// The database's name as requests take it: empty stands for the only one.
pub(crate) fn database(global: &crate::arguments::Global) -> String {
    global.database.as_ref().map(ToString::to_string).unwrap_or_default()
}
