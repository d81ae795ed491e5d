//! What Cellar's programs ask of the operating system, each thing once: files that are written as a whole, locks, logs,
//! processes, users, addresses, signals, time. It knows nothing of clusters, and every other crate may use it.

mod atomic_file;
pub mod clock;
mod confine;
mod directory;
mod file_id;
mod listen;
mod lock;
mod log;
mod log_file;
mod log_limit;
mod mounts;
mod new_directory;
mod owner;
mod pid_file;
mod port;
mod process;
mod service_manager;
mod shared_memory;
mod signal;
mod user;

pub use atomic_file::{AtomicFile, Draft, rename, sync_directory};
pub use confine::{FileAccess, PresentFiles, confine, confine_writes};
pub use directory::OpenDirectory;
pub use file_id::{FileId, is_inside, is_same_place};
pub use listen::{addresses_of, has_address, is_dual_stack};
pub use lock::{FileLock, LockError};
pub use log::init_logging;
pub use log_file::{last_lines, last_lines_of, open_log, open_to_read, read_text};
pub use log_limit::{MAX_LOG_BYTES, limit_log, limit_logs, logs_in, old_log};
pub use mounts::{is_mount_point, mount_points};
pub use new_directory::create_directory;
pub use owner::Owner;
pub use pid_file::{PidFile, PidFileError, recorded_pid, running_pid};
pub use port::listeners;
pub use process::{Process, available_memory};
pub use service_manager::{
    LoopPulse, SERVICE_MANAGER_VARIABLES, Watchdog, tell_ready, tell_stopping, tell_waiting,
};
pub use shared_memory::remove_shared_memory;
pub use signal::shutdown_requested;
pub use user::{OsUser, UserError, become_user};
