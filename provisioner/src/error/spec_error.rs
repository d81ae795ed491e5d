//! Why a cluster specification is refused.

use cellar_model::{LayoutError, PORT_SPAN, RepositoryError};

/// Why a specification is refused.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file cannot be read.
    #[error("cannot read the cluster specification {path}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("the cluster specification is not readable: {0}")]
    Syntax(String),
    /// A field breaks a rule.
    #[error("{field} {value:?} is refused: {reason}")]
    Field {
        /// The field, such as `cells[2].host`.
        field: String,
        /// The value, cut to 200 characters.
        value: String,
        /// The rule that it breaks.
        reason: String,
    },
    /// The URL of the repository is refused. It is not repeated: it may hold a secret.
    #[error("repo.url: {0}")]
    Repository(RepositoryError),
    /// Two cells cannot both be.
    #[error("{first} and {second} are both {value}")]
    Collision {
        /// One field.
        first: String,
        /// The other.
        second: String,
        /// What both are.
        value: String,
    },
    /// Too many or no cells.
    #[error("cells: {0} are given, and 1 to {PORT_SPAN} are possible")]
    CellCount(usize),
    /// A port or path does not work out.
    #[error("{field}: {source}")]
    Layout {
        /// The field.
        field: String,
        /// Why not.
        #[source]
        source: LayoutError,
    },
}
