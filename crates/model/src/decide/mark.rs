//! The mark that a proof writes on a backup.

use crate::records::backup::BackupLabel;
use crate::records::job::id::JobId;
use crate::records::job::run::JobState;

/// What the repo's annotation `cellar-proof` says of a backup.
///
/// The proof writes it, so a backup without it counts as not proven, whatever its job became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    /// No proof has ended: made by hand, made by a job that was killed, or older than the mark.
    #[default]
    None,
    /// The proof succeeded.
    Proven,
    /// The proof failed, or the job that made the backup did not succeed.
    Unproven,
}

impl Mark {
    /// The annotation's value for a backup whose proof failed. That of a proven one is its job's id.
    pub const UNPROVEN: &'static str = "unproven";

    /// Reads the annotation. The mark of a proven backup names the job that made it, as `cellar-job` does.
    #[must_use]
    pub fn read(proof: Option<&str>, job: Option<&str>) -> Self {
        match proof {
            Some(Self::UNPROVEN) => Self::Unproven,
            Some(value) if value.parse::<JobId>().is_ok() && Some(value) == job => Self::Proven,
            _ => Self::None,
        }
    }

    /// The mark of a backup that has none, from the job that made it, if that has ended: its state, and the backup that
    /// its result says is proven.
    ///
    /// Backups that are older than the mark are proven by their job's record, for as long as it is kept.
    #[must_use]
    pub fn from_job(label: &BackupLabel, state: JobState, proven: Option<&BackupLabel>) -> Self {
        match proven.filter(|proven| *proven == label) {
            Some(_) if state.is_terminal() => Self::Proven,
            _ if state.is_terminal() && state != JobState::Succeeded => Self::Unproven,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_counts_as_proven_by_the_mark_of_its_own_proof_only() {
        let id = "0f5d9c7e-7e0c-4a3c-9a55-3f0a53d8a001";
        assert_eq!(Mark::read(Some(id), Some(id)), Mark::Proven);
        for (proof, job) in [
            (Some("yes"), Some(id)),
            (Some(""), Some("")),
            (Some(id), None),
            (Some(id), Some("0f5d9c7e-7e0c-4a3c-9a55-3f0a53d8a002")),
        ] {
            assert_eq!(Mark::read(proof, job), Mark::None, "{proof:?} {job:?}");
        }
        assert_eq!(Mark::read(None, Some(id)), Mark::None);
        assert_eq!(Mark::read(Some("unproven"), Some(id)), Mark::Unproven);
    }
}
