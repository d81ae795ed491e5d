//! Why a text names no repository.

/// Why a text names no repository.
///
/// What stands in a URL is never quoted, only the name of the field: a person may have put a secret there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryError {
    /// It is a path that cannot be used.
    #[error("the repository {text:?} is not usable: {reason}")]
    Path {
        /// What was given, cut to 200 characters.
        text: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// It is a URL of a kind of store that is not known.
    #[error("repositories of kind {0} are not supported: s3, azure, gcs, sftp and file are")]
    UnknownKind(String),
    /// A field of a URL cannot be used.
    #[error("the repository's URL is refused: {field}: {reason}")]
    Field {
        /// The field, such as `bucket` or `region`.
        field: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// A field of a URL looks like a secret.
    #[error(
        "the repository's URL is refused: {0} looks like a secret, and the URL is kept in etcd and shown to whoever asks; give secrets in a file (--repo-credentials-file), and withdraw this one if others may have seen it"
    )]
    Secret(&'static str),
    /// A record names no kind of store that is known.
    #[error(
        "the record has neither `repoPath` nor `repoInCell` nor `repoUrl`, and no other kind of repository is known to this version"
    )]
    Missing,
    /// A record names two.
    #[error(
        "the record has two of `repoPath`, `repoInCell` and `repoUrl`, and a database has one repository"
    )]
    TwoKinds,
}

impl RepositoryError {
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field { field: field.into(), reason: reason.into() }
    }
}
