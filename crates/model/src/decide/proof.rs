//! The proof that a backup came from the cell that was named.
//!
//! The repo names no source host. What proves the source is pgBackRest's detail
//! log, which names for every file the host (none for a local file) and path it
//! was copied from, together with `option-backup-standby` in `backup.info`.
//! These are facts that pgBackRest writes about what it did; annotations are
//! claims that we make, and prove nothing.

/// One `backup file` line of the log, reduced to what the proof needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyCount {
    /// Files without host prefix whose path lies in the named cell's data directory.
    pub local_inside: u64,
    /// Files without host prefix from anywhere else: another instance on this host.
    pub local_outside: u64,
    /// Files with the primary's host prefix that pgBackRest must take from the primary.
    pub from_primary_required: u64,
    /// Files with a host prefix that only the standby should have supplied.
    pub remote_data: u64,
    /// Warnings that a configured host could not be checked.
    pub unable_to_check: u64,
    /// Lines that name a copied file in a form that is not understood.
    pub not_understood: u64,
}

/// What the log and `backup.info` say, and what they should say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The log's counts.
    pub copied: CopyCount,
    /// `option-backup-standby` in `backup.info`.
    pub option_backup_standby: bool,
    /// Whether a standby was named; otherwise the primary itself, and every file is local.
    pub standby: bool,
    /// Files that `backup.info`/the log say were copied in all; a truncated log shows as a difference.
    pub expected_files: Option<u64>,
}

/// Why the source is not proven.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofFailure {
    /// Files came from another directory on this host.
    #[error("{0} files were copied from another directory than the named cell's data directory")]
    OutsideDirectory(u64),
    /// Data files came over the network.
    #[error("{0} data files were copied from another host than the named cell")]
    FromElsewhere(u64),
    /// pgBackRest skipped a host.
    #[error("pgBackRest could not check {0} of the hosts it was given")]
    HostSkipped(u64),
    /// The repo does not record a backup from a standby.
    #[error("backup.info does not record option-backup-standby")]
    NotFromStandby,
    /// The repo records a backup from a standby where the primary was named.
    #[error("backup.info records option-backup-standby though the primary was named")]
    NotFromPrimary,
    /// pg_control must come from the primary, and no line says so.
    #[error("no file was copied from the primary, though pg_control must have been")]
    NothingFromPrimary,
    /// Nothing local was copied.
    #[error("no file was copied from the named cell's data directory")]
    NothingCopied,
    /// Some lines could not be read.
    #[error("{0} lines of pgBackRest's log name a copied file in an unknown form")]
    NotUnderstood(u64),
    /// The log is not complete.
    #[error("the log names {seen} copied files, pgBackRest says that there were {expected}")]
    Incomplete {
        /// Lines seen.
        seen: u64,
        /// Files copied.
        expected: u64,
    },
}

/// Checks the source of a backup.
///
/// # Errors
/// The first piece of evidence against it.
pub fn prove(proof: &Proof) -> Result<(), ProofFailure> {
    let c = proof.copied;
    if c.not_understood > 0 {
        return Err(ProofFailure::NotUnderstood(c.not_understood));
    }
    if c.local_outside > 0 {
        return Err(ProofFailure::OutsideDirectory(c.local_outside));
    }
    if c.remote_data > 0 {
        return Err(ProofFailure::FromElsewhere(c.remote_data));
    }
    if c.unable_to_check > 0 {
        return Err(ProofFailure::HostSkipped(c.unable_to_check));
    }
    let seen = c.local_inside + c.from_primary_required;
    if let Some(expected) = proof.expected_files.filter(|expected| *expected != seen) {
        return Err(ProofFailure::Incomplete { seen, expected });
    }
    if proof.standby {
        if !proof.option_backup_standby {
            return Err(ProofFailure::NotFromStandby);
        }
        if c.from_primary_required == 0 {
            return Err(ProofFailure::NothingFromPrimary);
        }
    } else {
        if proof.option_backup_standby {
            return Err(ProofFailure::NotFromPrimary);
        }
        if c.from_primary_required > 0 {
            return Err(ProofFailure::FromElsewhere(c.from_primary_required));
        }
        if c.local_inside == 0 {
            return Err(ProofFailure::NothingCopied);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standby() -> Proof {
        Proof {
            copied: CopyCount { local_inside: 956, from_primary_required: 7, ..CopyCount::default() },
            option_backup_standby: true,
            standby: true,
            expected_files: None,
        }
    }

    #[test]
    fn clean_standby_backup_is_proven() {
        assert_eq!(prove(&standby()), Ok(()));
        // An incremental of an idle standby may copy nothing but what the primary must supply.
        let mut idle = standby();
        idle.copied.local_inside = 0;
        assert_eq!(prove(&idle), Ok(()));
    }

    #[test]
    fn each_piece_of_evidence_counts() {
        let spoiled = |change: fn(&mut Proof)| {
            let mut proof = standby();
            change(&mut proof);
            prove(&proof)
        };
        assert_eq!(spoiled(|p| p.copied.local_outside = 1), Err(ProofFailure::OutsideDirectory(1)));
        assert_eq!(spoiled(|p| p.copied.remote_data = 2), Err(ProofFailure::FromElsewhere(2)));
        assert_eq!(spoiled(|p| p.copied.unable_to_check = 1), Err(ProofFailure::HostSkipped(1)));
        assert_eq!(spoiled(|p| p.copied.not_understood = 1), Err(ProofFailure::NotUnderstood(1)));
        assert_eq!(spoiled(|p| p.option_backup_standby = false), Err(ProofFailure::NotFromStandby));
        assert_eq!(spoiled(|p| p.copied.from_primary_required = 0), Err(ProofFailure::NothingFromPrimary));
        assert_eq!(
            spoiled(|p| p.expected_files = Some(964)),
            Err(ProofFailure::Incomplete { seen: 963, expected: 964 })
        );
    }

    #[test]
    fn backup_of_the_primary_has_no_other_source() {
        let mut proof = standby();
        proof.standby = false;
        assert_eq!(prove(&proof), Err(ProofFailure::NotFromPrimary));
        proof.option_backup_standby = false;
        assert_eq!(prove(&proof), Err(ProofFailure::FromElsewhere(7)));
        proof.copied.from_primary_required = 0;
        assert_eq!(prove(&proof), Ok(()));
    }
}
