//! The kinds of store.

/// A kind of store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreKind {
    /// Amazon S3, and what speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// A directory of a host with an SSH server.
    Sftp,
}

impl StoreKind {
    /// What a URL begins with; the value of pgBackRest's `repo-type`, too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Azure => "azure",
            Self::Gcs => "gcs",
            Self::Sftp => "sftp",
        }
    }

    pub(crate) fn of(text: &str) -> Option<Self> {
        [Self::S3, Self::Azure, Self::Gcs, Self::Sftp].into_iter().find(|kind| kind.as_str() == text)
    }
}
