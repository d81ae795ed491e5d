//! PgBouncer beside an instance: it pools the connections of applications, and can have them wait.
//!
//! | file | what is in it |
//! |---|---|
//! | `config` | its two files |
//! | `console` | what it is told over its unix socket |
//! | `daemon` | its process, which outlives the one that started it |

mod config;
mod console;
mod daemon;

pub use config::{PoolConfig, render_pool_users};
pub use console::PoolConsole;
pub use daemon::{PoolDaemon, find_pgbouncer};
