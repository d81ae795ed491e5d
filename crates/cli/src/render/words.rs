//! One word for each kind and state that the API has as an enum.

use cellar_api::v1::{BackupType, InstanceState, JobKind, JobState, Role};

/// A kind of job: its name in the API, `JOB_KIND_BACKUP`, as a word.
pub(crate) fn kind_word(kind: JobKind) -> String {
    match kind {
        JobKind::Unspecified => "job".to_owned(),
        kind => kind.as_str_name().trim_start_matches("JOB_KIND_").to_lowercase(),
    }
}

/// A job's state.
pub(crate) fn state_word(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Canceled => "canceled",
        JobState::Lost => "lost",
        JobState::Unspecified => "unknown",
    }
}

/// A type of backup.
pub(crate) fn type_word(of: BackupType) -> &'static str {
    match of {
        BackupType::Full => "full",
        BackupType::Diff => "diff",
        BackupType::Incr => "incr",
        BackupType::Unspecified => "unknown",
    }
}

/// A role in the replication group.
pub(crate) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Primary => "primary",
        Role::Standby => "standby",
    }
}

/// The state of a cell's PostgreSQL instance.
pub(crate) fn instance_word(state: InstanceState) -> &'static str {
    match state {
        InstanceState::Unknown => "unknown",
        InstanceState::Waiting => "waiting",
        InstanceState::Seeding => "seeding",
        InstanceState::Starting => "starting",
        InstanceState::Running => "running",
        InstanceState::Down => "down",
        InstanceState::Broken => "broken",
    }
}
