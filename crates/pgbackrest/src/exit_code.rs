//! pgBackRest's exit codes: which class of failure each is, its name, and what to do.

/// A class of outcome, named after gRPC's status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitClass {
    /// It worked.
    Ok,
    /// The command or its options make no sense.
    InvalidArgument,
    /// The system is not in the state that the command needs.
    FailedPrecondition,
    /// A file, path or backup is not there.
    NotFound,
    /// Another process holds the stanza's lock.
    Aborted,
    /// A host or service could not be reached; trying again may help.
    Unavailable,
    /// It did not happen in time.
    DeadlineExceeded,
    /// It was told to stop.
    Cancelled,
    /// It may not do this.
    PermissionDenied,
    /// Certificates or keys were not accepted.
    Unauthenticated,
    /// Something stored is damaged.
    DataLoss,
    /// Memory ran out.
    ResourceExhausted,
    /// Anything else.
    Internal,
}

/// Upstream's table of error codes; a type in a log is its name in camel case with `Error` behind it.
const NAMES: &[(u8, &str)] = &[
    (25, "assert"),
    (26, "checksum"),
    (27, "config"),
    (28, "file-invalid"),
    (29, "format"),
    (30, "command-required"),
    (31, "option-invalid"),
    (32, "option-invalid-value"),
    (37, "option-required"),
    (38, "pg-running"),
    (39, "protocol"),
    (40, "path-not-empty"),
    (41, "file-open"),
    (42, "file-read"),
    (43, "param-required"),
    (44, "archive-mismatch"),
    (45, "archive-duplicate"),
    (46, "version-not-supported"),
    (47, "path-create"),
    (48, "command-invalid"),
    (49, "host-connect"),
    (50, "lock-acquire"),
    (51, "backup-mismatch"),
    (52, "file-sync"),
    (53, "path-open"),
    (54, "path-sync"),
    (55, "file-missing"),
    (56, "db-connect"),
    (57, "db-query"),
    (58, "db-mismatch"),
    (60, "file-remove"),
    (61, "path-remove"),
    (62, "stop"),
    (63, "term"),
    (64, "file-write"),
    (67, "feature-not-supported"),
    (68, "archive-command-invalid"),
    (69, "link-expected"),
    (70, "link-destination"),
    (72, "host-invalid"),
    (73, "path-missing"),
    (74, "file-move"),
    (75, "backup-set-invalid"),
    (76, "tablespace-map"),
    (78, "link-map"),
    (79, "file-close"),
    (80, "db-missing"),
    (81, "db-invalid"),
    (82, "archive-timeout"),
    (83, "file-mode"),
    (87, "archive-disabled"),
    (88, "file-owner"),
    (89, "user-missing"),
    (93, "file-exists"),
    (94, "memory"),
    (95, "crypto"),
    (96, "param-invalid"),
    (97, "path-close"),
    (98, "file-info"),
    (99, "json-format"),
    (100, "kernel"),
    (101, "service"),
    (102, "execute"),
    (103, "repo-invalid"),
    (104, "command"),
    (105, "access"),
    (106, "clock"),
    (122, "runtime"),
    (124, "unhandled"),
    (125, "unknown"),
];

/// The exit code of a command whose hosts could all not be used; its cause is in a warning before it.
pub(crate) const DB_CONNECT: u8 = 56;

/// The exit code of a file whose checksum is not what it should be.
pub(crate) const CHECKSUM: u8 = 26;

/// The exit code of a file that cannot be read, and of a store that does not answer.
pub(crate) const FILE_READ: u8 = 42;

/// Exit code of a command that another one keeps from its work: they share a lock.
pub const LOCK_ACQUIRE: u8 = 50;

/// The exit code when a new backup's label would not be the latest.
pub const CLOCK: u8 = 106;

/// The exit code of failed cryptography, be it of a certificate or of a repository.
pub(crate) const CRYPTO: u8 = 95;

