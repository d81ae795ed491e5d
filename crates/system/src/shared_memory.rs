//! Shared memory of System V, which outlives the processes that made it.

use std::io;
use std::process::{Command, Stdio};

use procfs::{Current, SharedMemorySegments};

use crate::service_manager::SERVICE_MANAGER_VARIABLES;

/// Removes a segment that nobody uses any more. False when there is no such segment, another process has made it, or
/// some process still uses it: numbers are given again.
///
/// # Errors
/// When `/proc` cannot be read, or this user may not remove it.
pub fn remove_shared_memory(id: u64, key: i32, made_by: i32) -> io::Result<bool> {
    let segments = SharedMemorySegments::current().map_err(io::Error::other)?;
    let is_unused = segments.0.iter().any(|segment| {
        segment.shmid == id && segment.key == key && segment.cpid == made_by && segment.nattch == 0
    });
    if !is_unused {
        return Ok(false);
    }
    // The call itself is not in the safe part of any library that we use.
    let mut command = Command::new("ipcrm");
    for name in SERVICE_MANAGER_VARIABLES {
        command.env_remove(name);
    }
    let status = command.args(["-m", &id.to_string()]).stderr(Stdio::null()).status()?;
    if status.success() { Ok(true) } else { Err(io::Error::other(format!("ipcrm ended with {status}"))) }
}
