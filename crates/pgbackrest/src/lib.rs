//! pgBackRest: its configuration, its command line, and what its output means.
//!
//! Everything but [`Pgbackrest`], [`Running`], [`read_passphrase`], [`Credentials`] and what looks at a repository's files on this host is a
//! pure function of text.

mod command;
mod config;
mod config_check;
mod copied_file;
mod credentials;
mod detail_log;
mod error;
mod exit_code;
mod expire_log;
mod info;
mod invocation;
mod log_line;
mod passphrase;
mod private_file;
mod process;
mod repo_file;
mod repo_list;
mod repository;
mod session_options;
mod tool_error;
mod verify_report;
mod versions;
mod watched;

pub use command::{Output, Pgbackrest};
pub use config::{ConfigInput, accepted_names, render_bootstrap, render_full, render_job, render_job_for};
pub use config_check::ConfigError;
pub use credentials::{Credentials, CredentialsError, is_credential_variable};
pub use detail_log::{BackupTotals, DetailLog, Ended, PrimarySource};
pub use error::Error;
pub use exit_code::{CLOCK, ExitClass, LOCK_ACQUIRE, class_of, code_of_type, hint_for, name_of};
pub use expire_log::{Expiry, archived_segment, parse_expiry};
pub use info::{ArchiveInfo, BackupInfo, DatabaseInfo, StanzaInfo, StanzaStatus, parse_info};
pub use invocation::{Invocation, RestoreOptions};
pub use log_line::{LogLevel, LogLine};
pub use passphrase::{PassphraseError, read_passphrase};
pub use private_file::PrivateFileError;
pub use process::Running;
pub use repo_file::{BackupRecord, ManifestCount, count_manifest, parse_backup_record};
pub use repo_list::{RepoEntry, parse_listing};
pub use repository::{
    LOST_INFO_HINT, is_half_made, is_out_of_reach, lost_info, move_half_made_stanza_aside, names_info,
    needed_version,
};
pub use tool_error::{Failure, ToolMessage, printable, tool_messages};
pub use verify_report::{Verification, parse_verification};
pub use versions::{Behaviour, DIFFERENCES, Difference, NEWEST_TESTED, Version, VersionError};