/// The class of an exit code.
#[must_use]
pub fn class_of(code: u8) -> ExitClass {
    match code {
        0 => ExitClass::Ok,
        31 | 32 | 37 | 43 | 48 | 76 | 78 | 80 | 81 | 96 => ExitClass::InvalidArgument,
        27 | 38 | 39 | 40 | 44 | 46 | 51 | 58 | 62 | 67 | 68 | 72 | 87 | 93 | 103 | 106 => {
            ExitClass::FailedPrecondition
        }
        55 | 73 | 75 => ExitClass::NotFound,
        LOCK_ACQUIRE => ExitClass::Aborted,
        49 | DB_CONNECT | 101 => ExitClass::Unavailable,
        82 => ExitClass::DeadlineExceeded,
        63 => ExitClass::Cancelled,
        42 | 105 => ExitClass::PermissionDenied,
        CRYPTO => ExitClass::Unauthenticated,
        26 | 28 | 29 | 45 | 99 => ExitClass::DataLoss,
        94 => ExitClass::ResourceExhausted,
        _ => ExitClass::Internal,
    }
}

/// pgBackRest's name of an exit code, such as `db-connect`.
#[must_use]
pub fn name_of(code: u8) -> Option<&'static str> {
    NAMES.iter().find(|(known, _)| *known == code).map(|(_, name)| *name)
}

/// The exit code of an error type as logs print it, such as `HostConnectError`.
#[must_use]
pub fn code_of_type(error_type: &str) -> Option<u8> {
    let camel = error_type.strip_suffix("Error")?;
    let mut name = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(c.to_ascii_lowercase());
    }
    NAMES.iter().find(|(_, known)| *known == name).map(|(code, _)| *code)
}

/// What a person can do about an exit code; empty when nothing useful can be said.
#[must_use]
pub fn hint_for(code: u8) -> &'static str {
    match code {
        26 | 28 | 29 | 99 => "a file of the repository is damaged: run a verify and take a new full backup",
        38 => "stop PostgreSQL in that data directory first",
        // Also what a session says that is ended in the middle (measured with 2.45).
        39 => {
            "the session to the other cell was cut, as when a certificate is revoked: ask again; if it fails every time, install the same version of pgBackRest on every host and restart its TLS servers"
        }
        // Measured with 2.45: also after the newest full backup was expired by name, until the next full one.
        CLOCK => {
            "a later backup was in the repository once, or the clock was set back: take a full backup (`--type full`)"
        }
        40 => "restore into an empty directory, or repeat an interrupted restore with --delta",
        42 => "the TLS key must belong to the user that runs pgBackRest, with mode 0600",
        58 => {
            "the backup does not lead to the timeline that was asked for, or the data directory is another than the config names"
        }
        44 | 51 => {
            "the stanza belongs to another instance or version of PostgreSQL: check the data directory and the repository"
        }
        45 => "another instance archives into the same stanza: find it and stop its archiving",
        49 => "check that the host is up and its pgBackRest TLS server listens",
        LOCK_ACQUIRE => "another command holds the stanza: wait for it, or look for a worker left behind",
        55 | 73 => "create the stanza first, and check the repository's path",
        56 => "check that the instance is up and that its socket directory and port are right",
        62 => "a stop file is in the lock directory: run `pgbackrest start`",
        75 => "the backup is not in the repository: list what there is",
        82 => {
            "WAL did not reach the archive, or the standby did not replay it: look at the primary's archiver and the standby's lag"
        }
        87 => "set archive_mode=on on the primary and restart it",
        93 => "the file is there already with other content: see whether two instances share the repository",
        94 => "give the process more memory, or lower process-max",
        95 => {
            "the certificate was not accepted: check that it is valid, of the right authority, and names the host"
        }
        103 => "no repository could be used: check its path and that it can be read",
        105 => "the certificate's name or tls-server-auth does not allow this stanza",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_finds_its_code_again() {
        for (code, name) in NAMES {
            let camel: String = name
                .split('-')
                .map(|part| part[..1].to_ascii_uppercase() + &part[1..])
                .collect::<Vec<_>>()
                .concat();
            assert_eq!(code_of_type(&format!("{camel}Error")), Some(*code));
            assert_eq!(name_of(*code), Some(*name));
        }
        assert_eq!(code_of_type("Nonsense"), None);
        assert_eq!(code_of_type("NonsenseError"), None);
    }

    #[test]
    fn classes() {
        assert_eq!(class_of(0), ExitClass::Ok);
        assert_eq!(class_of(50), ExitClass::Aborted);
        assert_eq!(class_of(56), ExitClass::Unavailable);
        assert_eq!(class_of(1), ExitClass::Internal);
    }
}
