//! Whether a member's data is a primary's: by its files, and by what its server does.
//!
//! What the supervisor saw last is not enough: a person may promote an instance at any moment, and one that does not
//! answer may accept writes all the same.

use std::path::Path;

use cellar_model::Timeline;
use cellar_postgres::{ControlData, ControlState, PostgresError, running};

/// Whether the instance of whole data is a primary, or was one when it ended. `recovers` says that there is a signal
/// file of a standby, which PostgreSQL looks at when it starts, and removes when it is promoted; somebody may have made
/// one beside a running primary.
///
/// # Errors
/// When it is not known whether the server runs.
pub(crate) fn is_primary(data: &Path, control: &ControlData, recovers: bool) -> Result<bool, PostgresError> {
    Ok(!recovers || control.state == ControlState::InProduction && running(data)?.is_some())
}

/// The newest timeline that the data knows of. A promotion writes the history of the new one before the control file
/// names it.
pub(crate) fn newest_timeline(data: &Path, control: &ControlData) -> Timeline {
    let entries = std::fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
    let histories = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        u32::from_str_radix(name.strip_suffix(".history")?, 16).ok()
    });
    histories.map(Timeline::new).fold(control.timeline, Timeline::max)
}

/// Whether somebody has asked PostgreSQL to promote the instance, and it has not done so yet.
pub(crate) fn is_being_promoted(data: &Path) -> bool {
    data.join("promote").exists()
}
