//! `cellar`: what a person types. Local clusters, backups, jobs and cells.

mod arguments;
mod client;
mod commands;
mod failure;
mod local;
mod output;
mod question;
mod render;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use crate::arguments::Arguments;
use crate::failure::Failure;

/// Diagnostics of the libraries; what a person needs to know is told without them.
fn init_tracing() {
    let filter = EnvFilter::try_from_env("CELLAR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(output::is_colored())
        .without_time()
        .try_init();
}

/// clap's own answers: help and version are data, all else is a usage error with exit code 2.
fn answer(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => output::print(&error.render().to_string())
            .map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS),
        _ => {
            // A broken stderr has nobody to tell it to.
            let _ = error.print();
            ExitCode::from(2)
        }
    }
}

fn main() -> ExitCode {
    cellar_tls::install_ring_provider();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return answer(&error),
    };
    init_tracing();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::Io { what: "start".to_owned(), source: error }.report(),
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = commands::run(arguments) => result,
            _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted { job: client::follow::current_job() }),
        }
    });
    // A blocking task that still runs (a lookup, a disk) must not keep the terminal.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
