//! Logs on stderr; the program that started the daemon decides where they go.

use tracing_subscriber::EnvFilter;

/// Begins logging. `CELLAR_LOG` filters (`info` when unset), `CELLAR_LOG_FORMAT=json` makes every
/// line a JSON object.
pub fn init_logging() {
    let filter = EnvFilter::try_from_env("CELLAR_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // A second initialisation (tests in one process) is harmless and keeps the first.
    let _ = if std::env::var("CELLAR_LOG_FORMAT").as_deref() == Ok("json") {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
}
