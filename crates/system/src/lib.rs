//! What multiadmin and multipooler share as daemons: an OS user, a pid file, logs, signals.

pub mod clock;
mod log;
mod pid_file;
mod signal;
mod user;

pub use log::init_logging;
pub use pid_file::{PidFile, PidFileError, running_pid};
pub use signal::shutdown_requested;
pub use user::{OsUser, UserError, become_user};
