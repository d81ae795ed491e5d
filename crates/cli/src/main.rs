//! `cellar`, the command line: local clusters, backups, jobs and cells.

mod arguments;
mod bundle;
mod client;
mod commands;
mod failure;
mod global;
mod local;
mod output;
mod question;
mod render;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use cellar_model::DatabaseName;
use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use crate::arguments::Arguments;
use crate::failure::Failure;

/// Diagnostics of the libraries, off stdout. What the command itself reports does not go through them.
fn init_tracing() {
    let filter = EnvFilter::try_from_env("CELLAR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::is_colored())
        .without_time()
        .try_init();
}

/// Reports why the command failed, and gives its exit code. Where a database was named, commands in hints name it, too.
fn fail(failure: &Failure, database: Option<&DatabaseName>) -> ExitCode {
    output::report(failure, database);
    ExitCode::from(failure.exit_code())
}

/// Prints clap's own answers: help and version are data, all else is a usage error with exit code 2.
fn print_usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::print(&error.render().to_string())
            .map_or_else(|failure| fail(&failure, None), |()| ExitCode::SUCCESS),
        _ => {
            // That stderr is closed cannot be reported anywhere.
            let _ = error.print();
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    cellar_tls::install_ring_provider();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return print_usage(&error),
    };
    init_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Io { what: "start".to_owned(), source: error }, None),
    };
    let database = arguments.global.database.clone();
    let result = runtime.block_on(async {
        tokio::select! {
            result = arguments.run() => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted { job: client::follow::current_job(), request: client::submit::last_request() }),
        }
    });
    // A blocking task that still runs (a name lookup, a disk) must not keep the command from ending.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure, database.as_ref()),
    }
}
