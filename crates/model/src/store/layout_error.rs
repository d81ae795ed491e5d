//! Why directories and ports cannot be as they were asked for.

use std::path::PathBuf;

/// Longest path of a unix socket on Linux: `sun_path` has 108 bytes, one of them the final NUL.
pub const SOCKET_PATH_LIMIT: usize = 107;

/// An arrangement that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The port would be above 65535.
    #[error("port {base} + {index} + offset {offset} is above 65535: choose a smaller --port-offset")]
    PortTooHigh {
        /// First port of its kind.
        base: u16,
        /// Cell index.
        index: u32,
        /// Offset.
        offset: u32,
    },
    /// PostgreSQL could not bind its socket.
    #[error(
        "the unix socket path {path} is {length} bytes long and Linux allows {SOCKET_PATH_LIMIT}: choose a shorter directory (--dir)"
    )]
    SocketPathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
    /// Paths become text in configuration files.
    #[error("the path {0:?} is not valid UTF-8: choose another directory")]
    PathNotText(PathBuf),
    /// They stand in files and commands that would misread it.
    #[error("the path {path:?} cannot be used: {reason}; choose another directory")]
    PathMisread {
        /// The path.
        path: String,
        /// What is the matter with it.
        reason: &'static str,
    },
}
